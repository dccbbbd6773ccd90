package lifetime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/time/rate"

	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

func TestLimiter(t *testing.T) {
	now := time.Now()
	l := newLimiter()
	spend(l, 0, now)
	looks := func(after time.Duration) (n int) {
		now = now.Add(after)
		for spend(l, lookCost, now) {
			n++
		}
		return n
	}
	const atOnce, aSecond = burst / lookCost, perSecond / lookCost
	for _, c := range []struct {
		after       time.Duration
		least, most int
	}{
		{0, atOnce, atOnce},
		{0, 0, 0},
		{pause, 0, aSecond}, // the debt is paid first
		{time.Second, aSecond - 2, aSecond},
		{time.Hour, atOnce - 1, atOnce}, // the bucket is full
		{time.Second / 2, aSecond/2 - 2, aSecond / 2},
	} {
		if n := looks(c.after); n < c.least || n > c.most {
			t.Errorf("%s later there were tokens for %d looks, not for %d to %d", c.after, n, c.least, c.most)
		}
	}
}

// exhaust spends all tokens, and those of the next seconds: on a busy machine much time may pass until the next one is
// to be spent.
func exhaust(l *rate.Limiter) {
	for range 2 {
		spend(l, burst, time.Now())
	}
}

// If the token bucket is empty, the hint after a lock wait comes after a pause.
func TestPause(t *testing.T) {
	dir, owner := testenv.Volume(t), newHelper(t)
	w := watchRun(t, dir)
	owner.do("begin", dir, "main")
	await(t, w, "running")
	w.notify.Close() // only the end of the lock wait sends a hint
	w.notify = nil
	exhaust(w.limiter)
	for len(w.Hints()) > 0 {
		<-w.Hints()
	}
	began := time.Now()
	owner.kill()
	<-w.Hints()
	if took := time.Since(began); took < pause {
		t.Errorf("the hint came after %s, without a pause", took)
	}
	await(t, w, "lost: 137")
}

