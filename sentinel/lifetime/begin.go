package lifetime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sentinel-shim/sentinel-shim/sentinel/crashpoint"
)

const (
	// liveWait is for how long Begin waits for a live run of its name to end.
	liveWait = 5 * time.Second
	// lockTimeout is for how long Begin waits for another Begin that is replacing a dead file.
	lockTimeout = time.Second
	// retryEvery is how often Begin looks again while it waits.
	retryEvery = 5 * time.Millisecond
	// leftoverAge is how old the private file of a killed Begin has to be
	// until another Begin removes it.
	leftoverAge = 5 * time.Second
	// maxLeftovers is how many of them one Begin looks at: each is of a Begin that
	// was killed in its few microseconds, so there are never many.
	maxLeftovers = 100
)

// LiveError says that a run of this name is going on.
type LiveError struct{ Path string }

func (e *LiveError) Error() string { return e.what() + ": " + e.remedy() }

// Waiting says that Begin waits for that run to end.
func (e *LiveError) Waiting() string {
	return fmt.Sprintf("%s: waiting up to %s for it to end: %s", e.what(), liveWait, e.remedy())
}

func (e *LiveError) name() string {
	return strings.TrimSuffix(e.Path[strings.LastIndexByte(e.Path, '/')+1:], runningSuffix)
}

func (e *LiveError) what() string {
	return fmt.Sprintf("another sentinel or shim named %s is running on this volume (%s is locked)", e.name(), e.Path)
}

func (e *LiveError) remedy() string {
	const remedy = "give one of them another --name"
	if isInterpreter(e.name()) {
		return fmt.Sprintf("%s (a shim's default is the base name of its program, %s for every script)", remedy, e.name())
	}
	return remedy
}

// interpreters are programs that containers often run to interpret something else.
var interpreters = []string{
	"ash", "bash", "busybox", "dash", "ksh", "sh", "zsh",
	"bun", "deno", "java", "lua", "node", "nodejs", "perl", "php", "python", "pypy", "ruby",
}

// isInterpreter reports whether a program is one of those, in whatever version: python3.12.
func isInterpreter(program string) bool {
	return slices.Contains(interpreters, strings.TrimRight(program, "0123456789.-"))
}

// Run is a run that has begun. Its methods may be called from any goroutine.
type Run struct {
	volume  Volume
	name    string
	file    File
	current string // what file is called: the private name, then NAME-running

	mu          sync.Mutex // one writer at a time: the heartbeat or a change of word
	word        string
	stopBeating func()
}

// Begin begins a run named name on the volume. An earlier run of that name is
// replaced. It waits up to five seconds for a live one to end, then fails with a
// *LiveError; or until ctx is done, with ctx's error.
//
// Begin calls waiting, if it is not nil, once, as soon as it knows that it has to wait for
// a live run.
//
// earlier reports whether an earlier run had left its file, also when Begin fails. If Begin
// had to wait for a live run it is false: a container restarts when its old process is dead,
// so the live run was another's, and nobody knows whose the file was.
func Begin(ctx context.Context, v Volume, name string, waiting func(*LiveError)) (run *Run, earlier bool, err error) {
	return begin(ctx, v, name, liveWait, waiting)
}

func begin(ctx context.Context, v Volume, name string, timeout time.Duration, waiting func(*LiveError)) (run *Run, earlier bool, err error) {
	earlier = exists(v, name+terminatedSuffix) || exists(v, name+runningSuffix)
	private, file, err := createPrivate(v, name, wordRunning)
	if err != nil {
		return nil, earlier, err
	}
	run = &Run{volume: v, name: name, file: file, current: private, word: wordRunning}
	run.stopBeating = v.Tick(Heartbeat, run.beat)
	crashpoint.At("begin.prepared")
	err = run.claim(ctx, timeout, func(live *LiveError) {
		earlier = false
		if waiting != nil {
			waiting(live)
		}
	})
	if err != nil {
		run.abandon()
		return nil, earlier, err
	}
	crashpoint.At("begin.claimed")
	removeLeftovers(ctx, v, name)
	return run, earlier, nil
}

func exists(v Volume, name string) bool {
	_, err := v.Lstat(name)
	return err == nil
}

// beat is the heartbeat.
func (r *Run) beat() {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, _ = r.file.WriteAt([]byte(r.word), 0) // the next one may succeed
}

