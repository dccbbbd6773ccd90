//go:build linux && (amd64 || arm64)

package main_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/cmd/internal/ptrace"
	"github.com/sentinel-shim/sentinel-shim/internal/testenv"
)

// TestSignalWhileListing: TERM ends the matter while the restart barrier looks through a huge
// directory, of which not much is read after that.
func TestSignalWhileListing(t *testing.T) {
	t.Parallel()
	const files = 10_000
	dir := restarted(t)
	// Files that are all opened: they are one, the dead file of a run.
	dead := filepath.Join(dir, "dead-running")
	testenv.Plant(t, dead, "stopping\n")
	for i := range files {
		if err := os.Link(dead, filepath.Join(dir, fmt.Sprintf("%d-running", i))); err != nil {
			t.Fatal(err)
		}
	}
	opened, after := false, 0
	argv := drive.Wrap("sentinel", []string{"--dir", dir}, []string{"echo", "launched"})
	result, err := ptrace.Run(t.Context(), ptrace.Spec{Args: argv}, ptrace.Touching(dir), func(p *ptrace.Tracee, c ptrace.Call) {
		if opened {
			after++
			return
		}
		if file := filepath.Base(c.Path); c.Name == "openat" && file != "main-running" && strings.HasSuffix(file, "-running") {
			opened = true
			if err := p.Signal(syscall.SIGTERM); err != nil {
				t.Error(err)
			}
		}
	})
	if errors.Is(err, ptrace.ErrRefused) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if !opened {
		t.Error("no file was looked into")
	}
	if after > files {
		t.Errorf("%d calls were made after TERM", after)
	}
	if got := recorded(t, dir, "main"); result.ExitCode != 143 || got != "143\n" {
		t.Errorf("it ended with %d, and recorded %q", result.ExitCode, got)
	}
}
