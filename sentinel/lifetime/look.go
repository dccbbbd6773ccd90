package lifetime

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// maxContent is how much of a file is read: more than any valid content.
const maxContent = 4096

// sighting is what one look at one of a run's two files has shown.
type sighting struct {
	present  bool
	readable bool // a regular file that could be read; content is valid
	locked   bool // somebody holds the write lock
	content  string
	id       Identity
}

// sight is what one look at a run has shown. It tells nothing about what was seen
// before; that is the judge's.
type sight struct {
	end  sighting // NAME-terminated
	live sighting // NAME-running; not looked at where end is present
	// beginning says that a Begin of this name is under way. It is only
	// looked at where neither file is present.
	beginning bool
}

// maxLooks bounds how often a volume that changes under our eyes is looked at
// again. What is seen last is then taken for what it is; the change itself wakes
// the watcher.
const maxLooks = 8

// look looks at a run. If NAME-running is locked its open file comes along, for
// the caller to wait on and to close.
func look(dir, name string) (s sight, locked *os.File) {
	running, terminated := runningPath(dir, name), TerminatedPath(dir, name)
	for range maxLooks {
		if s.end = seeEnd(terminated); s.end.present {
			return s, nil
		}
		var steady bool
		s.live, locked, steady = seeLive(running)
		if s.live.locked {
			return s, locked
		}
		// The run may have ended, and another may have begun, since we
		// looked for its end.
		if s.end = seeEnd(terminated); s.end.present {
			return s, nil
		}
		if steady {
			break
		}
	}
	if !s.live.present {
		s.beginning = beginUnderWay(dir, name)
	}
	return s, nil
}

// seeEnd looks at NAME-terminated.
func seeEnd(path string) sighting {
	info, err := os.Lstat(path)
	if err != nil {
		return sighting{}
	}
	seen := sighting{present: true, id: identityOf(info)}
	f, err := openRegular(path, os.O_RDONLY)
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
func seeLive(path string) (seen sighting, locked *os.File, steady bool) {
	info, err := os.Lstat(path)
	if err != nil {
		return sighting{}, nil, true
	}
	seen = sighting{present: true, id: identityOf(info)}
	f, err := openRegular(path, os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return sighting{}, nil, false
	}
	if err != nil {
		return seen, nil, true
	}
	// First the lock, then the content: what an unlocked file holds is final.
	if writeLocked(f) {
		seen.locked = true
		return seen, f, true
	}
	seen.read(f)
	steady = at(path, f)
	f.Close()
	return seen, nil, steady
}

// read reads what a file holds, as it is now.
func (s *sighting) read(f *os.File) {
	content, err := io.ReadAll(io.LimitReader(f, maxContent+1))
	info, statErr := f.Stat()
	if err != nil || statErr != nil {
		return
	}
	s.readable, s.content, s.id = true, string(content), identityOf(info)
}

// privateFiles are the files of Begins of this name that are under way, or were
// killed.
func privateFiles(dir, name string) (paths []string) {
	prefix := "." + name + "-"
	for _, file := range fileNames(dir) {
		random, ok := strings.CutPrefix(file, prefix)
		if ok && len(random) == 2*privateBytes && strings.Trim(random, "0123456789abcdef") == "" {
			paths = append(paths, filepath.Join(dir, file))
		}
	}
	return paths
}

// beginUnderWay tells whether a Begin of this name holds its private file.
func beginUnderWay(dir, name string) bool {
	for _, path := range privateFiles(dir, name) {
		if lockedAt(path) {
			return true
		}
	}
	return false
}

func lockedAt(path string) bool {
	f, err := openRegular(path, os.O_RDONLY)
	if err != nil {
		return false
	}
	defer f.Close()
	return writeLocked(f)
}

// fileNames are the names in dir, in no order; none if it cannot be read.
func fileNames(dir string) []string {
	d, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	return names
}

// Stopping names the live runs on the volume that have said that they are about to
// end ([Run.Stopping]). The word of a killed one does not count, for its lock is
// gone; so where locks are not shared, none is ever named.
func Stopping(dir string) (names []string) {
	for _, file := range fileNames(dir) {
		name, ok := strings.CutSuffix(file, runningSuffix)
		if ok && name != "" && isStopping(filepath.Join(dir, file)) {
			names = append(names, name)
		}
	}
	return names
}

func isStopping(path string) bool {
	f, err := openRegular(path, os.O_RDONLY)
	if err != nil {
		return false
	}
	defer f.Close()
	if !writeLocked(f) {
		return false
	}
	var seen sighting
	seen.read(f)
	return seen.readable && seen.content == wordStopping
}
