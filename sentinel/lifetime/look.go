package lifetime

import (
	"errors"
	"io"
	"io/fs"
)

// maxContent is how many bytes of a file are read at most: more than any valid content has.
const maxContent = 4096

// fileState is one of the two files of a run in a Snapshot.
type fileState struct {
	exists   bool
	readable bool // a regular file that could be read; content is valid
	locked   bool // a process holds the write lock
	content  string
	id       Identity
}

// Snapshot is what one look at the files of a run has found. [Observer.Update] combines it with the
// snapshots before.
type Snapshot struct {
	terminated fileState
	running    fileState // may be unset if terminated exists
}

// snapshot looks at a run once. If NAME-running is locked, it also returns the open file, for the caller
// to wait on and to close. consistent is false if the volume changed during the look.
//
// wasRunning means that the run was running before. From its Begin to the end of the pod, one of the two
// files always exists. So if neither is found, the look missed a change.
//
// pending is as for [Observer.Look]. NAME-running need not be looked at while a wait for its lock is pending: this
// keeps an idle watcher's look at one call.
func snapshot(v Volume, name string, wasRunning, pending bool) (s Snapshot, locked File, consistent bool) {
	if s.terminated = stateOfTerminated(v, name+terminatedSuffix); s.terminated.exists || wasRunning && pending {
		return s, nil, true
	}
	s.running, locked, consistent = stateOfRunning(v, name+runningSuffix)
	if s.running.locked {
		return s, locked, true
	}
	// The run may have ended since the first look at NAME-terminated, and another may have begun.
	if s.terminated = stateOfTerminated(v, name+terminatedSuffix); s.terminated.exists {
		return s, nil, true
	}
	return s, nil, consistent && (s.running.exists || !wasRunning)
}

func stateOfTerminated(v Volume, file string) fileState {
	info, err := v.Lstat(file)
	if err != nil {
		return fileState{}
	}
	state := fileState{exists: true, id: info.Identity}
	f, opened, err := openSeen(v, file, info, false)
	if errors.Is(err, fs.ErrNotExist) {
		return fileState{}
	}
	if err == nil {
		state.setContent(f, opened)
		f.Close()
	}
	return state
}

// stateOfRunning looks at NAME-running. consistent is false if the file was removed or replaced during
// the look.
func stateOfRunning(v Volume, file string) (state fileState, locked File, consistent bool) {
	info, err := v.Lstat(file)
	if err != nil {
		return fileState{}, nil, true
	}
	state = fileState{exists: true, id: info.Identity}
	f, opened, err := openSeen(v, file, info, false)
	if errors.Is(err, fs.ErrNotExist) {
		return fileState{}, nil, false
	}
	if err != nil {
		return state, nil, true
	}
	// First the lock, then the content: the content of an unlocked file is final.
	if f.WriteLocked() {
		state.locked = true
		return state, f, true
	}
	state.setContent(f, opened)
	f.Close()
	now, err := v.Lstat(file)
	return state, nil, err == nil && now.sameFile(opened.Identity)
}

// setContent sets the content of an open file and its identity, unless it cannot be read. opened is what Stat has
// reported before: a write in between pairs the new content with the old identity, and the next look sees both new. An
// old content never has a new identity.
func (s *fileState) setContent(f File, opened Info) {
	if content, ok := readContent(f); ok {
		s.readable, s.content, s.id = true, content, opened.Identity
	}
}

// readContent returns the content of an open file. ok is false if it cannot be read.
func readContent(f File) (content string, ok bool) {
	data, err := io.ReadAll(io.LimitReader(f, maxContent))
	return string(data), err == nil
}
