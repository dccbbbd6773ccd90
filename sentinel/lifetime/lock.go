package lifetime

import (
	"errors"
	"runtime"

	"golang.org/x/sys/unix"
)

// errHeld reports that another process's lock prevents ours.
var errHeld = errors.New("locked by another process")

// lock executes one of the lock commands of fcntl(2) on the whole of f.
func (f osFile) lock(cmd int, lock *unix.Flock_t) error {
	// The lock belongs to the open file description: the garbage collector must not close f during the
	// call.
	defer runtime.KeepAlive(f.f)
	for {
		err := unix.FcntlFlock(f.f.Fd(), cmd, lock)
		switch err {
		case unix.EINTR:
			continue
		case unix.EAGAIN, unix.EACCES:
			return errHeld
		}
		return err
	}
}

func (f osFile) TryWriteLock() error {
	return f.lock(unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
}

func (f osFile) AwaitUnlocked() error {
	return f.lock(unix.F_OFD_SETLKW, &unix.Flock_t{Type: unix.F_RDLCK})
}

func (f osFile) Unlock() error {
	return f.lock(unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_UNLCK})
}

func (f osFile) WriteLocked() bool {
	lock := unix.Flock_t{Type: unix.F_RDLCK}
	return f.lock(unix.F_OFD_GETLK, &lock) == nil && lock.Type == unix.F_WRLCK
}
