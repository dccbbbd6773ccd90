package lifetime

import (
	"errors"
	"io"
	"io/fs"
	"strings"
)

// maxContent is how many bytes of a file are read: more than any valid content.
const maxContent = 4096

// sighting is what one look at one of a run's two files has shown.
type sighting struct {
	present  bool
	readable bool // a regular file that could be read; content is valid
	locked   bool // somebody holds the write lock
	content  string
	id       Identity
}

// Sight is what one look at a run has shown. It tells nothing about what was seen
// before: see Observer.Judge.
type Sight struct {
	end  sighting // NAME-terminated
	live sighting // NAME-running; not looked at where end is present
	// beginning says that a Begin of this name is under way. It is only
	// looked at where neither file is present, and the run has lived.
	beginning bool
}

// glanceAt looks at a run once. If NAME-running is locked its open file comes along, for
// the caller to wait on and to close. steady is false if the volume was changing
// under our eyes.
//
// lived tells whether the run was seen to live, and its end was not: only then it
// matters which of them a volume without its files has lost, and a folder may be so
// large that asking for it is costly.
func glanceAt(v Volume, name string, lived bool) (s Sight, locked File, steady bool) {
	running, terminated := name+runningSuffix, name+terminatedSuffix
	if s.end = seeEnd(v, terminated); s.end.present {
		return s, nil, true
	}
	s.live, locked, steady = seeLive(v, running)
	if s.live.locked {
		return s, locked, true
	}
	// The run may have ended, and another may have begun, since we looked for its
	// end.
	if s.end = seeEnd(v, terminated); s.end.present {
		return s, nil, true
	}
	if lived && !s.live.present {
		s.beginning, steady = seeNeither(v, name)
	}
	return s, nil, steady
}

// seeEnd looks at NAME-terminated.
func seeEnd(v Volume, file string) sighting {
	info, err := v.Lstat(file)
	if err != nil {
		return sighting{}
	}
	seen := sighting{present: true, id: info.Identity}
	f, err := openSeen(v, file, info, false)
	if errors.Is(err, fs.ErrNotExist) {
		return sighting{}
	}
	if err == nil {
		seen.read(f)
		f.Close()
	}
	return seen
}

// seeLive looks at NAME-running. steady is false if the path named another file
// before we were done.
func seeLive(v Volume, file string) (seen sighting, locked File, steady bool) {
	info, err := v.Lstat(file)
	if err != nil {
		return sighting{}, nil, true
	}
	seen = sighting{present: true, id: info.Identity}
	f, err := openSeen(v, file, info, false)
	if errors.Is(err, fs.ErrNotExist) {
		return sighting{}, nil, false
	}
	if err != nil {
		return seen, nil, true
	}
	// First the lock, then the content: what an unlocked file holds is final.
	if f.WriteLocked() {
		seen.locked = true
		return seen, f, true
	}
	seen.read(f)
	steady = at(v, file, f)
	f.Close()
	return seen, nil, steady
}

// read reads what a file holds, as it is now.
func (s *sighting) read(f File) {
	// First the identity, then the content: who writes in between makes both
	// new at the next look, and never an old content with a new identity.
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

// seeNeither looks at a volume on which neither file of a run was seen. One run may
// have ended and the next have begun between any two of our steps; but its file is
// there all the time, under one of three names, and a listing shows all three at
// once. beginning says that it has its private name now, steady that it has not got
// another since.
func seeNeither(v Volume, name string) (beginning, steady bool) {
	for file := range v.Names() {
		if file == name+runningSuffix || file == name+terminatedSuffix {
			return false, false
		}
		if !isPrivate(file, name) {
			continue
		}
		f, err := openRegular(v, file, false)
		if errors.Is(err, fs.ErrNotExist) {
			return false, false
		}
		if err != nil {
			continue
		}
		beginning = f.WriteLocked()
		steady = at(v, file, f)
		f.Close()
		if beginning || !steady {
			return beginning, steady
		}
	}
	// Reading the names of many files takes many steps, and what gets another name
	// meanwhile may be passed over.
	return false, !exists(v, name+runningSuffix) && !exists(v, name+terminatedSuffix)
}

// isPrivate tells whether a file is that of a Begin of this name which is under
// way, or was killed.
func isPrivate(file, name string) bool {
	random, ok := strings.CutPrefix(file, "."+name+"-")
	return ok && len(random) == 2*privateBytes && strings.Trim(random, "0123456789abcdef") == ""
}
