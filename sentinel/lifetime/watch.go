package lifetime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
)

// Watcher follows runs on a volume (design, 2.5). Hints wake it: an inotify event, the end of a lock wait,
// a tick. They carry no facts: each look reads the volume anew.
//
// Its methods must not be called concurrently.
type Watcher struct {
	dir    Dir
	runs   []*followedRun
	hints  chan struct{}
	notify *fsnotify.Watcher // nil where inotify is refused
	// subscribed: the kernel is asked for events.
	subscribed atomic.Bool
	limiter    *rate.Limiter

	lastLook time.Time
	interval time.Duration
	timer    *time.Timer
}

type followedRun struct {
	Observer
	pending     atomic.Bool // a goroutine waits for the run's lock
	unsupported atomic.Bool // the file system has refused such a wait
}

// Watch follows the named runs on the volume dir. A run whose owner cannot be verified is lost when its
// file has not changed for lostAfter; 0 is at once.
//
// The Watcher watches before its first look, so it misses nothing in between. If inotify is refused, Watch
// returns an error with the reason, and a Watcher that works without inotify: lock waits and the tick of one
// second wake it.
func Watch(dir Dir, names []string, lostAfter time.Duration) (*Watcher, error) {
	w := &Watcher{dir: dir, hints: make(chan struct{}, 1), limiter: newLimiter(), interval: tick}
	for _, name := range names {
		w.runs = append(w.runs, &followedRun{Observer: NewObserver(dir, name, lostAfter)})
	}
	w.timer = time.AfterFunc(tick, w.hint)
	return w, w.subscribe()
}

// subscribe asks the kernel for an event at every change of the runs' files. It watches the directory and
// not the files, because they change their names.
func (w *Watcher) subscribe() error {
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return w.explain(err)
	}
	if err := notify.Add(string(w.dir)); err != nil {
		notify.Close()
		return w.explain(err)
	}
	w.notify = notify
	w.subscribed.Store(true)
	names := make(map[string]bool)
	for _, run := range w.runs {
		names[run.name+runningSuffix] = true
		names[run.name+terminatedSuffix] = true
	}
	go func() {
		for {
			look := true
			select {
			case event, ok := <-notify.Events:
				if !ok {
					return
				}
				look = names[filepath.Base(event.Name)]
			case _, ok := <-notify.Errors: // events were lost
				if !ok {
					return
				}
			}
			if !spend(w.limiter, eventCost, time.Now()) {
				w.rest(notify)
				look = true
			}
			if look {
				w.hint()
			}
		}
	}()
	return nil
}

// explain adds to an error of inotify what it means and what to do (inotify_init(2),
// inotify_add_watch(2)).
func (w *Watcher) explain(err error) error {
	why := ""
	switch {
	case errors.Is(err, unix.EMFILE) && noDescriptorLeft():
		why = ": this process has too many open files: raise its limit (ulimit -n)"
	case errors.Is(err, unix.EMFILE):
		why = ": this user has all instances that the node allows: raise fs.inotify.max_user_instances"
	case errors.Is(err, unix.ENOSPC):
		why = ": this user has all watches that the node allows: raise fs.inotify.max_user_watches"
	case errors.Is(err, unix.EACCES):
		why = ": the directory is not readable for this user: set fsGroup, or its mode"
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM):
		why = ": refused by a seccomp profile or the sandbox: allow inotify_init1 and inotify_add_watch"
	}
	return fmt.Errorf("inotify on %s: %w%s", w.dir, err, why)
}

// noDescriptorLeft reports whether this process can open no file at all: EMFILE may mean that, too.
func noDescriptorLeft() bool {
	f, err := os.Open(os.DevNull)
	if err == nil {
		f.Close()
	}
	return outOfDescriptors(err)
}

// Hints delivers a value whenever something may have changed. Several hints may come as one.
func (w *Watcher) Hints() <-chan struct{} { return w.hints }

func (w *Watcher) hint() {
	select {
	case w.hints <- struct{}{}:
	default: // one is waiting already
	}
}

// rest stops the events of the kernel for a pause. What happens meanwhile causes no hint.
func (w *Watcher) rest(notify *fsnotify.Watcher) {
	// Unread events would fill our own memory: up to 8 MiB.
	w.subscribed.Store(false)
	_ = notify.Remove(string(w.dir)) // fails if the directory is gone, and the watch with it
	time.Sleep(pause)
	for {
		err := notify.Add(string(w.dir))
		if err == nil || errors.Is(err, fsnotify.ErrClosed) {
			w.subscribed.Store(err == nil)
			return
		}
		time.Sleep(tick) // no watch or no directory is left; the tick remains
	}
}

// Look returns the states of all runs, in the order of the names given to Watch. It does not wait.
func (w *Watcher) Look() []State {
	now := time.Now()
	elapsed := min(now.Sub(w.lastLook), w.interval)
	w.lastLook, w.interval = now, pendingTick

	states := make([]State, len(w.runs))
	for i, run := range w.runs {
		// Load this before the look: a wait that returns later sends another hint.
		pending := run.pending.Load()
		var locked File
		states[i], locked = run.Look(pending, elapsed)
		if locked != nil {
			w.await(run, locked)
		}
		w.interval = min(w.interval, PollInterval(states[i], w.subscribed.Load() && run.pending.Load()))
	}
	spend(w.limiter, len(w.runs)*lookCost, now)
	w.timer.Reset(w.interval)
	return states
}

// await sends a hint when nobody holds the lock of f any more. It closes f, and does not block. A blocked
// wait cannot be cancelled, so each run has at most one.
func (w *Watcher) await(run *followedRun, f File) {
	if run.unsupported.Load() || !run.pending.CompareAndSwap(false, true) {
		f.Close()
		return
	}
	go func() {
		if f.AwaitUnlocked() != nil {
			run.unsupported.Store(true)
		}
		f.Close() // releases the read lock of the wait
		run.pending.Store(false)
		if !spend(w.limiter, 0, time.Now()) {
			time.Sleep(pause) // another process may lock and unlock the file in a loop
		}
		w.hint()
	}()
}

// Unsubscribe ends the events of the kernel, for an owner that has decided and waits for nothing on the volume any
// more. It can still look, and the other hints remain. The other watchers of the volume would wake this one whenever
// they write.
func (w *Watcher) Unsubscribe() {
	if w.notify != nil {
		w.notify.Close()
	}
}

// Close stops watching. Its goroutines that wait for a lock may stay until the program ends.
func (w *Watcher) Close() {
	w.timer.Stop()
	w.Unsubscribe()
}
