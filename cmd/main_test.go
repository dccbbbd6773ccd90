// Package cmd_test drives the two built programs together.
package cmd_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

func TestMain(m *testing.M) {
	drive.Main(m, drive.Modes{
		"confined":  confined,
		"clock":     wallClock,
		"signals":   countSignals,
		"stuckdisk": stuckDisk,
	})
}

// every makes the tests that do something at every call of a program do so. Without it, each run of such a test takes
// every third call.
var every = flag.Bool("every", false, "do at every call what is otherwise done at every third one")

// callsToTry returns the calls from 1 to last, or without -every a random third of them: every third one.
func callsToTry(t testing.TB, last int) (calls []int) {
	t.Helper()
	first, step := 1, 1
	if !*every {
		step = 3
		first += rand.IntN(step) // so that many runs of the test together take all
	}
	for n := first; n <= last; n += step {
		calls = append(calls, n)
	}
	t.Logf("of %d calls, every %d from call %d on", last, step, first)
	return calls
}

// failing is a main that ends at once, with 3.
var failing = []string{"/bin/sh", "-c", "exit 3"}

// neverEnding is a main or a sidecar that only a signal ends.
var neverEnding = []string{"sleep", "1000"}

// sentinel returns the command line of a sentinel that wraps command.
func sentinel(dir string, command []string) []string {
	return drive.Wrap("sentinel", []string{"--dir", dir}, command)
}

// shim returns the command line of a shim that wraps neverEnding as the sidecar named sidecar.
func shim(dir string, flags ...string) []string { return shimAround(dir, neverEnding, flags...) }

// shimAround returns the command line of a shim that wraps command as the sidecar named sidecar.
func shimAround(dir string, command []string, flags ...string) []string {
	always := []string{"--dir", dir, "--name", "sidecar", "--log-format", "console"}
	return drive.Wrap("shim", append(always, flags...), command)
}

// gated returns a main that ends with a code as soon as open is called. It then needs no new process.
func gated(t testing.TB, code int) (command []string, open func()) {
	t.Helper()
	gate := filepath.Join(testenv.FastVolume(t), "gate")
	if err := unix.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	// Opened for both, so that no open waits for the other side.
	f, err := os.OpenFile(gate, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	command = []string{"/bin/sh", "-c", fmt.Sprintf("echo ready; read -r line <%s; exit %d", gate, code)}
	return command, func() {
		if _, err := f.WriteString("open\n"); err != nil {
			t.Error(err)
		}
	}
}

// impatient are flags of a shim that soon gives up a main with a dead file.
var impatient = []string{"--lost-after", "1s"}

// begin begins a run of main in this process.
func begin(t testing.TB, dir string) *lifetime.Run {
	t.Helper()
	run, _, err := lifetime.Begin(context.Background(), lifetime.Dir(dir), "main", nil)
	if err != nil {
		t.Fatalf("Begin: %v; the volume: %s", err, testenv.Listing(dir))
	}
	return run
}

// end ends a run.
func end(t testing.TB, run *lifetime.Run, code int) {
	t.Helper()
	if err := run.End(code); err != nil {
		t.Fatal(err)
	}
}

// watch returns a watcher of main on a volume.
func watch(t testing.TB, dir string, lostAfter time.Duration) *lifetime.Watcher {
	t.Helper()
	w, err := lifetime.Watch(lifetime.Dir(dir), []string{"main"}, lostAfter)
	if err != nil {
		t.Logf("inotify is refused: %v", err)
	}
	t.Cleanup(w.Close)
	return w
}

// describe formats a state.
func describe(s lifetime.State) string {
	switch s.Phase {
	case lifetime.NotStarted:
		return "not started"
	case lifetime.Unsettled:
		return "unsettled"
	case lifetime.Running:
		return "running"
	case lifetime.Unverified:
		return "unverified"
	}
	if s.Cause == lifetime.Lost {
		return "lost"
	}
	return fmt.Sprint("ended ", s.Code)
}

// awaitState looks until the watcher sees the state want: see describe.
func awaitState(t testing.TB, w *lifetime.Watcher, want string) {
	t.Helper()
	deadline := time.After(drive.Patience)
	for {
		got := describe(w.Look()[0])
		if got == want {
			return
		}
		select {
		case <-w.Hints():
		case <-deadline:
			t.Fatalf("after %s the state of main is %q, not %q", drive.Patience, got, want)
		}
	}
}
