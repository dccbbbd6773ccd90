package lifetime

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// tell sends a watcher an event about a file, as the kernel does, and returns when the watcher has dealt with
// the event before.
func tell(w *Watcher, file string) {
	w.notify.Events <- fsnotify.Event{Name: w.dir.Path(file), Op: fsnotify.Create}
}

// Events of files that belong to no run are no hint, unless there are so many that a look is due anyway.
func TestOtherFilesAreNoHint(t *testing.T) {
	w := watchRun(t, testenv.Volume(t))
	keepOnly(w, events)
	for range 3 {
		tell(w, "other")
	}
	if len(w.Hints()) > 0 {
		t.Error("another file is a hint")
	}
	tell(w, "main-running")
	awaitHint(t, w)

	exhaust(w.limiter)
	tell(w, "other")
	awaitHint(t, w) // after the pause, in which anything may have happened
}

// The error of inotify says what is exhausted: EMFILE may mean two things.
func TestExplainExhausted(t *testing.T) {
	w := &Watcher{dir: "/volume"}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	const ofProcess, ofUser = "this process has too many open files", "max_user_instances"
	want := func(err error, want string) {
		t.Helper()
		if got := w.explain(err).Error(); !strings.Contains(got, want) {
			t.Errorf("%v is explained as %q, not %q", err, got, want)
		}
	}
	want(unix.EMFILE, ofUser)
	if got := w.explain(unix.EIO).Error(); got != "inotify on /volume: input/output error" {
		t.Errorf("EIO is explained as %q", got)
	}
	none := unix.Rlimit{Cur: 0, Max: limit.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
	}()
	want(unix.EMFILE, ofProcess)
	want(unix.ENOSPC, "max_user_watches")
}

// During a pause the kernel is not asked for events.
func TestRestTakesTheWatchAway(t *testing.T) {
	w := watchRun(t, testenv.Volume(t))
	for range 100 { // a pause is short: on a busy machine it may be over before it is seen
		began := time.Now()
		rested := startRest(w)
		for resting := true; resting; {
			if len(w.notify.WatchList()) == 0 {
				<-rested
				if took := time.Since(began); took < pause {
					t.Errorf("the pause took %s, not %s", took, pause)
				}
				return
			}
			select {
			case <-rested:
				resting = false
			default:
			}
		}
	}
	t.Error("rest does not take the watch away")
}

// Many looks count for the time that they have taken, and not for a tick each.
func TestLooksInARow(t *testing.T) {
	dir := testenv.Volume(t)
	testenv.Plant(t, runningPath(dir, "main"), contentRunning)
	w := watchRun(t, dir)
	began := time.Now()
	for range 100 {
		w.Look()
	}
	if got, most := w.runs[0].judge.still.since, time.Since(began); got > most {
		t.Errorf("looks of %s count for %s", most, got)
	}
}

// Looks spend tokens, and events then cause a pause.
func TestLooksSpendTokens(t *testing.T) {
	w := watchRun(t, testenv.Volume(t))
	for range 2 * burst / lookCost {
		w.Look()
	}
	if spend(w.limiter, 0, time.Now()) {
		t.Errorf("%d looks have left %g tokens", 2*burst/lookCost, w.limiter.Tokens())
	}
}

// There is one wait for a run's lock at a time, and none where the kernel has refused one.
func TestOneLockWait(t *testing.T) {
	dir, owner := testenv.Volume(t), newHelper(t)
	w, without := watchRun(t, dir), watchRun(t, dir)
	keepOnly(w, lockWait)
	keepOnly(without, events)
	owner.do("begin", dir, "main")
	await(t, w, "running")
	await(t, without, "running")
	if !w.runs[0].pending.Load() || without.runs[0].pending.Load() {
		t.Errorf("waits are pending: %t, and where they were refused: %t",
			w.runs[0].pending.Load(), without.runs[0].pending.Load())
	}
	open := 0
	second, err := counted(dir, &open).Open("main-running", false)
	if err != nil {
		t.Fatal(err)
	}
	if w.await(w.runs[0], second); open != 0 {
		t.Error("a second wait has begun")
	}
	owner.kill()
	awaitHint(t, w)
	await(t, w, "lost: 137")
	if w.runs[0].pending.Load() || w.runs[0].unsupported.Load() {
		t.Errorf("after the run a wait is pending: %t, or counts as refused: %t",
			w.runs[0].pending.Load(), w.runs[0].unsupported.Load())
	}
}

// unawaitable is a file whose lock cannot be waited for.
type unawaitable struct{ File }

func (unawaitable) AwaitUnlocked() error { return unix.ENOLCK }

// A wait that was refused is not repeated.
func TestRefusedLockWait(t *testing.T) {
	dir, open := testenv.Volume(t), 0
	testenv.Plant(t, runningPath(dir, "main"), contentRunning)
	w := watchRun(t, dir)
	keepOnly(w, lockWait)
	refuse := func() {
		t.Helper()
		f, err := counted(dir, &open).Open("main-running", false)
		if err != nil {
			t.Fatal(err)
		}
		w.await(w.runs[0], unawaitable{f})
	}
	refuse()
	awaitHint(t, w)
	if !w.runs[0].unsupported.Load() {
		t.Error("a wait that was refused counts as supported")
	}
	refuse()
	if open != 0 || w.runs[0].pending.Load() {
		t.Errorf("%d files are open, a wait is pending: %t", open, w.runs[0].pending.Load())
	}
}

// unlockedFile is a file whose lock nobody holds.
type unlockedFile struct{ File }

func (unlockedFile) AwaitUnlocked() error { return nil }
func (unlockedFile) Close() error         { return nil }

// The hint after a lock wait comes at once; after a pause only if the token bucket is empty.
func TestHintAfterALockWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &Watcher{hints: make(chan struct{}, 1), limiter: newLimiter()}
		for _, want := range []time.Duration{0, pause} {
			began := time.Now() // by the bubble's fake clock
			w.await(&followedRun{}, unlockedFile{})
			<-w.Hints()
			if took := time.Since(began); took != want {
				t.Errorf("the hint came after %s, not %s", took, want)
			}
			for spend(w.limiter, lookCost, time.Now()) {
			}
		}
	})
}
