package lifetime

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Identity tells one file from the next of the same name, and one state of a
// file from a later one.
type Identity struct {
	dev, ino   uint64
	sec, nanos int64 // modification time
}

func identityOf(info fs.FileInfo) Identity {
	st := info.Sys().(*syscall.Stat_t)
	// The types of these fields differ between processors.
	return Identity{uint64(st.Dev), uint64(st.Ino), int64(st.Mtim.Sec), int64(st.Mtim.Nsec)}
}

// errIrregular says that what stands at a path is no regular file.
var errIrregular = errors.New("no regular file")

// openRegular opens what is at path if it is a regular file. Anything else is
// not even opened, for that alone may wait (a FIFO) or act (a device).
func openRegular(path string, flags int) (*os.File, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: path, Err: errIrregular}
	}
	// It may have been replaced since, so neither follow nor wait.
	f, err := os.OpenFile(path, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if info, err = f.Stat(); err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: path, Err: errIrregular}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// at tells whether path names the file that f is.
func at(path string, f *os.File) bool {
	named, err := os.Lstat(path)
	if err != nil {
		return false
	}
	own, err := f.Stat()
	return err == nil && os.SameFile(named, own)
}

// privateBytes is how many random bytes make a private name.
const privateBytes = 8

// createPrivate creates ".NAME-<16 hex digits>" with content, and locks it. The
// file is readable to everybody, whatever the umask, so that containers of other
// UIDs can follow the run.
func createPrivate(dir, name, content string) (*os.File, error) {
	// crypto/rand does the same, and makes the program 0.3 MB larger.
	var random [privateBytes]byte
	if _, err := unix.Getrandom(random[:], 0); err != nil {
		return nil, os.NewSyscallError("getrandom", err)
	}
	path := filepath.Join(dir, "."+name+"-"+hex.EncodeToString(random[:]))
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	// Locked before others may open it, so that nobody's read lock can be in
	// the way; and before it gets its name, so that a live run's file is never
	// seen unlocked. Where locks are refused, the heartbeat remains.
	_ = tryWriteLock(f)
	if err = overwrite(f, content); err == nil {
		err = f.Chmod(0o644)
	}
	if err != nil {
		f.Close()
		os.Remove(path)
		return nil, err
	}
	return f, nil
}

// overwrite puts content in the place of what f holds. Written over first and
// cut after, it needs no new block.
func overwrite(f *os.File, content string) error {
	if _, err := f.WriteAt([]byte(content), 0); err != nil {
		return err
	}
	return f.Truncate(int64(len(content)))
}

// writeEnd makes NAME-terminated afresh, whatever else is on the volume.
func writeEnd(dir, name string, code int) error {
	end := TerminatedPath(dir, name)
	f, err := createPrivate(dir, name, formatCode(code))
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		// No block is left, but a link needs none. It is no regular file,
		// so it reads as an end that failed: nobody waits for ever.
		return symlinkEnd(dir, name, code, err)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := os.Rename(f.Name(), end); err != nil {
		os.Remove(f.Name())
		return err
	}
	_ = f.Sync()
	syncDir(dir)
	return nil
}

// symlinkEnd records an end on a volume that has no room for a file's content.
func symlinkEnd(dir, name string, code int, full error) error {
	end := TerminatedPath(dir, name)
	_ = unix.Unlink(end)
	if err := os.Symlink(formatCode(code), end); err != nil {
		return errors.Join(full, err)
	}
	return fmt.Errorf("%w: recorded as a failure (%d) without its code", full, unreadableCode)
}

// syncDir makes the names in dir outlive a crash of the node. A file system
// that cannot do so is no reason to fail.
func syncDir(dir string) {
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync()
		d.Close()
	}
}
