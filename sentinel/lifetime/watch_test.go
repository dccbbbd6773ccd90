package lifetime

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// watchRun follows the run main on dir until the test ends.
func watchRun(t testing.TB, dir string) *Watcher {
	t.Helper()
	w, err := Watch(Dir(dir), []string{"main"}, time.Minute)
	if err != nil {
		t.Skipf("inotify is refused here: %v", err)
	}
	t.Cleanup(w.Close)
	return w
}

// await looks at every hint until the state is want. It returns the states before.
func await(t testing.TB, w *Watcher, want string) (before []string) {
	t.Helper()
	deadline := time.After(testTimeout)
	for {
		now := describe(w.Look()[0])
		if now == want {
			return before
		}
		before = append(before, now)
		select {
		case <-w.Hints():
		case <-deadline:
			t.Fatalf("the state was not %q within %s, but %q; the volume: %s",
				want, testTimeout, before, testenv.Listing(string(w.dir)))
		}
	}
}

// The three wake-ups of a watcher.
const (
	events   = "inotify"
	lockWait = "the wait for the lock"
	ticks    = "the tick"
)

// keepOnly disables all wake-ups of a watcher but one.
func keepOnly(w *Watcher, but string) {
	if but != events {
		w.notify.Close()
		w.notify = nil
	}
	if but != lockWait {
		w.runs[0].unsupported.Store(true)
	}
	if but != ticks {
		w.timer.Stop()
		w.timer = time.AfterFunc(time.Hour, func() {})
	}
}

// Each of the three wake-ups is enough, for the end of a run and for its loss.
func TestEachWakeUpIsEnough(t *testing.T) {
	t.Parallel()
	for _, but := range []string{events, lockWait, ticks} {
		for _, end := range []string{"ended: 3", "lost: 137"} {
			if but == events && end == "lost: 137" {
				continue // a death changes no file
			}
			t.Run(end+" by "+but, func(t *testing.T) {
				t.Parallel()
				dir, owner := testenv.Volume(t), newHelper(t)
				w := watchRun(t, dir)
				keepOnly(w, but)
				if but == lockWait {
					owner.do("begin", dir, "main") // before the first look: no lock wait reports a Begin
				} else {
					if seen := describe(w.Look()[0]); seen != "not started" {
						t.Fatalf("before the run the state is %q", seen)
					}
					owner.do("begin", dir, "main")
				}
				await(t, w, "running")
				for len(w.Hints()) > 0 {
					<-w.Hints()
				}
				if end == "ended: 3" {
					owner.do("end", "3")
				} else {
					owner.kill()
				}
				awaitHint(t, w) // before any look
				await(t, w, end)
				// And for the next run.
				if but != lockWait {
					next := newHelper(t)
					next.do("begin", dir, "main")
					await(t, w, "running")
					next.do("end", "4")
					await(t, w, "ended: 4")
				}
			})
		}
	}
}

// A watcher sees an end and a loss at an event, long before the tick.
func TestSeenWellBeforeTheTick(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		want string
		end  func(*helper)
	}{
		{"ended: 3", func(owner *helper) { owner.do("end", "3") }},
		{"lost: 137", (*helper).kill},
	} {
		t.Run(c.want, func(t *testing.T) {
			t.Parallel()
			// The fastest of five counts: a loaded machine delays some.
			least := time.Hour
			for range 5 {
				dir, owner := testenv.Volume(t), newHelper(t)
				w := watchRun(t, dir)
				owner.do("begin", dir, "main")
				await(t, w, "running")
				began := time.Now()
				c.end(owner)
				await(t, w, c.want)
				least = min(least, time.Since(began))
			}
			if least >= tick/2 {
				t.Errorf("the watcher never took less than %s, and the tick is %s", least, tick)
			}
		})
	}
}

