//go:build linux && (amd64 || arm64)

package cmd_test

import (
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/cmd/internal/ptrace"
	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// TestLookAtEveryCall looks at the volume at every call of a run: with a watcher that sees it for the first time and
// has no --lost-after, and with one that has watched from the beginning.
func TestLookAtEveryCall(t *testing.T) {
	t.Parallel()
	for found := range before {
		t.Run(found, func(t *testing.T) {
			t.Parallel()
			dir := testenv.FastVolume(t)
			before[found](t, dir)
			old := map[string]string{"nothing": "not started", "an end": "ended 9"}[found]
			all := watch(t, dir, time.Hour)
			seen := []string{describe(all.Look()[0])}
			result := traceMain(t, dir, found, func(_ *ptrace.Tracee, c ptrace.Call, made progress) {
				// The states that are right before this call.
				var want []string
				switch {
				case made.ended:
					want = []string{"ended 3"}
				case made.begun:
					want = []string{"running"}
				case old == "":
					// A Begin that replaces a dead run holds its lock for a moment.
					want = []string{"lost", "unverified", "running"}
				default:
					want = []string{old, "not started"}
				}
				first := watch(t, dir, 0)
				defer first.Close()
				for _, w := range []*lifetime.Watcher{first, all} {
					if got := describe(w.Look()[0]); !slices.Contains(want, got) {
						t.Errorf("at %s the state is %q, not one of %q; the volume: %s",
							c, got, want, testenv.Listing(dir))
					}
				}
				if now := describe(all.Look()[0]); now != seen[len(seen)-1] {
					seen = append(seen, now)
				}
			})
			awaitState(t, all, "ended 3")
			if result.ExitCode != 3 {
				t.Errorf("the sentinel ended with %d, not 3", result.ExitCode)
			}
			if len(seen) > 4 || !slices.Contains(seen, "running") {
				t.Errorf("the states of the run were %q; want running among at most 4", seen)
			}
			testenv.WantListing(t, dir, `main-terminated="3\n"`)
		})
	}
}

// TestKillAtEveryCall kills the sentinel at every call of a run. A watcher that saw the run live sees its end; one
// that did not sees no wrong state; and the next run works as usual.
func TestKillAtEveryCall(t *testing.T) {
	t.Parallel()
	for found := range before {
		t.Run(found, func(t *testing.T) {
			t.Parallel()
			s := stepsOf(t, found)
			for _, n := range callsToTry(t, len(s.calls)) {
				killAt(t, found, n)
			}
		})
	}
}

// killAt kills the sentinel at call n.
func killAt(t *testing.T, found string, n int) {
	t.Helper()
	dir := testenv.FastVolume(t)
	before[found](t, dir)
	w := watch(t, dir, time.Hour)
	defer w.Close()
	w.Look()
	var killed string
	var had progress
	traceMain(t, dir, found, func(p *ptrace.Tracee, c ptrace.Call, made progress) {
		if c.N != n {
			return
		}
		killed, had = c.String(), made
		if made.begun && !made.ended {
			awaitState(t, w, "running")
		}
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
	})
	if killed == "" {
		t.Fatalf("found %s: the sentinel made fewer than %d calls", found, n)
	}
	check := func(which string, w *lifetime.Watcher, want ...string) {
		t.Helper()
		if got := describe(w.Look()[0]); !slices.Contains(want, got) {
			t.Fatalf("killed at %s: the %s watcher sees %q, not one of %q; the volume: %s",
				killed, which, got, want, testenv.Listing(dir))
		}
	}
	first := watch(t, dir, time.Hour)
	defer first.Close()
	switch {
	case had.coded:
		awaitState(t, w, "ended 3")
		check("new", first, "ended 3")
	case had.begun:
		awaitState(t, w, "lost")
		check("new", first, "unverified")
	default:
		// The trace of an earlier run is never lost: the next run waits for its sidecars.
		old := map[string][]string{"nothing": {"not started"}, "an end": {"ended 9"}}[found]
		if old == nil {
			old = []string{"unverified"}
		}
		check("new", first, old...)
		check("old", w, old...)
	}

	// The next run begins, both watchers see it, and it ends.
	next := begin(t, dir)
	awaitState(t, w, "running")
	awaitState(t, first, "running")
	end(t, next, 4)
	awaitState(t, w, "ended 4")
	awaitState(t, first, "ended 4")
	// A later Begin removes what the killed one left, as soon as that is old enough.
	leftovers, err := filepath.Glob(filepath.Join(dir, ".main-*"))
	if err != nil || len(leftovers) > 1 {
		t.Fatalf("killed at %s: %q are left (%v), want at most one", killed, leftovers, err)
	}
	for _, path := range leftovers {
		old := time.Now().Add(-time.Minute)
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	end(t, begin(t, dir), 5)
	testenv.WantListing(t, dir, `main-terminated="5\n"`)
}

// TestKillAtEveryCallUnderAShim does the same while a shim follows main.
func TestKillAtEveryCallUnderAShim(t *testing.T) {
	t.Parallel()
	s := stepsOf(t, "nothing")
	for _, n := range callsToTry(t, len(s.calls)) {
		dir := testenv.FastVolume(t)
		sidecar := drive.Start(t, shim(dir))
		sidecar.Await("sleep started")
		var killed string
		var had progress
		traceMain(t, dir, "nothing", func(p *ptrace.Tracee, c ptrace.Call, made progress) {
			if c.N != n {
				return
			}
			killed, had = c.String(), made
			if made.begun && !made.ended {
				sidecar.Await("main is running")
			}
			if err := p.Kill(); err != nil {
				t.Error(err)
			}
		})
		want := 137
		switch {
		case had.coded:
			want = 3
		case !had.begun: // the shim has seen no run, and waits for the next
			want = 9
			end(t, begin(t, dir), want)
		}
		if got := sidecar.Code(); got != want {
			t.Fatalf("the sentinel was killed at %s: the shim ended with %d, not %d:\n%s",
				killed, got, want, sidecar.Output())
		}
	}
}

// TestTermAtEveryCallOfTheEnd: once the command has ended, SIGTERM does not keep its code from being recorded.
// (For SIGTERM before, see cmd/sentinel/signals_test.go.)
func TestTermAtEveryCallOfTheEnd(t *testing.T) {
	t.Parallel()
	s := stepsOf(t, "nothing")
	// The first call of the end writes the code.
	first := slices.IndexFunc(s.calls, func(c ptrace.Call) bool { return c.N > s.begun && c.Name == "pwrite64" }) + 1
	if first == 0 {
		t.Fatalf("no call writes the code: %v", s.calls)
	}
	for n := first; n <= len(s.calls); n++ {
		dir := testenv.FastVolume(t)
		var sent ptrace.Call
		result := trace(t, sentinel(dir, failing), touching(dir), func(p *ptrace.Tracee, c ptrace.Call) {
			if c.N == n {
				sent = c
				if err := p.Signal(syscall.SIGTERM); err != nil {
					t.Error(err)
				}
			}
		})
		if result.ExitCode != 3 || result.Signal != 0 {
			t.Fatalf("SIGTERM at %s: exit code %d, signal %d, want 3 and none", sent, result.ExitCode, result.Signal)
		}
		testenv.WantListing(t, dir, `main-terminated="3\n"`)
	}
}

// TestMainAtEveryCallOfTheShimsStart ends or kills a live main at every call that a shim makes from its start until it
// waits. (For an end without a run, see cmd/shim/calls_test.go.)
func TestMainAtEveryCallOfTheShimsStart(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		do   func(main *drive.Process)
		want int
	}{
		{"ended", func(main *drive.Process) { main.Signal(syscall.SIGTERM) }, 143},
		{"killed", (*drive.Process).Kill, 137},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for n, last := 1, false; !last; n++ {
				dir := testenv.FastVolume(t)
				main := drive.Start(t, sentinel(dir, neverEnding))
				w := watch(t, dir, time.Hour)
				awaitState(t, w, "running")
				w.Close()
				held := ""
				// After the death there is only a dead file. The shim gives it up at once.
				argv := shim(dir, "--lost-after", "0s")
				result := trace(t, argv, touching(dir), func(_ *ptrace.Tracee, call ptrace.Call) {
					if held == "" && (call.N == n || isWait(call)) {
						held, last = call.String(), isWait(call)
						c.do(main)
						<-main.Exited()
					}
				})
				if result.ExitCode != c.want {
					t.Fatalf("main was %s at %s: the shim ended with %d, not %d", c.name, held, result.ExitCode, c.want)
				}
				if last && n < 15 {
					t.Fatalf("a shim makes only %d calls until it waits, not at least 15", n)
				}
			}
		})
	}
}
