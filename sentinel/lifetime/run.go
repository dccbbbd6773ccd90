package lifetime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/sentinel-shim/sentinel-shim/sentinel/crashpoint"
)

// AnnounceStopping says on the volume that this run is about to end, so that a sentinel
// that restarts waits for the end ([StoppingRuns]).
func (r *Run) AnnounceStopping() error { return r.say(wordStopping) }

// RetractStopping takes the word back.
func (r *Run) RetractStopping() error { return r.say(wordRunning) }

func (r *Run) say(word string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.word = word
	return overwrite(r.file, word)
}

// End ends the run with an exit code from 0 to 255. It is called once. If the
// end could not be recorded as it should, the error says what was done instead.
//
// End does not wait for a disk: see [Sync].
func (r *Run) End(code int) error {
	// A late heartbeat, or a late word, would overwrite the code.
	r.stopBeating()
	crashpoint.At("end.quiet")
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.file.Close()

	err := r.record(code)
	crashpoint.At("end.recorded")

	// Only after the rename, so that an unlocked run always has a code.
	_ = r.file.Unlock()
	crashpoint.At("end.unlocked")
	return err
}

func (r *Run) record(code int) error {
	if err := overwrite(r.file, formatCode(code)); err != nil {
		// Our file may hold anything now, but NAME-terminated wins.
		return errors.Join(err, writeEnd(r.volume, r.name, code))
	}
	crashpoint.At("end.written")
	if !at(r.volume, r.current, r.file) {
		return writeEnd(r.volume, r.name, code)
	}
	err := r.volume.Rename(r.current, r.name+terminatedSuffix)
	switch {
	case err == nil:
		// Not to be looked at again: the next run may have removed it already.
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return writeEnd(r.volume, r.name, code)
	}
	// A full file system may refuse even this (ext4 that has no room for a
	// name). The code in the unlocked file is a valid end.
	return fmt.Errorf("%w: the end stands in %s instead", err, r.volume.Path(r.current))
}

// Record leaves the outcome of a command that will never begin, in one attempt. It
// never does so over a live run: *LiveError.
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
		return openErr // it may be live
	}
	return writeEnd(v, name, code)
}
