//go:build linux && (amd64 || arm64)

package cmd_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/cmd/internal/ptrace"
	"github.com/sentinel-shim/sentinel-shim/internal/testenv"
	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
)

// A sentinel's run is a row of system calls on the volume. These tests stop the built
// program at each of them, and there kill it, look at the volume, or have something else
// happen: what random instants miss.

// The main of these tests ends at once, with 3.
var failing = []string{"/bin/sh", "-c", "exit 3"}

// neverEnding is a main, or a sidecar, that only a signal ends.
var neverEnding = []string{"sleep", "1000"}

const readLocked = "a dead run that somebody holds a read lock on"

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

// touching selects the calls on a volume.
func touching(dir string) func(ptrace.Call) bool {
	touches := ptrace.Touching(dir)
	return func(c ptrace.Call) bool {
		// Go's own, of every file that it opens; they change nothing.
		flags := c.Name == "fcntl" && (c.Args[1] == unix.F_GETFL || c.Args[1] == unix.F_SETFL)
		// The same directory takes one call more or less to list, as the kernel likes.
		return !flags && c.Name != "getdents64" && touches(c)
	}
}

// trace runs a program to its end, and calls at before each of the selected calls.
func trace(t testing.TB, argv []string, selected func(ptrace.Call) bool, at func(*ptrace.Tracee, ptrace.Call)) ptrace.Result {
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

func sentinel(dir string, command []string) []string {
	return drive.Wrap("sentinel", []string{"--dir", dir}, command)
}

func shim(dir string, flags ...string) []string {
	return drive.Wrap("shim", append([]string{"--dir", dir, "--name", "sidecar", "--log-format", "console"}, flags...), neverEnding)
}

// callsOf selects the calls of a sentinel that finds something on its volume.
func callsOf(dir, found string) func(ptrace.Call) bool {
	touches := touching(dir)
	if found != readLocked {
		return touches
	}
	// It tries again and again for 100 ms, nobody knows how many times. So the calls
	// are counted from where it replaces the dead run's file.
	turn := false
	return func(c ptrace.Call) bool {
		turn = turn || c.Name == "flock"
		return turn && touches(c)
	}
}

// progress is which of the calls that matter a sentinel has made. They are recognized by what they
// do: their numbers may differ from run to run.
type progress struct {
	begun bool // the rename to main-running, or where there was an end its removal
	coded bool // the truncation after which main-running holds the code and nothing else
	ended bool // the rename to main-terminated
}

// after returns the progress of a sentinel that has made this call, too. found is what it has found
// on its volume.
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

// traceMain runs a sentinel that finds something on its volume to its end, and calls at before each
// of the calls that callsOf selects.
func traceMain(t testing.TB, dir, found string, at func(p *ptrace.Tracee, c ptrace.Call, made progress)) ptrace.Result {
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

// stepsOf runs a sentinel once.
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
		t.Fatalf("found %s: exit code %d, rename to main-running #%d, truncation #%d, rename to main-terminated #%d of %d calls", found, result.ExitCode, s.begun, coded, s.ended, result.Calls)
	}
	return s
}

// watch follows main on a volume.
func watch(t testing.TB, dir string, lostAfter time.Duration) *lifetime.Watcher {
	t.Helper()
	w, err := lifetime.Watch(lifetime.Dir(dir), []string{"main"}, lostAfter)
	if err != nil {
		t.Logf("no events: %v", err)
	}
	t.Cleanup(w.Close)
	return w
}

// describe says a state in words.
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

// awaitState looks until the run is seen so.
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
			t.Fatalf("the run is seen as %q, and not as %q within %s", got, want, drive.Patience)
		}
	}
}

// begin begins a run of main in this process.
func begin(t testing.TB, dir string) *lifetime.Run {
	t.Helper()
	run, _, err := lifetime.Begin(context.Background(), lifetime.Dir(dir), "main", nil)
	if err != nil {
		t.Fatalf("the next Begin: %v; the volume: %s", err, testenv.Listing(dir))
	}
	return run
}

