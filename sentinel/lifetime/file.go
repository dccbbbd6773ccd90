package lifetime

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"
)

// errIrregular reports that a path does not name a regular file.
var errIrregular = errors.New("not a regular file")

// openRegular opens a file for reading if it is a regular one.
func openRegular(v Volume, name string) (File, error) {
	info, err := v.Lstat(name)
	if err != nil {
		return nil, err
	}
	f, _, err := openSeen(v, name, info, false)
	return f, err
}

// openSeen opens the file that Lstat has described with seen, if it is a regular one. It opens nothing
// else, because an open may block (a FIFO) or have an effect (a device). opened is what Stat reports of the open
// file.
func openSeen(v Volume, name string, seen Info, write bool) (f File, opened Info, err error) {
	irregular := &fs.PathError{Op: "open", Path: v.Path(name), Err: errIrregular}
	if !seen.Type.IsRegular() {
		return nil, Info{}, irregular
	}
	if f, err = v.Open(name, write); err != nil {
		return nil, Info{}, err
	}
	// The file may have been replaced since Lstat.
	if opened, err = f.Stat(); err == nil && !opened.Type.IsRegular() {
		err = irregular
	}
	if err != nil {
		f.Close()
		return nil, Info{}, err
	}
	return f, opened, nil
}

// refersTo reports whether name refers to the open file f.
func refersTo(v Volume, name string, f File) bool {
	named, err := v.Lstat(name)
	if err != nil {
		return false
	}
	own, err := f.Stat()
	return err == nil && named.sameFile(own.Identity)
}

// privateBytes is how many random bytes a private name has, as hexadecimal digits.
const privateBytes = 8

// isPrivate reports whether file is the private file of a Begin of this name, in progress or killed.
func isPrivate(file, name string) bool {
	random, ok := strings.CutPrefix(file, "."+name+"-")
	return ok && len(random) == 2*privateBytes && strings.Trim(random, "0123456789abcdef") == ""
}

// createPrivate creates ".NAME-<16 hex digits>" with content, and locks it. Everybody can read the file,
// whatever the umask: containers of other UIDs follow the run.
func createPrivate(v Volume, name, content string) (private string, f File, err error) {
	private, f, err = v.Create("." + name + "-")
	if err != nil {
		return "", nil, err
	}
	// Lock the file before others can open it: their read locks would prevent ours. Lock it before it
	// gets its name: a live run's file must never be seen unlocked. Where locks are refused, the
	// heartbeat remains.
	_ = f.TryWriteLock()
	if err = overwrite(f, 0, content); err == nil {
		err = f.Chmod(0o644)
	}
	if err != nil {
		f.Close()
		_ = v.Remove(private)
		return "", nil, err
	}
	return private, f, nil
}

// overwrite replaces the content of f in place, which had the given size. It writes first and truncates then, which
// needs no new block on a full volume. A file that gets longer is not truncated: each change wakes every watcher.
func overwrite(f File, size int, content string) error {
	if _, err := f.WriteAt([]byte(content), 0); err != nil || len(content) >= size {
		return err
	}
	return f.Truncate(int64(len(content)))
}

// writeEnd creates a new NAME-terminated, whatever else is on the volume.
func writeEnd(v Volume, name string, code int) error {
	private, f, err := createPrivate(v, name, formatCode(code))
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || outOfDescriptors(err) {
		// A symbolic link needs neither a block nor a descriptor. It is not a regular file, so watchers
		// take it for a failure.
		return symlinkEnd(v, name, code, err)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := v.Rename(private, name+terminatedSuffix); err != nil {
		_ = v.Remove(private)
		return err
	}
	return nil
}

// outOfDescriptors reports whether err means that no file can be opened at all.
func outOfDescriptors(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE)
}

// symlinkEnd records an end as a symbolic link, after cause has prevented a file. It always returns an
// error: the code is lost.
func symlinkEnd(v Volume, name string, code int, cause error) error {
	end := name + terminatedSuffix
	_ = v.Remove(end)
	if err := v.Symlink(formatCode(code), end); err != nil {
		return errors.Join(cause, err)
	}
	return fmt.Errorf("%w: recorded as a failure (%d) without its code", cause, unreadableCode)
}
