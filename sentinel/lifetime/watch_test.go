package lifetime

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// watchRun follows the run main on dir for the time of a test.
func watchRun(t testing.TB, dir string) *Watcher {
	t.Helper()
	w, err := Watch(Dir(dir), []string{"main"}, time.Minute)
	if err != nil {
		t.Skipf("inotify is refused here: %v", err)
	}
	t.Cleanup(w.Close)
	return w
}

// await waits for hints until the run is seen so, and returns what it was seen as
// before.
func await(t testing.TB, w *Watcher, want string) (before []string) {
	t.Helper()
	deadline := time.After(patience)
	for {
		now := describe(w.Look()[0])
		if now == want {
			return before
		}
		before = append(before, now)
		select {
		case <-w.Hints():
		case <-deadline:
			t.Fatalf("the run was not seen as %q within %s, but as %q; the volume: %s", want, patience, before, listing(string(w.dir)))
		}
	}
}

// The three wake-ups of a watcher, and how to make it deaf to them.
const (
	events   = "inotify"
	lockWait = "the wait for the lock"
	ticks    = "the tick"
)

// deafen takes from a watcher all wake-ups but one.
func deafen(w *Watcher, but string) {
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
				dir, owner := newVolume(t), newHelper(t)
				w := watchRun(t, dir)
				deafen(w, but)
				if but == lockWait {
					owner.do("begin", dir, "main") // of which no lock can tell
				} else {
					if seen := describe(w.Look()[0]); seen != "not started" {
						t.Fatalf("before the run it is seen as %q", seen)
					}
					owner.do("begin", dir, "main")
				}
				await(t, w, "running")
				if end == "ended: 3" {
					owner.do("end", "3")
				} else {
					owner.kill()
				}
				await(t, w, end)
				// And the next one.
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

// An end and a death are told by an event: not first by the tick.
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
			// One that is held up by a loaded machine proves nothing.
			least := time.Hour
			for range 5 {
				dir, owner := newVolume(t), newHelper(t)
				w := watchRun(t, dir)
				owner.do("begin", dir, "main")
				await(t, w, "running")
				began := time.Now()
				c.end(owner)
				await(t, w, c.want)
				least = min(least, time.Since(began))
			}
			if least >= tick/2 {
				t.Errorf("it never took less than %s, and the tick is %s", least, tick)
			}
		})
	}
}

// Where the kernel refuses a wake-up, Watch says so once and the rest goes on.
func TestWatchRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		refuse []string
		says   string
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
			dir, owner := newVolume(t), newHelper(t)
			watcher := newHelper(t, refusing(c.refuse...))
			watcher.say("watch", dir, "main")
			if c.says != "" {
				line := watcher.hear()
				if !strings.HasPrefix(line, "warning: inotify on "+dir+": ") || !strings.Contains(line, c.says) {
					t.Errorf("Watch says %q; want a warning about inotify that says %s", line, c.says)
				}
				if strings.Contains(line, "max_user_") != strings.Contains(c.says, "max_user_") {
					t.Errorf("Watch says %q, which is not the cause", line)
				}
			}
			hear := func(want string) {
				t.Helper()
				line := watcher.hear()
				if line == "not started" && want == "running" {
					line = watcher.hear() // that was the gap of the Begin
				}
				if line != want {
					t.Fatalf("the watcher says %q, not %q", line, want)
				}
			}
			hear("not started")
			owner.do("begin", dir, "main")
			hear("running")
			owner.do("end", "3")
			hear("ended: 3")
			owner.do("begin", dir, "main")
			hear("running")
			owner.kill()
			hear("lost: 137")
		})
	}
}

// A watcher that sees a run for the first time takes it for what it is.
func TestFirstLook(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(t *testing.T, dir string, owner *helper)
		want    string
	}{
		{"nothing", func(*testing.T, string, *helper) {}, "not started"},
		{"a live run", func(t *testing.T, dir string, owner *helper) { owner.do("begin", dir, "main") }, "running"},
		{"an end", func(t *testing.T, dir string, owner *helper) { owner.do("record", dir, "main", "3") }, "ended: 3"},
		{"a shell's end", func(t *testing.T, dir string, _ *helper) { plant(t, dir+"/main-terminated", "3") }, "ended: 3"},
		{"a dead run", func(t *testing.T, dir string, owner *helper) {
			owner.do("begin", dir, "main")
			owner.kill()
		}, "unverified"},
		{"an end in place", func(t *testing.T, dir string, _ *helper) { plant(t, dir+"/main-running", "3\n") }, "ended: 3"},
		{"another run", func(t *testing.T, dir string, owner *helper) { owner.do("record", dir, "other", "3") }, "not started"},
		{"no volume", func(t *testing.T, dir string, _ *helper) { os.RemoveAll(dir) }, "not started"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, owner := newVolume(t), newHelper(t)
			c.prepare(t, dir, owner)
			w, _ := Watch(Dir(dir), []string{"main"}, time.Minute)
			defer w.Close()
			if got := describe(w.Look()[0]); got != c.want {
				t.Errorf("it is seen as %q, not as %q", got, c.want)
			}
		})
	}
}

