package lifetime

import (
	"errors"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// errHeld says that somebody else's lock is in the way.
var errHeld = errors.New("locked by another process")

// fcntlLock does one of the lock commands of fcntl(2) on the whole of f.
func fcntlLock(f *os.File, cmd int, lock *unix.Flock_t) error {
	// The lock belongs to the open file description: f may not be collected,
	// and so closed, while the call goes on.
	defer runtime.KeepAlive(f)
	for {
		err := unix.FcntlFlock(f.Fd(), cmd, lock)
		switch err {
		case unix.EINTR:
			continue
		case unix.EAGAIN, unix.EACCES:
			return errHeld
		}
		return err
	}
}

// tryWriteLock takes the write lock of f. errHeld: somebody has a lock on it.
func tryWriteLock(f *os.File) error {
	return fcntlLock(f, unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
}

// awaitUnlocked returns when nobody holds a write lock on f any more.
func awaitUnlocked(f *os.File) error {
	return fcntlLock(f, unix.F_OFD_SETLKW, &unix.Flock_t{Type: unix.F_RDLCK})
}

func unlock(f *os.File) error {
	return fcntlLock(f, unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_UNLCK})
}

// writeLocked tells whether somebody else holds a write lock on f. It takes
// nothing, and a descriptor that can only be read is enough. A file system that
// cannot say is one on which no lock is seen.
func writeLocked(f *os.File) bool {
	lock := unix.Flock_t{Type: unix.F_RDLCK}
	return fcntlLock(f, unix.F_OFD_GETLK, &lock) == nil && lock.Type == unix.F_WRLCK
}
