package lifetime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
)

// AnnounceStopping announces on the volume that this run is about to end. A sentinel that restarts then
// waits for the end ([StoppingRuns]). It fails after End.
func (r *Run) AnnounceStopping() error { return r.write(contentStopping) }

// RetractStopping takes the announcement back. It fails after End.
func (r *Run) RetractStopping() error { return r.write(contentRunning) }

func (r *Run) write(content string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	size := len(r.content)
	r.content = content
	return overwrite(r.file, size, content)
}

// End ends the run with an exit code from 0 to 255. Call it only once. If the end cannot be recorded as
// usual, the error reports what was done instead.
//
// End does not wait for a disk: see [Sync].
func (r *Run) End(code int) error {
	r.stopBeating() // before the lock: a heartbeat that is under way needs it
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.file.Close()

	err := r.record(code)

	// Only after the rename, so that an unlocked run always has a code.
	_ = r.file.Unlock()
	return err
}

func (r *Run) record(code int) error {
	if err := overwrite(r.file, len(r.content), formatCode(code)); err != nil {
		// Our file may hold anything now, but NAME-terminated takes precedence.
		return errors.Join(err, writeEnd(r.volume, r.name, code))
	}
	if !refersTo(r.volume, r.current, r.file) {
		return writeEnd(r.volume, r.name, code)
	}
	err := r.volume.Rename(r.current, r.name+terminatedSuffix)
	switch {
	case err == nil:
		// Do not check the new file: the next run may have removed it already.
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return writeEnd(r.volume, r.name, code)
	}
	// A full file system may refuse even the rename (ext4 without room for a name). The code in the
	// unlocked file is a valid end (design, 2.2).
	return fmt.Errorf("%w: the exit code is in %s instead", err, r.volume.Path(r.current))
}

// Record records the exit code, 0 to 255, of a command that will never begin. If a live run has the
// name, it changes nothing and returns a *LiveError. It does not wait for that run.
func Record(v Volume, name string, code int) error {
	run, _, err := begin(context.Background(), v, name, 0, nil)
	if err == nil {
		return run.End(code)
	}
	var alive *LiveError
	if errors.As(err, &alive) {
		return err
	}
	running := name + runningSuffix
	f, openErr := openRegular(v, running)
	if openErr == nil {
		defer f.Close()
		if f.WriteLocked() {
			return &LiveError{v.Path(running)}
		}
	}
	if outOfDescriptors(openErr) {
		return openErr // the run may be live
	}
	return writeEnd(v, name, code)
}