func end(t testing.TB, run *lifetime.Run, code int) {
	t.Helper()
	if err := run.End(code); err != nil {
		t.Fatal(err)
	}
}

// TestLookAtEveryCall looks at the volume at every call of a run: as a watcher that sees
// it for the first time and gives nobody time, and as one that has watched all along.
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
				// What may be seen before this call is made.
				var want []string
				switch {
				case made.ended:
					want = []string{"ended 3"}
				case made.begun:
					want = []string{"running"}
				case old == "":
					// Who replaces a dead run holds its lock for a moment.
					want = []string{"lost", "unverified", "running"}
				default:
					want = []string{old, "not started"}
				}
				first := watch(t, dir, 0)
				defer first.Close()
				for _, w := range []*lifetime.Watcher{first, all} {
					if got := describe(w.Look()[0]); !slices.Contains(want, got) {
						t.Errorf("at %s it is seen as %q, not as one of %q; the volume: %s", c, got, want, testenv.Listing(dir))
					}
				}
				if now := describe(all.Look()[0]); now != seen[len(seen)-1] {
					seen = append(seen, now)
				}
			})
			awaitState(t, all, "ended 3")
			if result.ExitCode != 3 {
				t.Errorf("the sentinel ended with %d", result.ExitCode)
			}
			if len(seen) > 4 || !slices.Contains(seen, "running") {
				t.Errorf("the run was seen as %q", seen)
			}
			testenv.WantListing(t, dir, `main-terminated="3\n"`)
		})
	}
}