// If the kernel refuses inotify, Watch returns an error once. The other wake-ups still work.
func TestWatchRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		refuse []string
		want   string
	}{
		{nil, ""},
		{[]string{"inotify-instances"}, "raise fs.inotify.max_user_instances"},
		{[]string{"inotify-watches"}, "raise fs.inotify.max_user_watches"},
		{[]string{"inotify-profile"}, "operation not permitted: refused by a seccomp profile or the sandbox"},
		{[]string{"inotify-sandbox"}, "function not implemented: refused by a seccomp profile or the sandbox"},
		{[]string{"inotify-denied"}, "permission denied: the directory is not readable for this user"},
		{[]string{"inotify-broken"}, "input/output error"},
		{[]string{"lock-waits"}, ""},
		{[]string{"inotify-instances", "lock-waits"}, "fs.inotify.max_user_instances"},
	} {
		t.Run(strings.Join(c.refuse, ","), func(t *testing.T) {
			t.Parallel()
			dir, owner := testenv.Volume(t), newHelper(t)
			watcher := newHelper(t, refusing(c.refuse...))
			watcher.send("watch", dir, "main")
			if c.want != "" {
				line := watcher.receive()
				if !strings.HasPrefix(line, "warning: inotify on "+dir+": ") || !strings.Contains(line, c.want) {
					t.Errorf("the watcher reports %q; want a warning about inotify that contains %s", line, c.want)
				}
				if strings.Contains(line, "max_user_") != strings.Contains(c.want, "max_user_") {
					t.Errorf("the watcher reports %q, which is not the cause", line)
				}
			}
			expect := func(want string) {
				t.Helper()
				if line := watcher.receive(); line != want {
					t.Fatalf("the watcher reports %q, not %q", line, want)
				}
			}
			expect("not started")
			owner.do("begin", dir, "main")
			expect("running")
			owner.do("end", "3")
			expect("ended: 3")
			owner.do("begin", dir, "main")
			expect("running")
			owner.kill()
			expect("lost: 137")
		})
	}
}

// The first look of a watcher sees the run's state.
func TestFirstLook(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(t *testing.T, dir string, owner *helper)
		want    string
	}{
		{"nothing", func(*testing.T, string, *helper) {}, "not started"},
		{"a live run", func(_ *testing.T, dir string, owner *helper) { owner.do("begin", dir, "main") }, "running"},
		{"an end", func(_ *testing.T, dir string, owner *helper) { owner.do("record", dir, "main", "3") }, "ended: 3"},
		{"a shell's end", func(t *testing.T, dir string, _ *helper) {
			testenv.Plant(t, TerminatedPath(dir, "main"), "3")
		}, "ended: 3"},
		{"a dead run", func(t *testing.T, dir string, owner *helper) {
			owner.do("begin", dir, "main")
			owner.kill()
		}, "unverified"},
		{"an end in place", func(t *testing.T, dir string, _ *helper) {
			testenv.Plant(t, runningPath(dir, "main"), "3\n")
		}, "ended: 3"},
		{"another run", func(_ *testing.T, dir string, owner *helper) {
			owner.do("record", dir, "other", "3")
		}, "not started"},
		{"no volume", func(t *testing.T, dir string, _ *helper) { os.RemoveAll(dir) }, "not started"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, owner := testenv.Volume(t), newHelper(t)
			c.prepare(t, dir, owner)
			w, _ := Watch(Dir(dir), []string{"main"}, time.Minute)
			defer w.Close()
			if got := describe(w.Look()[0]); got != c.want {
				t.Errorf("the state is %q, not %q", got, c.want)
			}
		})
	}
}

// Look returns the states in the order of the names given to Watch.
func TestWatchSeveral(t *testing.T) {
	dir := testenv.Volume(t)
	w, err := Watch(Dir(dir), []string{"b", "a", "c"}, time.Minute)
	if err != nil {
		t.Skipf("inotify is refused here: %v", err)
	}
	defer w.Close()
	mustEnd(t, mustBegin(t, dir, "a"), 1)
	run := mustBegin(t, dir, "c")
	var got []string
	for _, s := range w.Look() {
		got = append(got, describe(s))
	}
	if want := "not started, ended: 1, running"; strings.Join(got, ", ") != want {
		t.Errorf("the states are %q, not %q", got, want)
	}
	mustEnd(t, run, 0)
}

