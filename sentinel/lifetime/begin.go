package lifetime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// liveWait is for how long Begin waits for a live run of its name to end.
	liveWait = 5 * time.Second
	// softWait is for how long Begin waits for what cannot be a live run:
	// read locks (of watchers that are just being told, or of a neighbour),
	// or an old file that it may not write to.
	softWait = 100 * time.Millisecond
	// turnWait is for how long Begin waits for another Begin that is replacing
	// a dead file at this moment.
	turnWait = time.Second
	// retryEvery is how often Begin looks again while it waits.
	retryEvery = 5 * time.Millisecond
	// leftoverAge is how old the private file of a killed Begin has to be
	// until another Begin removes it.
	leftoverAge = 5 * time.Second
)

// LiveError says that a run of this name is going on.
type LiveError struct{ Path string }

func (e *LiveError) Error() string {
	name := strings.TrimSuffix(e.Path[strings.LastIndexByte(e.Path, '/')+1:], runningSuffix)
	return fmt.Sprintf("another sentinel or shim named %s is running on this volume (%s is locked): give one of them another --name", name, e.Path)
}

// Run is a run that has begun. Its methods may be called from any goroutine.
type Run struct {
	dir, name string
	file      *os.File
	path      string // where file is: the private name, then NAME-running

	mu    sync.Mutex // one writer at a time: the heartbeat or a change of word
	word  string
	quiet chan struct{} // closed to stop the heartbeat
	still sync.WaitGroup
}

// Begin begins a run named name on the volume dir. An earlier run of that name is
// replaced. It waits up to five seconds for a live one to end, then fails with a
// *LiveError; or until ctx is done, with ctx's error.
//
// earlier tells whether an earlier run had left its file, also when Begin fails.
func Begin(ctx context.Context, dir, name string) (run *Run, earlier bool, err error) {
	return begin(ctx, dir, name, liveWait)
}

func begin(ctx context.Context, dir, name string, patience time.Duration) (run *Run, earlier bool, err error) {
	earlier = exists(TerminatedPath(dir, name)) || exists(runningPath(dir, name))
	file, err := createPrivate(dir, name, wordRunning)
	if err != nil {
		return nil, earlier, err
	}
	run = &Run{dir: dir, name: name, file: file, path: file.Name(), word: wordRunning, quiet: make(chan struct{})}
	run.still.Go(run.beat)
	if err := run.claim(ctx, patience); err != nil {
		run.abandon()
		return nil, earlier, err
	}
	removeLeftovers(dir, name)
	return run, earlier, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// beat is the heartbeat.
func (r *Run) beat() {
	ticker := time.NewTicker(Heartbeat)
	defer ticker.Stop()
	for {
		select {
		case <-r.quiet:
			return
		case <-ticker.C:
			r.mu.Lock()
			_, _ = r.file.WriteAt([]byte(r.word), 0) // the next one may succeed
			r.mu.Unlock()
		}
	}
}

// abandon gives up a run that could not begin.
func (r *Run) abandon() {
	close(r.quiet)
	r.still.Wait()
	_ = unix.Unlink(r.path)
	r.file.Close()
}

// obstacle is what stands between a Begin and its name.
type obstacle int

const (
	none    obstacle = iota
	changed          // the volume changed under our eyes; look again
	soft             // nothing that can be a live run
	live             // the old file is write-locked: a live run
)

// claim gives the private file the name NAME-running.
func (r *Run) claim(ctx context.Context, patience time.Duration) error {
	start := time.Now()
	var softSince time.Time
	for {
		found, err := r.tryClaim(!softSince.IsZero() && time.Since(softSince) >= softWait)
		if err != nil {
			return err
		}
		waited := time.Since(start)
		switch {
		case found == none:
			return nil
		case found == live && waited >= patience:
			return &LiveError{runningPath(r.dir, r.name)}
		case waited >= patience+time.Second:
			return fmt.Errorf("%s: somebody replaces it all the time: nothing but sentinel and shim should write to it", runningPath(r.dir, r.name))
		case found == soft && softSince.IsZero():
			softSince = time.Now()
		case found != soft:
			softSince = time.Time{}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(retryEvery):
		}
	}
}

// tryClaim takes the name, or says what is in the way. With force, soft
// obstacles are not.
func (r *Run) tryClaim(force bool) (obstacle, error) {
	path := runningPath(r.dir, r.name)
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r.take(renameNoReplace)
	}
	if err != nil {
		return none, err
	}
	if info.IsDir() {
		return none, fmt.Errorf("%s is a directory: remove it, and let nothing but sentinel and shim write such names", path)
	}

	// Whoever holds the dead file's write lock, and sees that it still has
	// the name, is alone in replacing it.
	old, err := openRegular(path, os.O_RDWR)
	alone := err == nil && tryWriteLock(old) == nil
	if err != nil {
		old, err = openRegular(path, os.O_RDONLY)
	}
	if err == nil {
		defer old.Close() // until then its inode cannot be another file's
		info, err = old.Stat()
	}
	switch {
	case alone:
	case errors.Is(err, fs.ErrNotExist):
		return changed, nil
	case err == nil && writeLocked(old):
		return live, nil
	case !force:
		return soft, nil
	}
	return r.replace(info)
}