// rewrite rewrites a marker as fast as it can for the time span.
func rewrite(t *testing.T, dir string, span time.Duration) (times int) {
	t.Helper()
	for began := time.Now(); time.Since(began) < span; times++ {
		if err := os.WriteFile(runningPath(dir, "main"), []byte(contentRunning), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return times
}

// lookInBackground looks at every hint. After a look it sends to looked. stop ends that and returns the number
// of looks.
func lookInBackground(w *Watcher, unlimited bool) (looked <-chan struct{}, stop func() (looks int)) {
	if unlimited {
		w.limiter.SetLimit(rate.Inf)
	}
	quit, result, done := make(chan struct{}), make(chan int), make(chan struct{}, 1)
	go func() {
		for n := 0; ; n++ {
			select {
			case <-w.Hints():
				w.Look()
				select {
				case done <- struct{}{}:
				default:
				}
			case <-quit:
				result <- n
				return
			}
		}
	}()
	return done, func() int {
		close(quit)
		return <-result
	}
}

// The limiter bounds the number of looks in a storm. Without it there is no bound.
func TestStorm(t *testing.T) {
	const times = 1000
	dir := testenv.FastVolume(t)
	limited := watchRun(t, dir)
	for spend(limited.limiter, lookCost, time.Now()) {
	}
	_, with := lookInBackground(limited, false)
	looked, without := lookInBackground(watchRun(t, dir), true)
	began := time.Now()
	for range times {
		testenv.Plant(t, runningPath(dir, "main"), contentRunning)
		select {
		case <-looked:
		case <-time.After(testTimeout):
			t.Fatal("the watcher without a limiter does not look")
		}
	}
	took := time.Since(began)
	looks, more := with(), without()
	t.Logf("while a marker was rewritten %d times in %s, there were %d looks; without the limiter, %d",
		times, took, looks, more)
	if most := 2 + 2*int(took.Seconds()*perSecond/lookCost); looks > most || more < times/2 {
		t.Errorf("there were %d looks, not at most %d; without the limiter, %d", looks, most, more)
	}
}

// A watcher sees an end at the end of a storm long before the tick.
func TestEndAfterAStorm(t *testing.T) {
	t.Parallel()
	least := time.Hour // the fastest of three: a loaded machine delays some
	for range 3 {
		dir, owner := testenv.FastVolume(t), newHelper(t)
		w := watchRun(t, dir)
		keepOnly(w, events)
		for spend(w.limiter, lookCost, time.Now()) {
		}
		rewrite(t, dir, 2*pause)
		for len(w.Hints()) > 0 {
			<-w.Hints()
		}
		began := time.Now()
		owner.do("record", dir, "main", "3")
		awaitHint(t, w) // before any look
		await(t, w, "ended: 3")
		least = min(least, time.Since(began))
	}
	t.Logf("recorded and seen after %s", least)
	if least >= tick/2 {
		t.Errorf("the watcher never took less than %s, and the tick is %s", least, tick)
	}
}

// awaitHint waits for a hint.
func awaitHint(t testing.TB, w *Watcher) {
	t.Helper()
	select {
	case <-w.Hints():
	case <-time.After(testTimeout):
		t.Fatalf("no hint has come within %s", testTimeout)
	}
}

// startRest lets a watcher rest. rested is closed after that.
func startRest(w *Watcher) (rested <-chan struct{}) {
	over := make(chan struct{})
	go func() {
		w.rest(w.notify)
		close(over)
	}()
	return over
}

// If no watch can be added after a pause, rest tries again until it can, or until the watcher is closed.
func TestRestWithoutAWatch(t *testing.T) {
	t.Parallel()
	for _, closed := range []bool{false, true} {
		t.Run(fmt.Sprintf("closed %t", closed), func(t *testing.T) {
			t.Parallel()
			parent := testenv.Volume(t)
			dir := filepath.Join(parent, "volume")
			if err := os.Mkdir(dir, 0o777); err != nil {
				t.Fatal(err)
			}
			w := watchRun(t, dir)
			keepOnly(w, events)
			if err := os.Rename(dir, dir+"-away"); err != nil {
				t.Fatal(err)
			}
			rested := startRest(w)
			select {
			case <-rested:
				t.Fatal("rest returned without a watch")
			case <-time.After(2 * pause):
			}
			if closed {
				w.Close()
			} else if err := os.Rename(dir+"-away", dir); err != nil {
				t.Fatal(err)
			}
			select {
			case <-rested:
			case <-time.After(testTimeout):
				t.Fatalf("rest did not return within %s", testTimeout)
			}
			if closed {
				return
			}
			for len(w.Hints()) > 0 {
				<-w.Hints()
			}
			testenv.Plant(t, TerminatedPath(dir, "main"), "3\n")
			awaitHint(t, w)
		})
	}
}

// If the kernel has dropped events because there were too many, the watcher sends a hint.
func TestLostEventsAreAHint(t *testing.T) {
	w := watchRun(t, testenv.Volume(t))
	keepOnly(w, events)
	w.notify.Errors <- fsnotify.ErrEventOverflow
	awaitHint(t, w)
}

// Names yields each name once, and no names if the path is not a directory.
func TestNames(t *testing.T) {
	dir := testenv.Volume(t)
	const files = 1000
	for i := range files {
		testenv.Plant(t, filepath.Join(dir, fmt.Sprint(i)), "")
	}
	seen := make(map[string]int)
	for name := range Dir(dir).Names() {
		seen[name]++
	}
	for i := range files {
		if n := seen[fmt.Sprint(i)]; n != 1 {
			t.Errorf("the name %d came %d times", i, n)
		}
	}
	if len(seen) != files {
		t.Errorf("%d names of %d files", len(seen), files)
	}
	if err := errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	for name := range Dir(dir).Names() {
		t.Errorf("Names yielded %q for a file", name)
	}
}