// Several runs are seen in the order in which they were named.
func TestWatchSeveral(t *testing.T) {
	dir := newVolume(t)
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
		t.Errorf("the runs are seen as %q, not %q", got, want)
	}
	mustEnd(t, run, 0)
}

// A death is no death while the wait for the lock goes on, whatever becomes of the file.
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
			plant(t, path+"-new", "0\n")
			if err := os.Rename(path+"-new", path); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir, owner := newVolume(t), newHelper(t)
			w := watchRun(t, dir)
			owner.do("begin", dir, "main")
			await(t, w, "running")
			c.take(t, runningPath(dir, "main"))
			for range 3 {
				<-w.Hints()
				if got := describe(w.Look()[0]); got != "running" {
					t.Fatalf("a live run is seen as %q", got)
				}
			}
			owner.do("end", "3")
			await(t, w, "ended: 3")
		})
	}
}

// The run's file, and then its owner, are gone: it is lost.
func TestLostWithoutAFile(t *testing.T) {
	dir, owner := newVolume(t), newHelper(t)
	w := watchRun(t, dir)
	owner.do("begin", dir, "main")
	await(t, w, "running")
	if err := os.Remove(runningPath(dir, "main")); err != nil {
		t.Fatal(err)
	}
	owner.kill()
	await(t, w, "lost: 137")
}

// A run that comes and goes between two looks: its end is seen; and of many, the last.
func TestMissedRuns(t *testing.T) {
	dir, owner := newVolume(t), newHelper(t)
	w := watchRun(t, dir)
	if got := describe(w.Look()[0]); got != "not started" {
		t.Fatalf("at first it is seen as %q", got)
	}
	owner.do("runs", dir, "main", "3")
	if got := describe(w.Look()[0]); got != "ended: 3" {
		t.Errorf("after three runs it is seen as %q", got)
	}

	// One run is seen to begin, its end is missed, and the next is live.
	owner.do("begin", dir, "main")
	before := w.Look()[0]
	owner.do("end", "7")
	owner.do("begin", dir, "main")
	after := w.Look()[0]
	if describe(before) != "running" || describe(after) != "running" || before.ID == after.ID {
		t.Errorf("the runs are seen as %q and %q, identities %v and %v; want two that are running", describe(before), describe(after), before.ID, after.ID)
	}
	owner.kill()
	await(t, w, "lost: 137")
}