// abandon gives up a run that could not begin.
func (r *Run) abandon() {
	r.stopBeating()
	_ = r.volume.Remove(r.current)
	r.file.Close()
}

// errChanged says that the volume changed during an attempt to take the name.
var errChanged = errors.New("the file was replaced meanwhile")

// claim gives the private file the name NAME-running. While a live run has the name, it waits for its
// end, and calls waiting once; after timeout it returns a *LiveError.
func (r *Run) claim(ctx context.Context, timeout time.Duration, waiting func(*LiveError)) error {
	start, told := r.volume.Now(), false
	for {
		err := r.tryClaim()
		waited := r.volume.Now().Sub(start)
		live := (*LiveError)(nil)
		switch {
		case errors.As(err, &live) && waited < timeout:
			if !told {
				told = true
				waiting(live)
			}
		case errors.Is(err, errChanged) && waited < timeout+time.Second:
		case errors.Is(err, errChanged):
			return fmt.Errorf("%s: another program keeps replacing it: only sentinel and shim may write to it", r.runningPath())
		default:
			return err
		}
		if err := r.volume.Sleep(ctx, retryEvery); err != nil {
			return err
		}
	}
}

func (r *Run) runningPath() string { return r.volume.Path(r.name + runningSuffix) }

// tryClaim takes the name in one attempt. It returns a *LiveError if a live run has it, or
// errChanged.
func (r *Run) tryClaim() error {
	running := r.name + runningSuffix
	if _, err := r.volume.Lstat(running); errors.Is(err, fs.ErrNotExist) {
		return r.take(r.volume.RenameNoReplace)
	}

	// Begins replace a dead file one after the other: between the last look at it and the rename,
	// another could begin.
	unlock := r.volume.Lock(lockTimeout)
	defer unlock()
	info, err := r.volume.Lstat(running)
	if errors.Is(err, fs.ErrNotExist) {
		return errChanged
	}
	if err != nil {
		return err
	}
	if info.Type.IsDir() {
		return fmt.Errorf("%s is a directory: remove it, and let nothing but sentinel and shim write such names", r.runningPath())
	}
	// Where a neighbour holds the directory's lock for ever, the dead file's write lock takes its
	// place. Read locks may be in the way of that; they say nothing about a live run.
	old, err := openSeen(r.volume, running, info, true)
	dead := err == nil && old.TryWriteLock() == nil
	if err != nil {
		old, err = openSeen(r.volume, running, info, false)
	}
	seen := info.Identity
	if err == nil {
		defer old.Close() // until then its inode cannot be another file's
		if !dead && old.WriteLocked() {
			return &LiveError{r.runningPath()}
		}
		if info, err := old.Stat(); err == nil {
			seen = info.Identity
		}
	}
	if now, err := r.volume.Lstat(running); err != nil || !now.sameFile(seen) {
		return errChanged
	}
	return r.take(r.volume.Rename)
}

// take gives our file its name, and then removes the end of an earlier run. Not before:
// who is killed in between has to leave a trace of that run, or the next Begin would
// take itself for the first. And between a removal and the rename a whole run might
// come and go, whose end would be taken for ours.
func (r *Run) take(rename func(from, to string) error) error {
	running := r.name + runningSuffix
	err := rename(r.current, running)
	if errors.Is(err, fs.ErrExist) {
		return errChanged
	}
	if err != nil {
		return err
	}
	r.current = running
	crashpoint.At("begin.named")
	return r.removeEnd()
}

// removeEnd removes the end of an earlier run.
func (r *Run) removeEnd() error {
	if err := r.volume.Remove(r.name + terminatedSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the earlier run's end: %w", err)
	}
	return nil
}

// removeLeftovers removes the private files of Begins that were killed: not more than
// maxLeftovers, and none once ctx is done, for the command is not started before.
func removeLeftovers(ctx context.Context, v Volume, name string) {
	found := 0
	for file := range filesOf(ctx, v) {
		if !isPrivate(file, name) {
			continue
		}
		if found++; found > maxLeftovers {
			return
		}
		info, err := v.Lstat(file)
		if err != nil || !info.Type.IsRegular() || v.Now().Sub(time.Unix(info.Sec, info.Nanos)) < leftoverAge {
			continue
		}
		if f, err := openRegular(v, file); err == nil {
			if !f.WriteLocked() {
				_ = v.Remove(file)
			}
			f.Close()
		}
	}
}