// While the wait for the lock has not returned, a run is running, whatever happens to its file.
func TestFileOfALiveRunIsTaken(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		take func(t *testing.T, path string)
	}{
		{"removed", func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}},
		{"replaced by a code", func(t *testing.T, path string) {
			testenv.Plant(t, path+"-new", "0\n")
			if err := os.Rename(path+"-new", path); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir, owner := testenv.Volume(t), newHelper(t)
			w := watchRun(t, dir)
			owner.do("begin", dir, "main")
			await(t, w, "running")
			c.take(t, runningPath(dir, "main"))
			for range 3 {
				<-w.Hints()
				if got := describe(w.Look()[0]); got != "running" {
					t.Fatalf("the state of a live run is %q", got)
				}
			}
			owner.do("end", "3")
			await(t, w, "ended: 3")
		})
	}
}

// If the run's file is removed, and then its owner is killed, the run is lost.
func TestLostWithoutAFile(t *testing.T) {
	dir, owner := testenv.Volume(t), newHelper(t)
	w := watchRun(t, dir)
	owner.do("begin", dir, "main")
	await(t, w, "running")
	if err := os.Remove(runningPath(dir, "main")); err != nil {
		t.Fatal(err)
	}
	owner.kill()
	await(t, w, "lost: 137")
}

// Of the runs that begin and end between two looks, a watcher sees the last end.
func TestMissedRuns(t *testing.T) {
	dir, owner := testenv.Volume(t), newHelper(t)
	w := watchRun(t, dir)
	if got := describe(w.Look()[0]); got != "not started" {
		t.Fatalf("at first the state is %q", got)
	}
	owner.do("runs", dir, "main", "3")
	if got := describe(w.Look()[0]); got != "ended: 3" {
		t.Errorf("after three runs the state is %q", got)
	}

	// Two looks see two runs as running, and miss the end of the first: the identities differ. Until the wait for the
	// lock of the first returns, which causes a hint, that run is still seen.
	owner.do("begin", dir, "main")
	before := w.Look()[0]
	owner.do("end", "7")
	owner.do("begin", dir, "main")
	after := w.Look()[0]
	for deadline := time.Now().Add(testTimeout); after.ID == before.ID && time.Now().Before(deadline); {
		awaitHint(t, w)
		after = w.Look()[0]
	}
	if describe(before) != "running" || describe(after) != "running" || before.ID == after.ID {
		t.Errorf("the states are %q and %q, the identities %v and %v; want two runs that are running",
			describe(before), describe(after), before.ID, after.ID)
	}
	owner.kill()
	await(t, w, "lost: 137")
}

// A watcher that gets events and waits for the lock hardly looks by itself. Without that wait, it looks at each tick.
func TestInterval(t *testing.T) {
	for _, c := range []struct {
		unsupported bool
		want        time.Duration
	}{{false, pendingTick}, {true, tick}} {
		dir, owner := testenv.Volume(t), newHelper(t)
		w := watchRun(t, dir)
		w.runs[0].unsupported.Store(c.unsupported)
		owner.do("begin", dir, "main")
		await(t, w, "running")
		if w.interval != c.want {
			t.Errorf("lock waits %t: the next look is %s later, not %s", !c.unsupported, w.interval, c.want)
		}
	}
}

// During a pause, and as long as no watch can be added after it, a watcher looks at each tick.
func TestIntervalWithoutEvents(t *testing.T) {
	dir, owner := testenv.Volume(t)+"/volume", newHelper(t)
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	w := watchRun(t, dir)
	owner.do("begin", dir, "main")
	await(t, w, "running")
	if err := os.Rename(dir, dir+"-away"); err != nil {
		t.Fatal(err)
	}
	rested := startRest(w)
	for deadline := time.Now().Add(testTimeout); w.interval != tick; w.Look() {
		if time.Now().After(deadline) {
			t.Fatalf("without events, the next look is %s later, not %s", w.interval, tick)
		}
	}
	if err := os.Rename(dir+"-away", dir); err != nil {
		t.Fatal(err)
	}
	<-rested
	if w.Look(); w.interval != pendingTick {
		t.Errorf("with events again, the next look is %s later, not %s", w.interval, pendingTick)
	}
	owner.do("end", "3")
	await(t, w, "ended: 3")
}

