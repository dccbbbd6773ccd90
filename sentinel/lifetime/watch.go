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

// Watcher follows runs on a volume. What wakes it are hints (inotify, the end of a
// lock wait, a tick); what is true, each look finds out anew.
//
// Its methods are for one goroutine.
type Watcher struct {
	dir     Dir
	runs    []*followedRun
	hints   chan struct{}
	notify  *fsnotify.Watcher // nil where inotify is refused
	limiter *rate.Limiter

	lastLook time.Time
	interval time.Duration
	timer    *time.Timer
}

// followedRun is one run that is followed.
type followedRun struct {
	Observer
	// pending: a goroutine is blocked until the run's lock is free.
	pending atomic.Bool
	// unsupported: this file system refuses to let us wait for a lock.
	unsupported atomic.Bool
}

// Watch follows the named runs on the volume dir. A run whose owner cannot be
// verified is lost when its file has stood still for lostAfter; 0 is at once.
//
// It watches before the first look, so no end is ever missed. Where inotify is
// refused, an error says so, and the Watcher works all the same, by looking once a
// second.
func Watch(dir Dir, names []string, lostAfter time.Duration) (*Watcher, error) {
	w := &Watcher{dir: dir, hints: make(chan struct{}, 1), limiter: newLimiter(), interval: tick}
	for _, name := range names {
		w.runs = append(w.runs, &followedRun{Observer: NewObserver(dir, name, lostAfter)})
	}
	w.timer = time.AfterFunc(tick, w.hint)
	return w, w.subscribe()
}

// subscribe has the kernel tell of every change of the runs' files. The directory
// is followedRun and not the files: they change their names.
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

// explain says why there is no inotify, as far as its error tells (inotify_init(2),
// inotify_add_watch(2)).
func (w *Watcher) explain(err error) error {
	why := ""
	switch {
	case errors.Is(err, unix.EMFILE) && noDescriptorLeft():
		why = ": this process may have no more files open: raise its limit (ulimit -n)"
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

// noDescriptorLeft reports whether this process can open no file at all: EMFILE means that, too.
func noDescriptorLeft() bool {
	f, err := os.Open(os.DevNull)
	if err == nil {
		f.Close()
	}
	return outOfDescriptors(err)
}

// Hints delivers a value whenever it is worth to look. Many hints may come as one.
func (w *Watcher) Hints() <-chan struct{} { return w.hints }

func (w *Watcher) hint() {
	select {
	case w.hints <- struct{}{}:
	default: // one is waiting already
	}
}

// rest has the kernel tell nothing for a pause. What has happened meanwhile, nobody knows.
func (w *Watcher) rest(notify *fsnotify.Watcher) {
	// Events that are asked for and not read would fill our own memory: up to 8 MiB.
	_ = notify.Remove(string(w.dir)) // unless the directory is gone, and the watch with it
	time.Sleep(pause)
	for {
		err := notify.Add(string(w.dir))
		if err == nil || errors.Is(err, fsnotify.ErrClosed) {
			return
		}
		time.Sleep(tick) // somebody else has the last watch; the tick remains
	}
}

// Look looks at all runs, in the order in which they were named.
func (w *Watcher) Look() []State {
	now := time.Now()
	elapsed := min(now.Sub(w.lastLook), w.interval)
	w.lastLook, w.interval = now, tick

	states := make([]State, len(w.runs))
	for i, run := range w.runs {
		// Asked before the look: a wait that returns later wakes us again.
		pending := run.pending.Load()
		var locked File
		states[i], locked = run.Look(pending, elapsed)
		w.interval = min(w.interval, PollInterval(states[i]))
		if locked != nil {
			w.await(run, locked)
		}
	}
	spend(w.limiter, len(w.runs)*lookCost, now)
	w.timer.Reset(w.interval)
	return states
}

// await waits in the background until nobody holds the lock of f, and closes f. A
// blocked wait cannot be cancelled, so there is never more than one for a run.
func (w *Watcher) await(run *followedRun, f File) {
	if run.unsupported.Load() || !run.pending.CompareAndSwap(false, true) {
		f.Close()
		return
	}
	go func() {
		if f.AwaitUnlocked() != nil {
			run.unsupported.Store(true)
		}
		f.Close() // gives the lock back at once
		run.pending.Store(false)
		if !spend(w.limiter, 0, time.Now()) {
			time.Sleep(pause) // somebody may lock and unlock it without end
		}
		w.hint()
	}()
}

// Close stops watching. Goroutines that wait for a lock end with the program.
func (w *Watcher) Close() {
	w.timer.Stop()
	if w.notify != nil {
		w.notify.Close()
	}
}
