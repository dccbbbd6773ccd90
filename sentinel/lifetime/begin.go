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
)

const (
	// liveWait is how long Begin waits for a live run of its name to end.
	liveWait = 5 * time.Second
	// lockTimeout is how long Begin waits for another Begin that replaces a dead file.
	lockTimeout = time.Second
	// retryEvery is how often Begin tries again while it waits.
	retryEvery = 5 * time.Millisecond
	// leftoverAge is how old the private file of a killed Begin must be before another Begin removes it.
	leftoverAge = 5 * time.Second
	// maxLeftovers is how many private files one Begin examines at most. A Begin that does not wait is over
	// within microseconds, so few are ever killed.
	maxLeftovers = 100
)

// LiveError reports that a live run has the name. Path is the run's file, NAME-running.
type LiveError struct{ Path string }

func (e *LiveError) Error() string { return e.what() + ": " + e.remedy() }

// Waiting is the message for the time in which Begin waits for that run to end.
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
		return fmt.Sprintf("%s (a shim's default is the base name of its program, %s for every script)",
			remedy, e.name())
	}
	return remedy
}

// interpreters are programs that containers often run to interpret something else.
var interpreters = []string{
	"ash", "bash", "busybox", "dash", "ksh", "sh", "zsh",
	"bun", "deno", "java", "lua", "node", "nodejs", "perl", "php", "python", "pypy", "ruby",
}

// isInterpreter reports whether a program is one of the interpreters, in any version (python3.12).
func isInterpreter(program string) bool {
	return slices.Contains(interpreters, strings.TrimRight(program, "0123456789.-"))
}

// Run is a run that has begun. Its methods may be called from any goroutine.
type Run struct {
	volume  Volume
	name    string
	file    File
	current string // the name of file: the private one, then NAME-running

	mu          sync.Mutex // for writes to file: a heartbeat, a new content, the end
	content     string     // contentRunning or contentStopping
	stopBeating func()
}

// Begin begins a run named name on the volume (design, 2.4). It replaces an earlier run of that name.
//
// If a live run has the name, Begin calls waiting once, unless it is nil, and waits up to 5 s for that
// run to end. Then it fails with a *LiveError, or with ctx's error if ctx is done before.
//
// earlier reports whether an earlier run had left a file, also if Begin fails. It is false if Begin had
// to wait: a container restarts only after its old process is dead. So the live run was another
// container's, and the file may have been, too.
func Begin(ctx context.Context, v Volume, name string, waiting func(*LiveError)) (run *Run, earlier bool, err error) {
	return begin(ctx, v, name, liveWait, waiting)
}

func begin(
	ctx context.Context, v Volume, name string, timeout time.Duration, waiting func(*LiveError),
) (run *Run, earlier bool, err error) {
	earlier = exists(v, name+terminatedSuffix) || exists(v, name+runningSuffix)
	private, file, err := createPrivate(v, name, contentRunning)
	if err != nil {
		return nil, earlier, err
	}
	run = &Run{volume: v, name: name, file: file, current: private, content: contentRunning}
	run.stopBeating = v.Tick(Heartbeat, run.beat)
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
	removeLeftovers(ctx, v, name)
	return run, earlier, nil
}

func exists(v Volume, name string) bool {
	_, err := v.Lstat(name)
	return err == nil
}

// beat is the heartbeat: a write renews the file's modification time.
func (r *Run) beat() {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, _ = r.file.WriteAt([]byte(r.content), 0) // the next heartbeat may succeed
}

// abandon removes the file of a run that could not begin.
func (r *Run) abandon() {
	r.stopBeating()
	_ = r.volume.Remove(r.current)
	r.file.Close()
}

// errChanged reports that the volume changed during tryClaim.
var errChanged = errors.New("the file was replaced meanwhile")

// claim renames the private file to NAME-running. While a live run has that name, claim waits for the
// run to end, and calls waiting once. After timeout it returns a *LiveError.
func (r *Run) claim(ctx context.Context, timeout time.Duration, waiting func(*LiveError)) error {
	start, notified := r.volume.Now(), false
	for {
		err := r.tryClaim()
		waited := r.volume.Now().Sub(start)
		live := (*LiveError)(nil)
		switch {
		case errors.As(err, &live) && waited < timeout:
			if !notified {
				notified = true
				waiting(live)
			}
		case errors.Is(err, errChanged) && waited < timeout+time.Second:
		case errors.Is(err, errChanged):
			return fmt.Errorf("%s: another program keeps replacing it: only sentinel and shim may write to it",
				r.runningPath())
		default:
			return err
		}
		if err := r.volume.Sleep(ctx, retryEvery); err != nil {
			return err
		}
	}
}

func (r *Run) runningPath() string { return r.volume.Path(r.name + runningSuffix) }

// tryClaim tries once to take the name. It returns a *LiveError if a live run has the name, and
// errChanged if another try may succeed.
func (r *Run) tryClaim() error {
	running := r.name + runningSuffix
	if _, err := r.volume.Lstat(running); errors.Is(err, fs.ErrNotExist) {
		return r.take(r.volume.RenameNoReplace)
	}

	// Begins replace a dead file one after the other. Without the lock, another Begin could rename its
	// file between our last check and our rename, and we would replace a live run.
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
		return fmt.Errorf("%s is a directory: remove it, and let nothing but sentinel and shim write such names",
			r.runningPath())
	}
	// Another process may hold the directory's lock for ever. Then the write lock of the dead file
	// keeps other Begins away. A read lock may prevent us from taking that lock, but does not mean that
	// the run is live.
	old, opened, err := openSeen(r.volume, running, info, true)
	dead := err == nil && old.TryWriteLock() == nil
	if err != nil {
		old, opened, err = openSeen(r.volume, running, info, false)
	}
	seen := info.Identity
	if err == nil {
		defer old.Close() // until then its inode cannot be reused
		if !dead && old.WriteLocked() {
			return &LiveError{r.runningPath()}
		}
		seen = opened.Identity
	}
	if now, err := r.volume.Lstat(running); err != nil || !now.sameFile(seen) {
		return errChanged
	}
	return r.take(r.volume.Rename)
}

// take renames our file to NAME-running, and then removes the end of an earlier run. Only after the
// rename: a crash in between must leave a trace of that run, or the next Begin would believe that it is
// the first. And between a removal and a rename, another run could begin and end, and its end would be
// taken for ours.
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
	return r.removeEnd()
}

// removeEnd removes the end of an earlier run.
func (r *Run) removeEnd() error {
	if err := r.volume.Remove(r.name + terminatedSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the earlier run's end: %w", err)
	}
	return nil
}

// removeLeftovers removes the private files of killed Begins. It examines at most maxLeftovers files and
// stops when ctx is done, because it delays the start of the command.
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
