package lifetime

import (
	"errors"
	"io"
	"io/fs"
)

// maxContent is how many bytes of a file are read: more than any valid content.
const maxContent = 4096

// fileState is one of the two files of a run as one look has found it.
type fileState struct {
	exists   bool
	readable bool // a regular file that could be read; content is valid
	locked   bool // a process holds the write lock
	content  string
	id       Identity
}

// Snapshot is what one look at the files of a run has found. It knows nothing of the looks before:
// see Observer.Update.
type Snapshot struct {
	terminated fileState
	running    fileState // not looked at if terminated exists
}

// snapshot looks at a run once. If NAME-running is locked, its open file comes along, for the caller
// to wait on and to close. consistent is false if the volume changed during the look.
//
// wasRunning says that the run was running before. From its Begin to the end of the pod one of the
// two files is always there, so that without them the look missed a change.
func snapshot(v Volume, name string, wasRunning bool) (s Snapshot, locked File, consistent bool) {
	if s.terminated = stateOfTerminated(v, name+terminatedSuffix); s.terminated.exists {
		return s, nil, true
	}
	s.running, locked, consistent = stateOfRunning(v, name+runningSuffix)
	if s.running.locked {
		return s, locked, true
	}
	// Since NAME-terminated was looked for, the run may have ended, and another may have begun.
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
	f, err := openSeen(v, file, info, false)
	if errors.Is(err, fs.ErrNotExist) {
		return fileState{}
	}
	if err == nil {
		state.read(f)
		f.Close()
	}
	return state
}

// stateOfRunning looks at NAME-running. consistent is false if the path named another file before
// the look was done.
func stateOfRunning(v Volume, file string) (state fileState, locked File, consistent bool) {
	info, err := v.Lstat(file)
	if err != nil {
		return fileState{}, nil, true
	}
	state = fileState{exists: true, id: info.Identity}
	f, err := openSeen(v, file, info, false)
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
	state.read(f)
	consistent = at(v, file, f)
	f.Close()
	return state, nil, consistent
}

// read reads the content of a file.
func (s *fileState) read(f File) {
	// First the identity, then the content. A write in between makes both new at the next look, and
	// never leaves an old content with a new identity.
	info, err := f.Stat()
	if err != nil {
		return
	}
	content, err := io.ReadAll(io.LimitReader(f, maxContent))
	if err != nil {
		return
	}
	s.readable, s.content, s.id = true, string(content), info.Identity
}
