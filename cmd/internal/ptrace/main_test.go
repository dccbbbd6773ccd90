//go:build linux && (amd64 || arm64)

package ptrace

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

func TestMain(m *testing.M) {
	modes := make(testenv.Modes)
	for name, program := range map[string]func(args []string){
		"record":   record,
		"step":     step,
		"handle":   handle,
		"exit":     exit,
		"threads":  threads,
		"parent":   parent,
		"child":    child,
		"fork":     fork,
		"leave":    leave,
		"tracer":   tracer,
		"refused":  refused,
		"somebody": somebody,
	} {
		modes[name] = func(args []string) int {
			program(args)
			return 0
		}
	}
	testenv.RunMode(modes)
	os.Exit(m.Run())
}

// must ends a program with what failed.
func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(99)
	}
}

// self is this test binary as one of its programs.
func self(name string, args ...string) Spec {
	return Spec{Args: testenv.CommandOfOthers(name, args...), Stderr: os.Stderr}
}

// untraced returns self as a command that is not traced.
func untraced(name string, args ...string) *exec.Cmd {
	argv := testenv.CommandOfOthers(name, args...)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stderr = os.Stderr
	return cmd
}

// within is a context for what ends by itself; its end is a hang.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// run runs a program that is to end by itself, and fails the test if it cannot.
func run(t *testing.T, spec Spec, sel func(Call) bool, at func(*Tracee, Call)) Result {
	t.Helper()
	r, err := Run(within(t), spec, sel, at)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// tried is the error of the simplest run.
var tried = sync.OnceValue(func() error {
	_, err := Run(context.Background(), self("exit", "code", "0"), nil, nil)
	return err
})

// parallel begins a test, which needs ptrace and runs beside others.
func parallel(t *testing.T) {
	t.Helper()
	if err := tried(); errors.Is(err, ErrRefused) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	t.Parallel()
}

// count returns how many entries a directory has.
func count(t *testing.T, dir string) int {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Error(err)
	}
	return len(entries)
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// dead fails the test if the program of a finished Run is still there, in
// whatever state.
func dead(t *testing.T, pid int) {
	t.Helper()
	if pid == 0 {
		t.Error("the program did not run")
	} else if err := unix.Kill(pid, 0); err != unix.ESRCH {
		t.Errorf("the program is still there: kill(%d, 0) = %v", pid, err)
	}
}
