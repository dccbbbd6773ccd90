//go:build linux && (amd64 || arm64)

package cmd_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/ptrace"
	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// TestTwoSentinelsAtEveryCall holds one sentinel at each call of its Begin while another one begins, and then ends or
// stays for a while. The two runs are never live at once, and neither harms the other.
func TestTwoSentinelsAtEveryCall(t *testing.T) {
	t.Parallel()
	for found := range before {
		t.Run(found, func(t *testing.T) {
			t.Parallel()
			s := stepsOf(t, found)
			for _, n := range callsToTry(t, s.begun+2) { // until the run is live, and one call more
				for _, stays := range []bool{false, true} {
					name := fmt.Sprintf("%02d %s, the other stays %t", n, s.calls[n-1].Name, stays)
					t.Run(name, func(t *testing.T) {
						t.Parallel()
						twoSentinels(t, found, n, stays)
					})
				}
			}
		})
	}
}

// twoSentinels holds a sentinel at call n, and begins another run there.
func twoSentinels(t *testing.T, found string, n int, stays bool) {
	dir := testenv.FastVolume(t)
	before[found](t, dir)
	w := watch(t, dir, time.Hour)
	// Longer than the other Begin waits for a run that is not live, and shorter than the 5 s that it waits for a live
	// one.
	patience := 2 * time.Second
	if found != readLocked {
		patience /= 4
	}
	var (
		held  ptrace.Call
		other *lifetime.Run // while it is live
		mu    sync.Mutex
	)
	endOther := func() {
		mu.Lock()
		defer mu.Unlock()
		if other != nil {
			if err := other.End(5); err != nil {
				t.Error(err)
			}
			other = nil
		}
	}
	var later sync.WaitGroup
	result := traceMain(t, dir, found, func(_ *ptrace.Tracee, c ptrace.Call, made progress) {
		switch {
		case c.N < n:
		case c.N == n:
			held = c
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			run, _, err := lifetime.Begin(ctx, lifetime.Dir(dir), "main", nil)
			if err != nil {
				live := (*lifetime.LiveError)(nil) // instead of the deadline, on a machine that stands still for 5 s
				if !errors.Is(err, context.DeadlineExceeded) && !(made.begun && errors.As(err, &live)) {
					t.Errorf("the other Begin: %v", err)
				}
				return
			}
			if made.begun {
				t.Errorf("held at %s: the run is live, but another has begun", c)
			}
			awaitState(t, w, "running")
			other = run
			// A Begin waits for its turn for at most 1 s. If it is stopped for longer, and another process
			// keeps all from locking the dead file, nothing protects it.
			if !stays || found == readLocked {
				endOther()
				awaitState(t, w, "ended 5")
				return
			}
			later.Go(func() {
				time.Sleep(200 * time.Millisecond) // not a wait for anything: nothing is to happen
				endOther()
			})
		case c.Name == "pwrite64" && c.Path == filepath.Join(dir, "main-running"):
			// The command has ended, and its end is not recorded yet: the run is live.
			mu.Lock()
			defer mu.Unlock()
			if other != nil {
				t.Errorf("after one was held at %s, both runs are live", held)
			}
			if got := describe(w.Look()[0]); got != "running" {
				t.Errorf("after it was held at %s, the state of a live run is %q; the volume: %s",
					held, got, testenv.Listing(dir))
			}
		}
	})
	later.Wait()
	if held.N == 0 {
		t.Fatalf("the sentinel made fewer than %d calls", n)
	}
	if result.ExitCode != 3 {
		t.Errorf("held at %s, it ended with %d, not 3", held, result.ExitCode)
	}
	awaitState(t, w, "ended 3")
	testenv.WantListing(t, dir, `main-terminated="3\n"`)
}