// TestKillAtEveryCall kills the sentinel at every call of a run. Who saw it run has its
// end; who did not has no wrong one; and the next run is as if nothing had happened.
func TestKillAtEveryCall(t *testing.T) {
	t.Parallel()
	for found := range before {
		t.Run(found, func(t *testing.T) {
			t.Parallel()
			s := stepsOf(t, found)
			for n := range len(s.calls) {
				killAt(t, found, n+1)
			}
		})
	}
}

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
		t.Fatalf("there was no call #%d", n)
	}
	check := func(who string, w *lifetime.Watcher, want ...string) {
		t.Helper()
		if got := describe(w.Look()[0]); !slices.Contains(want, got) {
			t.Fatalf("killed at %s: who %s sees %q, not one of %q; the volume: %s", killed, who, got, want, testenv.Listing(dir))
		}
	}
	first := watch(t, dir, time.Hour)
	defer first.Close()
	switch {
	case had.coded:
		awaitState(t, w, "ended 3")
		check("sees it for the first time", first, "ended 3")
	case had.begun:
		awaitState(t, w, "lost")
		check("sees it for the first time", first, "unverified")
	default:
		// That there was a run is never forgotten: the next waits for its sidecars.
		old := map[string][]string{"nothing": {"not started"}, "an end": {"ended 9"}}[found]
		if old == nil {
			old = []string{"unverified"}
		}
		check("sees it for the first time", first, old...)
		check("has watched all along", w, old...)
	}

	// The next run: it begins, is seen, ends; it leaves nothing of its own.
	next := begin(t, dir)
	awaitState(t, w, "running")
	awaitState(t, first, "running")
	end(t, next, 4)
	awaitState(t, w, "ended 4")
	awaitState(t, first, "ended 4")
	// What the killed one has left goes as soon as it is old enough.
	leftovers, err := filepath.Glob(filepath.Join(dir, ".main-*"))
	if err != nil || len(leftovers) > 1 {
		t.Fatalf("killed at %s: %q is left, %v", killed, leftovers, err)
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

// TestKillAtEveryCallUnderAShim does the same before the eyes of a shim.
func TestKillAtEveryCallUnderAShim(t *testing.T) {
	t.Parallel()
	s := stepsOf(t, "nothing")
	for n := range len(s.calls) {
		dir := testenv.FastVolume(t)
		sidecar := drive.Start(t, shim(dir))
		sidecar.Await("sleep started")
		var killed string
		var had progress
		traceMain(t, dir, "nothing", func(p *ptrace.Tracee, c ptrace.Call, made progress) {
			if c.N != n+1 {
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
		case !had.begun: // it has seen nothing, and waits for the next
			want = 9
			end(t, begin(t, dir), want)
		}
		if got := sidecar.Code(); got != want {
			t.Fatalf("the sentinel was killed at %s: the shim ended with %d, not %d:\n%s", killed, got, want, sidecar.Output())
		}
	}
}

// TestTermAtEveryCallOfTheEnd: the command has ended, and its code is recorded whatever
// comes now. (What comes before is tested with the sentinel's signals.)
func TestTermAtEveryCallOfTheEnd(t *testing.T) {
	t.Parallel()
	s := stepsOf(t, "nothing")
	// The first call of the end is the one that writes the code.
	first := slices.IndexFunc(s.calls, func(c ptrace.Call) bool { return c.N > s.begun && c.Name == "pwrite64" }) + 1
	if first == 0 {
		t.Fatalf("the calls of the end are not known among %v", s.calls)
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
			t.Fatalf("SIGTERM at %s: exit code %d, %v", sent, result.ExitCode, result.Signal)
		}
		testenv.WantListing(t, dir, `main-terminated="3\n"`)
	}
}

// isWait reports whether a call is the wait for the end of a live run.
func isWait(c ptrace.Call) bool { return c.Name == "fcntl" && c.Args[1] == unix.F_OFD_SETLKW }

// TestMainAtEveryCallOfTheShimsStart ends, or kills, a live main at every call that a
// shim makes from its start on, until it waits. (An end that comes from nowhere is tested
// with the shim's calls.)
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
				// Who comes after the death finds no more than a dead file. It
				// is given no time.
				result := trace(t, shim(dir, "--lost-after", "0s"), touching(dir), func(_ *ptrace.Tracee, call ptrace.Call) {
					if held == "" && (call.N == n || isWait(call)) {
						held, last = call.String(), isWait(call)
						c.do(main)
						<-main.Exited()
					}
				})
				if result.ExitCode != c.want {
					t.Fatalf("main was %s at %s: the shim ended with %d, not %d", c.name, held, result.ExitCode, c.want)
				}
				if last && n < 20 {
					t.Fatalf("a shim makes only %d calls until it waits", n)
				}
			}
		})
	}
}

// TestTwoSentinelsAtEveryCall holds one sentinel at each call of its Begin, while another
// begins, and then ends or stays for a while. They are never live both, and neither does
// the other any harm.
func TestTwoSentinelsAtEveryCall(t *testing.T) {
	t.Parallel()
	for found := range before {
		t.Run(found, func(t *testing.T) {
			t.Parallel()
			s := stepsOf(t, found)
			for n := range s.begun + 2 { // until the run is live, and a little longer
				for _, stays := range []bool{false, true} {
					t.Run(fmt.Sprintf("%02d %s, the other stays %t", n+1, s.calls[n].Name, stays), func(t *testing.T) {
						t.Parallel()
						twoSentinels(t, found, n+1, stays)
					})
				}
			}
		})
	}
}

func twoSentinels(t *testing.T, found string, n int, stays bool) {
	dir := testenv.FastVolume(t)
	before[found](t, dir)
	w := watch(t, dir, time.Hour)
	// More than the other has to wait for what is no live run, and less than the five
	// seconds that it would wait for one.
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
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("the other Begin: %v", err)
				}
				return
			}
			if made.begun {
				t.Errorf("held at %s, when it is live: the other has begun", c)
			}
			awaitState(t, w, "running")
			other = run
			// A turn is waited for no longer than a second: who is frozen for
			// longer, while somebody else keeps the dead file's lock from
			// all, is not protected from.
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
			// Its command has ended, and its end is not yet recorded: it is live.
			mu.Lock()
			defer mu.Unlock()
			if other != nil {
				t.Errorf("after it was held at %s: both are live", held)
			}
			if got := describe(w.Look()[0]); got != "running" {
				t.Errorf("after it was held at %s, a live run is seen as %q; the volume: %s", held, got, testenv.Listing(dir))
			}
		}
	})
	later.Wait()
	if held.N == 0 {
		t.Fatalf("there was no call #%d", n)
	}
	if result.ExitCode != 3 {
		t.Errorf("held at %s, it ended with %d", held, result.ExitCode)
	}
	awaitState(t, w, "ended 3")
	testenv.WantListing(t, dir, `main-terminated="3\n"`)
}