// A watcher survives the removal of its directory: inotify does not, but the tick does.
func TestDirectoryRecreated(t *testing.T) {
	t.Parallel()
	dir, owner := testenv.Volume(t), newHelper(t)
	w := watchRun(t, dir)
	owner.do("begin", dir, "main")
	await(t, w, "running")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if got := describe(w.Look()[0]); got != "running" {
		t.Errorf("without its directory the state of a live run is %q", got)
	}
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	owner.do("end", "3")
	await(t, w, "ended: 3")
	owner.do("begin", dir, "main")
	await(t, w, "running")
	owner.do("end", "4")
	await(t, w, "ended: 4")
}

// The time in which a watcher is frozen does not count.
func TestFrozenWatcher(t *testing.T) {
	dir := testenv.Volume(t)
	testenv.Plant(t, runningPath(dir, "main"), contentRunning)
	w := watchRun(t, dir)
	const looks = 30 // they count at most half a minute
	for range looks {
		if got := describe(w.Look()[0]); got != "unverified" {
			t.Fatalf("the state is %q", got)
		}
		w.lastLook = w.lastLook.Add(-time.Hour) // the watcher was frozen for an hour
	}
	if got := w.runs[0].judge.still.since; got > looks*tick {
		t.Errorf("%d looks have countingVolume for %s", looks, got)
	}
	for range 60 {
		w.lastLook = w.lastLook.Add(-tick)
		w.Look()
	}
	if got := describe(w.Look()[0]); got != "lost, found dead: 137" {
		t.Errorf("after a minute of being watched the state is %q", got)
	}
}

// A watcher that was frozen does not take a slow writer's empty file for a success.
func TestFrozenWatcherOfAnEmptyEnd(t *testing.T) {
	t.Parallel()
	dir := testenv.Volume(t)
	testenv.Plant(t, TerminatedPath(dir, "main"), "")
	w := watchRun(t, dir)
	w.Look()
	w.lastLook = w.lastLook.Add(-time.Hour)
	if got := describe(w.Look()[0]); got != "unsettled" {
		t.Errorf("at once the state is %q", got)
	}
	await(t, w, "empty: 0")
	// A code that comes late counts.
	testenv.Plant(t, TerminatedPath(dir, "main"), "3\n")
	await(t, w, "ended: 3")
}

