//go:build linux && (amd64 || arm64)

package cmd_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/cmd/internal/ptrace"
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// A sentinel's run is a sequence of system calls on the volume. Tests stop the built program at each of them, and
// there kill it, look at the volume, or let something else happen. Random instants would miss most of these places.

// readLocked is a key of before.
const readLocked = "a dead run with a read lock of another process"

// before is what a sentinel may find on its volume.
var before = map[string]func(t testing.TB, dir string){
	"nothing": func(testing.TB, string) {},
	"an end": func(t testing.TB, dir string) {
		testenv.Plant(t, filepath.Join(dir, "main-terminated"), "9\n")
	},
	"a dead run": func(t testing.TB, dir string) {
		testenv.Plant(t, filepath.Join(dir, "main-running"), "running\n")
	},
	readLocked: func(t testing.TB, dir string) {
		path := filepath.Join(dir, "main-running")
		testenv.Plant(t, path, "running\n")
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK}); err != nil {
			t.Fatal(err)
		}
	},
}

// touching selects the calls on a volume whose number is the same in each run.
func touching(dir string) func(ptrace.Call) bool {
	touches := ptrace.Touching(dir)
	return func(c ptrace.Call) bool {
		// Go makes these for every file that it opens; they change nothing.
		flags := c.Name == "fcntl" && (c.Args[1] == unix.F_GETFL || c.Args[1] == unix.F_SETFL)
		// To list the same directory may take one call more or less.
		return !flags && c.Name != "getdents64" && touches(c)
	}
}

// trace runs a program to its end, and calls at before each of the selected calls.
func trace(
	t testing.TB, argv []string, selected func(ptrace.Call) bool, at func(*ptrace.Tracee, ptrace.Call),
) ptrace.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), drive.Patience)
	defer cancel()
	result, err := ptrace.Run(ctx, ptrace.Spec{Args: argv}, selected, at)
	if errors.Is(err, ptrace.ErrRefused) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// callsOf selects the calls of a sentinel that found something on its volume: a key of before.
func callsOf(dir, found string) func(ptrace.Call) bool {
	touches := touching(dir)
	if found != readLocked {
		return touches
	}
	// It tries to lock the dead run's file for 100 ms; the number of tries varies. So the calls count from the
	// place where it replaces the file.
	turn := false
	return func(c ptrace.Call) bool {
		turn = turn || c.Name == "flock"
		return turn && touches(c)
	}
}

// progress is which of the calls that matter a sentinel has made. They are recognized by what they do: their
// numbers may differ from run to run.
type progress struct {
	begun bool // the rename to main-running; if there was an end, its removal
	coded bool // the truncation after which main-running holds only the code
	ended bool // the rename to main-terminated
}

// after returns the progress of a sentinel that has made this call as well. found is what it found on its volume.
func (p progress) after(c ptrace.Call, dir, found string) progress {
	running, terminated := filepath.Join(dir, "main-running"), filepath.Join(dir, "main-terminated")
	switch {
	case c.Path2 == running && strings.HasPrefix(c.Name, "rename") && found != "an end",
		c.Path == terminated && strings.HasPrefix(c.Name, "unlink") && found == "an end":
		p.begun = true
	case c.Path == running && c.Name == "ftruncate":
		p.coded = true
	case c.Path2 == terminated && strings.HasPrefix(c.Name, "rename"):
		p.ended = true
	}
	return p
}

// traceMain runs a sentinel to its end, and calls at before each of the calls that callsOf selects. found is what
// it found on its volume.
func traceMain(
	t testing.TB, dir, found string, at func(p *ptrace.Tracee, c ptrace.Call, made progress),
) ptrace.Result {
	t.Helper()
	var made progress
	return trace(t, sentinel(dir, failing), callsOf(dir, found), func(p *ptrace.Tracee, c ptrace.Call) {
		at(p, c, made)
		made = made.after(c, dir, found)
	})
}

// steps are the calls of one run of the sentinel, and the numbers of those that matter.
type steps struct {
	calls        []ptrace.Call
	begun, ended int // see progress
}

// stepsOf runs a sentinel once, to learn its steps.
func stepsOf(t testing.TB, found string) (s steps) {
	t.Helper()
	dir := testenv.FastVolume(t)
	before[found](t, dir)
	coded := 0
	result := traceMain(t, dir, found, func(_ *ptrace.Tracee, c ptrace.Call, made progress) {
		s.calls = append(s.calls, c)
		switch now := made.after(c, dir, found); {
		case now.begun && !made.begun:
			s.begun = c.N
		case now.coded && !made.coded:
			coded = c.N
		case now.ended && !made.ended:
			s.ended = c.N
		}
	})
	if result.ExitCode != 3 || s.begun == 0 || coded <= s.begun || s.ended <= coded {
		t.Fatalf("found %s: exit code %d; of %d calls #%d is the rename to main-running, #%d the truncation, "+
			"#%d the rename to main-terminated", found, result.ExitCode, result.Calls, s.begun, coded, s.ended)
	}
	return s
}

// isWait reports whether a call waits for the end of a live run.
func isWait(c ptrace.Call) bool { return c.Name == "fcntl" && c.Args[1] == unix.F_OFD_SETLKW }