// replace takes the name from the dead file that old is, if it still has it.
func (r *Run) replace(old fs.FileInfo) (obstacle, error) {
	turn := takeTurn(r.dir)
	defer turn.Close()
	if now, err := os.Lstat(runningPath(r.dir, r.name)); err != nil || !os.SameFile(old, now) {
		return changed, nil
	}
	return r.take(os.Rename)
}

// takeTurn lets Begins replace dead files one after the other, also those that
// could not have the dead file's lock: between their last look at it and the
// rename, another may begin. It is a flock(2) on the folder, which whoever can
// read the folder may hold for ever; so it is not waited for longer than turnWait.
// The turn ends when the file is closed; it may be nil.
func takeTurn(dir string) *os.File {
	turn, err := os.Open(dir)
	if err != nil {
		return nil
	}
	for range turnWait / retryEvery {
		if unix.Flock(int(turn.Fd()), unix.LOCK_EX|unix.LOCK_NB) != unix.EWOULDBLOCK {
			break
		}
		time.Sleep(retryEvery)
	}
	return turn
}

// take removes the end of an earlier run and gives our file its name.
func (r *Run) take(rename func(from, to string) error) (obstacle, error) {
	if err := r.removeEnd(); err != nil {
		return none, err
	}
	path := runningPath(r.dir, r.name)
	err := rename(r.path, path)
	if errors.Is(err, fs.ErrExist) {
		return changed, nil
	}
	if err != nil {
		return none, err
	}
	r.path = path
	// A whole run may have come and gone since its end was looked for, and an
	// end hides all else: ours would be taken for ended.
	return none, r.removeEnd()
}

// removeEnd removes the end of an earlier run.
func (r *Run) removeEnd() error {
	end := TerminatedPath(r.dir, r.name)
	if err := unix.Unlink(end); err != nil && err != unix.ENOENT {
		return &fs.PathError{Op: "remove the earlier run's", Path: end, Err: err}
	}
	return nil
}

// renameNoReplace is rename(2) that fails with EEXIST where to exists.
func renameNoReplace(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	switch err {
	case nil:
		return nil
	case unix.EINVAL, unix.ENOSYS, unix.EOPNOTSUPP:
		// A file system without it. link(2) never replaces anything.
		if err := os.Link(from, to); err != nil {
			return err
		}
		return unix.Unlink(from)
	}
	return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
}

// removeLeftovers removes the private files of Begins that were killed.
func removeLeftovers(dir, name string) {
	for _, file := range fileNames(dir) {
		if !isPrivate(file, name) {
			continue
		}
		path := filepath.Join(dir, file)
		info, err := os.Lstat(path)
		if err != nil || !info.Mode().IsRegular() || time.Since(info.ModTime()) < leftoverAge {
			continue
		}
		if f, err := openRegular(path, os.O_RDONLY); err == nil {
			if !writeLocked(f) {
				_ = unix.Unlink(path)
			}
			f.Close()
		}
	}
}