// A writer may create the end first and write the code later.
func TestSlowWriter(t *testing.T) {
	dir := testenv.Volume(t)
	w := watchRun(t, dir)
	f, err := os.Create(TerminatedPath(dir, "main"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got := describe(w.Look()[0]); got != "unsettled" {
		t.Fatalf("the state of an end that is being written is %q", got)
	}
	if _, err := f.WriteString("3\n"); err != nil {
		t.Fatal(err)
	}
	for _, seen := range await(t, w, "ended: 3") {
		if seen != "unsettled" {
			t.Errorf("before the code was written the state was %q", seen)
		}
	}
}

// Of a thousand short runs of random length, a watcher sees each end, and no state that did not exist.
func TestNoEndIsMissed(t *testing.T) {
	t.Parallel()
	const runs = 1000
	dir, owner := testenv.FastVolume(t), newHelper(t)
	w := watchRun(t, dir)
	before := "not started"
	for i := range runs {
		want := fmt.Sprintf("ended: %d", codeOf(i))
		owner.send("run", dir, "main", fmt.Sprint(codeOf(i)))
		lines := owner.lines
		deadline := time.After(testTimeout)
		for {
			got := describe(w.Look()[0])
			if got == want && lines == nil {
				break
			}
			switch got {
			case before, want, "running", "unsettled":
			default:
				t.Fatalf("the state of run %d is %q; the volume: %s", i, got, testenv.Listing(dir))
			}
			select {
			case <-w.Hints():
			case line := <-lines:
				if line != "ok" {
					t.Fatalf("run %d: %s", i, line)
				}
				lines = nil
			case <-deadline:
				t.Fatalf("the end of run %d is not seen; the volume: %s", i, testenv.Listing(dir))
			}
		}
		before = want
	}
}

// The owner does not wait for the watcher, which looks as fast as it can: no state that it sees is wrong.
func TestLooksAreNeverWrong(t *testing.T) {
	t.Parallel()
	const runs = 2000
	for _, pending := range []bool{true, false} {
		t.Run(fmt.Sprintf("lock waits %t", pending), func(t *testing.T) {
			t.Parallel()
			dir, owner := testenv.FastVolume(t), newHelper(t)
			w := watchRun(t, dir)
			w.runs[0].unsupported.Store(!pending)
			owner.send("runs", dir, "main", fmt.Sprint(runs))
			last, ends := 0, 0
			for done := false; !done; {
				select {
				case line := <-owner.lines:
					if line != "ok" {
						t.Fatal(line)
					}
					done = true
				default:
				}
				s := w.Look()[0]
				switch {
				case s.Phase == Running || s.Phase == Unsettled || s.Phase == NotStarted:
				case s.Phase == Ended && s.Cause == Recorded && s.Code != 0:
					if s.Code != last {
						ends++
					}
					last = s.Code
				default:
					t.Fatalf("after %d ends the state is %q; the volume: %s", ends, describe(s), testenv.Listing(dir))
				}
			}
			if want := codeOf(runs - 1); last != want {
				t.Errorf("the last end seen is %d, not %d", last, want)
			}
			if ends < 2 {
				t.Errorf("only %d of %d ends were seen", ends, runs)
			}
		})
	}
}

// A watcher that was stopped for a while sees the current state when it continues.
func TestStoppedWatcher(t *testing.T) {
	t.Parallel()
	dir, owner, watcher := testenv.Volume(t), newHelper(t), newHelper(t)
	watcher.send("watch", dir, "main")
	if line := watcher.receive(); line != "not started" {
		t.Fatal(line)
	}
	owner.do("begin", dir, "main")
	if line := watcher.receive(); line != "running" {
		t.Fatal(line)
	}
	pid := watcher.cmd.Process.Pid
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := unix.Waitid(unix.P_PID, pid, nil, unix.WSTOPPED, nil); err != nil {
		t.Fatal(err)
	}
	owner.do("end", "3")
	owner.do("runs", dir, "main", "5")
	if err := unix.Kill(pid, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if line := watcher.receive(); line != "ended: 5" {
		t.Errorf("the watcher reports %q", line)
	}
}

// Neither many looks nor many runs leave a descriptor open.
func TestNoDescriptorLeaks(t *testing.T) {
	t.Parallel()
	dir, owner, watcher := testenv.FastVolume(t), newHelper(t), newHelper(t)
	watcher.send("watch", dir, "main")
	if line := watcher.receive(); line != "not started" {
		t.Fatal(line)
	}
	open := func(h *helper) int {
		files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", h.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		return len(files)
	}
	owner.do("runs", dir, "main", "2")
	ownerHad, watcherHad := open(owner), open(watcher)
	owner.do("runs", dir, "main", "500")
	if has := open(owner); has > ownerHad {
		t.Errorf("after 500 runs their owner has %d files open, and had %d", has, ownerHad)
	}
	// The watcher may still be looking, and has one file open while it waits for a lock.
	for deadline := time.Now().Add(testTimeout); open(watcher) > watcherHad; {
		if time.Now().After(deadline) {
			t.Fatalf("after 500 runs their watcher has %d files open, and had %d", open(watcher), watcherHad)
		}
	}
}