// TestGapBetweenTwoRuns: a shim has seen one run of main. That ends and the next begins
// while the shim takes its steps: between the end of the one, which the next has removed,
// and the file of the next is a gap. A run that is in it is not lost.
func TestGapBetweenTwoRuns(t *testing.T) {
	t.Parallel()
	const steps = 26 // of the shim: two looks, and the return of the wait for the lock
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
	main.until(isEnd) // it is live
	for n := range steps {
		for _, whole := range []bool{false, true} {
			sidecar.until(isWait) // it has seen it
			sidecar.next()
			for main.next() {
			}
			// Now it has ended, and the shim has been woken to it.
			main = step(t, sentinel(dir, failing), dir, nil)
			main.until(isRename)
			for range n {
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
				t.Fatalf("the next run of main got its name after step %d of the shim, and ran to its end %t:\n%s", n, whole, output)
			}
		}
	}
}

// TestInterleaved makes a shim and one run of main after the other take their steps in a
// random order. What the shim says of them is never wrong: no run is lost, none succeeds
// but the last.
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
					break // it has nothing to do
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
			t.Errorf("seed %d: the shim says %q", seed, wrong)
		}
	}
	if sidecar.result.ExitCode != 0 || !strings.Contains(story, "main exited 0") {
		t.Errorf("seed %d: the shim ended with %d", seed, sidecar.result.ExitCode)
	}
	if !strings.Contains(story, "main exited 3") {
		t.Errorf("seed %d: no end before the last was seen", seed)
	}
	if t.Failed() {
		t.Log(story)
	}
}

// TestNextRunAtEveryCallOfTheEnd begins the next run at every call that is left when an
// end has its name. What is left to do does that run no harm.
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
			t.Fatalf("held at call #%d, it ended with %d", n, result.ExitCode)
		}
		w := watch(t, dir, 0)
		if got := describe(w.Look()[0]); got != "running" {
			t.Fatalf("a run that began at %s of the one before is seen as %q; the volume: %s", held, got, testenv.Listing(dir))
		}
		w.Close()
		end(t, next, 4)
		testenv.WantListing(t, dir, `main-terminated="4\n"`)
	}
}

// stepped is a traced program that takes one step when it is told.
type stepped struct {
	t      testing.TB
	stops  chan ptrace.Call // it is stopped before, or after, this call
	resume chan struct{}
	held   *ptrace.Call // the call that it is held before, if it is

	done   chan struct{} // closed when it has ended; then these are valid
	result ptrace.Result
	err    error
}

