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
)

// TestSignalWhileListing: SIGTERM ends a sentinel while its restart barrier lists a huge directory, and it reads little
// of the directory after that.
func TestSignalWhileListing(t *testing.T) {
	t.Parallel()
	const files = 10_000
	dir := restarted(t)
	// The barrier opens all of these files. They are hard links to the file of a sidecar for which it would wait.
	stopping(t, dir, "proxy")
	running := filepath.Join(dir, "proxy-running")
	for i := range files {
		if err := os.Link(running, filepath.Join(dir, fmt.Sprintf("%d-running", i))); err != nil {
			t.Fatal(err)
		}
	}
	opened, after := false, 0
	argv := drive.Wrap("sentinel", []string{"--dir", dir}, []string{"echo", "launched"})
	at := func(p *ptrace.Tracee, c ptrace.Call) {
		if opened {
			after++
			return
		}
		file := filepath.Base(c.Path)
		if c.Name == "openat" && file != "main-running" && strings.HasSuffix(file, "-running") {
			opened = true
			if err := p.Signal(syscall.SIGTERM); err != nil {
				t.Error(err)
			}
		}
	}
	result, err := ptrace.Run(t.Context(), ptrace.Spec{Args: argv}, ptrace.Touching(dir), at)
	if errors.Is(err, ptrace.ErrRefused) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if !opened {
		t.Error("the sentinel opened no other run's file")
	}
	if after > files {
		t.Errorf("the sentinel made %d calls after SIGTERM, at most %d are allowed", after, files)
	}
	if got := recorded(t, dir, "main"); result.ExitCode != 143 || got != "143\n" {
		t.Errorf("the sentinel ended with %d and recorded %q, want 143", result.ExitCode, got)
	}
}