// A watcher outlives the directory that it watches: inotify does not, the tick does.
func TestFolderRecreated(t *testing.T) {
	t.Parallel()
	dir, owner := newVolume(t), newHelper(t)
	w := watchRun(t, dir)
	owner.do("begin", dir, "main")
	await(t, w, "running")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if got := describe(w.Look()[0]); got != "running" {
		t.Errorf("without its directory a live run is seen as %q", got)
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

// While the watcher itself is frozen, nobody's time runs out.
func TestFrozenWatcher(t *testing.T) {
	dir := newVolume(t)
	plant(t, runningPath(dir, "main"), contentRunning)
	w := watchRun(t, dir)
	const looks = 30 // of a minute
	for range looks {
		if got := describe(w.Look()[0]); got != "unverified" {
			t.Fatalf("it is seen as %q", got)
		}
		w.lastLook = w.lastLook.Add(-time.Hour) // it has slept for an hour
	}
	if got := w.runs[0].judge.still.since; got > looks*tick {
		t.Errorf("%d looks have counted for %s", looks, got)
	}
	for range 60 {
		w.lastLook = w.lastLook.Add(-tick)
		w.Look()
	}
	if got := describe(w.Look()[0]); got != "lost, found dead: 137" {
		t.Errorf("after a minute of being watched it is seen as %q", got)
	}
}

// A frozen watcher does not take a slow writer's empty file for a success either.
func TestFrozenWatcherOfAnEmptyEnd(t *testing.T) {
	t.Parallel()
	dir := newVolume(t)
	plant(t, TerminatedPath(dir, "main"), "")
	w := watchRun(t, dir)
	w.Look()
	w.lastLook = w.lastLook.Add(-time.Hour)
	if got := describe(w.Look()[0]); got != "unsettled" {
		t.Errorf("at once it is seen as %q", got)
	}
	await(t, w, "touched: 0")
	// And a code that comes late is seen.
	plant(t, TerminatedPath(dir, "main"), "3\n")
	await(t, w, "ended: 3")
}

// Whoever writes the end step by step is given the time.
func TestSlowWriter(t *testing.T) {
	dir := newVolume(t)
	w := watchRun(t, dir)
	f, err := os.Create(TerminatedPath(dir, "main"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got := describe(w.Look()[0]); got != "unsettled" {
		t.Fatalf("an end that is being written is seen as %q", got)
	}
	if _, err := f.WriteString("3\n"); err != nil {
		t.Fatal(err)
	}
	for _, seen := range await(t, w, "ended: 3") {
		if seen != "unsettled" {
			t.Errorf("on the way it was seen as %q", seen)
		}
	}
}

// A thousand short runs of random length: each end is seen, and nothing that was not.
func TestNoEndIsMissed(t *testing.T) {
	t.Parallel()
	const runs = 1000
	dir, owner := newFastVolume(t), newHelper(t)
	w := watchRun(t, dir)
	before := "not started"
	for i := range runs {
		want := fmt.Sprintf("ended: %d", codeOf(i))
		owner.say("run", dir, "main", fmt.Sprint(codeOf(i)))
		lines := owner.lines
		deadline := time.After(patience)
		for {
			got := describe(w.Look()[0])
			if got == want && lines == nil {
				break
			}
			switch got {
			case before, want, "running", "unsettled":
			case "not started": // the gap of this run's Begin, when the end before was seen
			default:
				t.Fatalf("run %d is seen as %q; the volume: %s", i, got, listing(dir))
			}
			select {
			case <-w.Hints():
			case line := <-lines:
				if line != "ok" {
					t.Fatalf("run %d: %s", i, line)
				}
				lines = nil
			case <-deadline:
				t.Fatalf("the end of run %d is not seen; the volume: %s", i, listing(dir))
			}
		}
		before = want
	}
}

// The same by an owner that does not wait for the watcher, which looks as fast as it can:
// nothing that it sees is wrong.
func TestLooksAreNeverWrong(t *testing.T) {
	t.Parallel()
	const runs = 2000
	for _, pending := range []bool{true, false} {
		t.Run(fmt.Sprintf("lock waits %t", pending), func(t *testing.T) {
			t.Parallel()
			dir, owner := newFastVolume(t), newHelper(t)
			w := watchRun(t, dir)
			w.runs[0].unsupported.Store(!pending)
			owner.say("runs", dir, "main", fmt.Sprint(runs))
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
					t.Fatalf("after %d ends, a run is seen as %q; the volume: %s", ends, describe(s), listing(dir))
				}
			}
			if want := codeOf(runs - 1); last != want {
				t.Errorf("the last end that was seen is %d, not %d", last, want)
			}
			if ends < 2 {
				t.Errorf("only %d of %d ends were seen", ends, runs)
			}
		})
	}
}

// A watcher that is stopped for a while sees what is true when it goes on.
func TestStoppedWatcher(t *testing.T) {
	t.Parallel()
	dir, owner, watcher := newVolume(t), newHelper(t), newHelper(t)
	watcher.say("watch", dir, "main")
	if line := watcher.hear(); line != "not started" {
		t.Fatal(line)
	}
	owner.do("begin", dir, "main")
	if line := watcher.hear(); line != "running" {
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
	if line := watcher.hear(); line != "ended: 5" {
		t.Errorf("it says %q", line)
	}
}

// Neither many looks nor many runs leave a descriptor open.
func TestNoDescriptorLeaks(t *testing.T) {
	t.Parallel()
	dir, owner, watcher := newFastVolume(t), newHelper(t), newHelper(t)
	watcher.say("watch", dir, "main")
	if line := watcher.hear(); line != "not started" {
		t.Fatal(line)
	}
	open := func(p *helper) int {
		files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
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
	// It may still be looking, and has one file open while it waits for a lock.
	for deadline := time.Now().Add(patience); open(watcher) > watcherHad; {
		if time.Now().After(deadline) {
			t.Fatalf("after 500 runs their watcher has %d files open, and had %d", open(watcher), watcherHad)
		}
	}
}