func step(t testing.TB, argv []string, dir string, output *os.File) *stepped {
	s := &stepped{t: t, stops: make(chan ptrace.Call), resume: make(chan struct{}), done: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(s.done)
		spec := ptrace.Spec{Args: argv, Stdout: output, Stderr: output, Returns: true}
		s.result, s.err = ptrace.Run(ctx, spec, touching(dir), func(_ *ptrace.Tracee, c ptrace.Call) {
			select {
			case s.stops <- c:
			case <-ctx.Done():
				return
			}
			select {
			case <-s.resume:
			case <-ctx.Done():
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-s.done
	})
	return s
}

// arrive waits until the program is held before a call. It reports whether it is so within
// some time.
func (s *stepped) arrive(within time.Duration) bool {
	s.t.Helper()
	timeout := time.After(within)
	for s.held == nil {
		select {
		case c := <-s.stops:
			if c.Done {
				s.resume <- struct{}{}
				continue
			}
			s.held = &c
		case <-s.done:
			if errors.Is(s.err, ptrace.ErrRefused) {
				s.t.Skip(s.err)
			}
			if s.err != nil {
				s.t.Fatal(s.err)
			}
			return false
		case <-timeout:
			return false
		}
	}
	return true
}

// next has the program make its next call, and waits until that is done. It returns false
// when the program has ended.
func (s *stepped) next() (alive bool) {
	s.t.Helper()
	if !s.arrive(drive.Patience) {
		select {
		case <-s.done:
			return false
		default:
			s.t.Fatalf("a program makes no call within %s", drive.Patience)
		}
	}
	now := *s.held
	s.held = nil
	s.resume <- struct{}{}
	if isWait(now) {
		return true // it may take its time
	}
	for s.held == nil {
		select {
		case c := <-s.stops:
			if !c.Done {
				s.held = &c // by another thread
				continue
			}
			s.resume <- struct{}{}
			if c.TID == now.TID {
				return true
			}
		case <-s.done:
			return true
		}
	}
	return true
}

// until lets the program go until it is held before such a call.
func (s *stepped) until(is func(ptrace.Call) bool) {
	s.t.Helper()
	for {
		if !s.arrive(drive.Patience) {
			s.t.Fatalf("a program did not come to the call that was waited for: it has ended, or makes no call within %s", drive.Patience)
		}
		if is(*s.held) {
			return
		}
		s.next()
	}
}

// TestNoSync: between the end of the command and its own the sentinel waits for no disk, on
// none of the ways to record an end: a kill in that time would make the kubelet run a command
// again that has succeeded.
func TestNoSync(t *testing.T) {
	t.Parallel()
	syncs := []string{"fsync", "fdatasync", "sync_file_range", "syncfs"}
	isSync := func(c ptrace.Call) bool { return slices.Contains(syncs, c.Name) }
	for name, c := range map[string]struct {
		found   string
		command []string // $0 is the volume
		code    int
	}{
		"nothing there":      {"nothing", failing, 3},
		"an end there":       {"an end", failing, 3},
		"a dead run there":   {"a dead run", failing, 3},
		"its file is stolen": {"nothing", []string{"/bin/sh", "-c", `rm "$0/main-running"; exit 3`}, 3},
		"it never begins":    {"nothing", []string{"/no/such/command"}, 127},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := testenv.FastVolume(t)
			before[c.found](t, dir)
			argv := sentinel(dir, append(slices.Clone(c.command), dir))
			result := trace(t, argv, isSync, func(_ *ptrace.Tracee, call ptrace.Call) {
				t.Errorf("it makes the call %s", call)
			})
			if result.ExitCode != c.code {
				t.Errorf("it ended with %d", result.ExitCode)
			}
			testenv.WantListing(t, dir, fmt.Sprintf("main-terminated=%q", fmt.Sprintln(c.code)))
		})
	}
}

// TestStuckDisk: a disk that never confirms a sync holds up neither of the two.
func TestStuckDisk(t *testing.T) {
	t.Parallel()
	try := drive.Command("stuckdisk", drive.Program("shim"), "--version")
	if out, err := exec.Command(try[0], try[1:]...).CombinedOutput(); err != nil {
		t.Skipf("no system call can be held up here: %v: %s", err, out)
	}
	dir := testenv.FastVolume(t)
	sidecar := drive.Start(t, drive.Command("stuckdisk", shim(dir)...))
	sidecar.Await("sleep started")
	main := drive.Start(t, drive.Command("stuckdisk", sentinel(dir, failing)...))
	main.Want(3)
	sidecar.Await("the mains' ends are not on disk after 1s")
	sidecar.Want(3)
	testenv.WantListing(t, dir, `main-terminated="3\n" sidecar-terminated="3\n"`)
}