// TestNextRunAtEveryCallOfTheEnd begins the next run at every call that a sentinel makes after the rename to
// main-terminated. These calls do not harm the next run.
func TestNextRunAtEveryCallOfTheEnd(t *testing.T) {
	t.Parallel()
	s := stepsOf(t, "nothing")
	for n := s.ended + 1; n <= len(s.calls); n++ {
		dir := testenv.FastVolume(t)
		var next *lifetime.Run
		var held ptrace.Call
		result := trace(t, sentinel(dir, failing), touching(dir), func(_ *ptrace.Tracee, c ptrace.Call) {
			if c.N == n {
				held, next = c, begin(t, dir)
			}
		})
		if next == nil || result.ExitCode != 3 {
			t.Fatalf("held at call #%d, it ended with %d, not 3", n, result.ExitCode)
		}
		w := watch(t, dir, 0)
		if got := describe(w.Look()[0]); got != "running" {
			t.Fatalf("the state of a run that began at %s of the one before is %q; the volume: %s",
				held, got, testenv.Listing(dir))
		}
		w.Close()
		end(t, next, 4)
		testenv.WantListing(t, dir, `main-terminated="4\n"`)
	}
}

// TestGapBetweenTwoRuns: a shim has seen one run of main. While the shim makes its calls, that run ends and the next
// one begins. There is an instant at which the next run has removed the end, and has no file of its own yet. No run
// counts as lost then.
func TestGapBetweenTwoRuns(t *testing.T) {
	t.Parallel()
	const steps = 26 // of the shim: two looks, and the return from the wait for the lock
	dir := testenv.FastVolume(t)
	running := filepath.Join(dir, "main-running")
	isRename := func(c ptrace.Call) bool { return c.Path2 == running && strings.HasPrefix(c.Name, "rename") }
	isEnd := func(c ptrace.Call) bool { return c.Path == running && c.Name == "pwrite64" }

	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	sidecar := step(t, shim(dir, "--keep-on-failure"), dir, log)
	main := step(t, sentinel(dir, failing), dir, nil)
	main.until(isEnd) // main is live
	for _, n := range callsToTry(t, steps) {
		for _, whole := range []bool{false, true} {
			sidecar.until(isWait) // the shim has seen the run
			sidecar.next()
			for main.next() {
			}
			// Now main has ended, and the shim wakes up.
			main = step(t, sentinel(dir, failing), dir, nil)
			main.until(isRename)
			for range n - 1 {
				sidecar.next()
			}
			main.next()
			if whole {
				for main.next() {
				}
				main = step(t, sentinel(dir, failing), dir, nil)
			}
			main.until(isEnd)
			output, err := os.ReadFile(log.Name())
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(output), "before it could record") {
				t.Fatalf("the next run of main began before step %d of the shim (ran to its end: %t), "+
					"and a run is called lost:\n%s", n, whole, output)
			}
		}
	}
}

// TestInterleaved lets a shim and one run of main after the other make their calls in a random order. The shim is
// never wrong about a run: none is lost, and only the last succeeds.
func TestInterleaved(t *testing.T) {
	t.Parallel()
	const runs, seed = 60, 1
	random := rand.New(rand.NewPCG(seed, 0))
	dir := testenv.FastVolume(t)
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	sidecar := step(t, shim(dir, "--keep-on-failure"), dir, log)
	for run := range runs {
		command := failing
		if run == runs-1 {
			command = []string{"/bin/sh", "-c", "exit 0"}
		}
		main := step(t, sentinel(dir, command), dir, nil)
		for alive := true; alive; {
			for range random.IntN(20) {
				alive = alive && main.next()
			}
			for range random.IntN(10) {
				if !sidecar.arrive(time.Millisecond) {
					break // it has nothing to do now
				}
				sidecar.next()
			}
		}
	}
	for sidecar.next() {
	}
	output, err := os.ReadFile(log.Name())
	if err != nil {
		t.Fatal(err)
	}
	story := string(output)
	for _, wrong := range []string{"before it could record", "taken for"} {
		if strings.Contains(story, wrong) {
			t.Errorf("seed %d: the shim logs %q", seed, wrong)
		}
	}
	if sidecar.result.ExitCode != 0 || !strings.Contains(story, "main exited 0") {
		t.Errorf("seed %d: the shim ended with %d, not 0 after a main that exited 0", seed, sidecar.result.ExitCode)
	}
	if !strings.Contains(story, "main exited 3") {
		t.Errorf("seed %d: the shim saw no end before the last", seed)
	}
	if t.Failed() {
		t.Log(story)
	}
}
