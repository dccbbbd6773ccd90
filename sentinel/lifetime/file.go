package lifetime

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// errIrregular says that what stands at a path is no regular file.
var errIrregular = errors.New("no regular file")

// openRegular opens a file if it is a regular one. Anything else is not even opened,
// for that alone may wait (a FIFO) or act (a device).
func openRegular(v Volume, name string, write bool) (File, error) {
	info, err := v.Lstat(name)
	if err != nil {
		return nil, err
	}
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

// at tells whether name names the file that f is.
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

// createPrivate creates ".NAME-<16 hex digits>" with content, and locks it. The
// file is readable to everybody, whatever the umask, so that containers of other
// UIDs can follow the run.
func createPrivate(v Volume, name, content string) (private string, f File, err error) {
	private, f, err = v.Create("." + name + "-")
	if err != nil {
		return "", nil, err
	}
	// Locked before others may open it, so that nobody's read lock can be in
	// the way; and before it gets its name, so that a live run's file is never
	// seen unlocked. Where locks are refused, the heartbeat remains.
	_ = f.TryWriteLock()
	if err = overwrite(f, content); err == nil {
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
	return f.Truncate(int64(len(content)))
}

// writeEnd makes NAME-terminated afresh, whatever else is on the volume.
func writeEnd(v Volume, name string, code int) error {
	private, f, err := createPrivate(v, name, formatCode(code))
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		// No block is left, but a link needs none. It is no regular file,
		// so it reads as an end that failed: nobody waits for ever.
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
	_ = f.Sync()
	v.Sync()
	return nil
}

// symlinkEnd records an end on a volume that has no room for a file's content.
func symlinkEnd(v Volume, name string, code int, full error) error {
	end := name + terminatedSuffix
	_ = v.Remove(end)
	if err := v.Symlink(formatCode(code), end); err != nil {
		return errors.Join(full, err)
	}
	return fmt.Errorf("%w: recorded as a failure (%d) without its code", full, unreadableCode)
}
