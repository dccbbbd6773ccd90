package lifetime

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/sentinel/crashpoint"
)

// errIrregular says that what stands at a path is no regular file.
var errIrregular = errors.New("no regular file")

// openRegular opens a file for reading if it is a regular one.
func openRegular(v Volume, name string) (File, error) {
	info, err := v.Lstat(name)
	if err != nil {
		return nil, err
	}
	return openSeen(v, name, info, false)
}

// openSeen opens what Lstat has told info of, if it is a regular file. Anything else is
// not even opened, for that alone may wait (a FIFO) or act (a device).
func openSeen(v Volume, name string, info Info, write bool) (File, error) {
	irregular := &fs.PathError{Op: "open", Path: v.Path(name), Err: errIrregular}
	if !info.Type.IsRegular() {
		return nil, irregular
	}
	// It may have been replaced since.
	f, err := v.Open(name, write)
	if err != nil {
		return nil, err
	}
	if info, err = f.Stat(); err == nil && !info.Type.IsRegular() {
		err = irregular
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// at reports whether name names the file that f is.
func at(v Volume, name string, f File) bool {
	named, err := v.Lstat(name)
	if err != nil {
		return false
	}
	own, err := f.Stat()
	return err == nil && named.sameFile(own.Identity)
}

// privateBytes is how many random bytes make a private name.
const privateBytes = 8

// isPrivate reports whether a file is the private file of a Begin of this name: one that is under
// way, or one that was killed.
func isPrivate(file, name string) bool {
	random, ok := strings.CutPrefix(file, "."+name+"-")
	return ok && len(random) == 2*privateBytes && strings.Trim(random, "0123456789abcdef") == ""
}

// createPrivate creates ".NAME-<16 hex digits>" with content, and locks it. The
// file is readable to everybody, whatever the umask, so that containers of other
// UIDs can follow the run.
func createPrivate(v Volume, name, content string) (private string, f File, err error) {
	private, f, err = v.Create("." + name + "-")
	if err != nil {
		return "", nil, err
	}
	crashpoint.At("private.created")
	// Locked before others may open it, so that nobody's read lock can be in
	// the way; and before it gets its name, so that a live run's file is never
	// seen unlocked. Where locks are refused, the heartbeat remains.
	_ = f.TryWriteLock()
	crashpoint.At("private.locked")
	if err = overwrite(f, content); err == nil {
		crashpoint.At("private.written")
		err = f.Chmod(0o644)
	}
	if err != nil {
		f.Close()
		_ = v.Remove(private)
		return "", nil, err
	}
	return private, f, nil
}

// overwrite puts content in the place of what f holds. Written over first and
// cut after, it needs no new block.
func overwrite(f File, content string) error {
	if _, err := f.WriteAt([]byte(content), 0); err != nil {
		return err
	}
	crashpoint.At("file.overwritten")
	return f.Truncate(int64(len(content)))
}

// writeEnd makes NAME-terminated afresh, whatever else is on the volume.
func writeEnd(v Volume, name string, code int) error {
	private, f, err := createPrivate(v, name, formatCode(code))
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || outOfDescriptors(err) {
		// No block is left, or no descriptor, but a link needs neither. It is
		// no regular file, so it reads as an end that failed: nobody waits
		// for ever.
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
	crashpoint.At("end.afresh")
	return nil
}

// outOfDescriptors reports whether an error says that no file can be opened at all.
func outOfDescriptors(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE)
}

// symlinkEnd records an end where there is no room for a file's content, or no file can
// be opened.
func symlinkEnd(v Volume, name string, code int, full error) error {
	end := name + terminatedSuffix
	_ = v.Remove(end)
	if err := v.Symlink(formatCode(code), end); err != nil {
		return errors.Join(full, err)
	}
	return fmt.Errorf("%w: recorded as a failure (%d) without its code", full, unreadableCode)
}
