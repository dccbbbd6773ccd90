package lifetime

import (
	"io"
	"io/fs"

	"golang.org/x/sys/unix"
)

// descriptor is a File of a Dir: a file descriptor of the kernel. An os.File would be offered to epoll(7) when it
// is opened, and taken out of non-blocking mode again before a lock: five more system calls.
type descriptor struct {
	fd   int
	path string // for errors
}

func open(path string, flags int, mode uint32) (File, error) {
	var fd int
	err := retry("open", path, func() (err error) {
		fd, err = unix.Open(path, flags|unix.O_CLOEXEC, mode)
		return err
	})
	if err != nil {
		return nil, err // a nil File, not a nil *descriptor
	}
	return &descriptor{fd, path}, nil
}

// retry repeats a call that a signal has interrupted (signal(7)). Its error names the call and the file.
func retry(op, path string, call func() error) error {
	for {
		switch err := call(); err {
		case nil:
			return nil
		case unix.EINTR:
		default:
			return &fs.PathError{Op: op, Path: path, Err: err}
		}
	}
}

func stat(op, path string, call func(*unix.Stat_t) error) (Info, error) {
	var st unix.Stat_t
	if err := retry(op, path, func() error { return call(&st) }); err != nil {
		return Info{}, err
	}
	info := Info{Type: fs.ModeIrregular}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		info.Type = 0
	case unix.S_IFDIR:
		info.Type = fs.ModeDir
	}
	sec, nanos := st.Mtim.Unix()
	info.Identity = Identity{st.Dev, st.Ino, sec, nanos}
	return info, nil
}

func (f *descriptor) Stat() (Info, error) {
	return stat("stat", f.path, func(st *unix.Stat_t) error { return unix.Fstat(f.fd, st) })
}

func (f *descriptor) Read(p []byte) (n int, err error) {
	err = retry("read", f.path, func() (err error) {
		n, err = unix.Read(f.fd, p)
		return err
	})
	switch {
	case err != nil:
		return 0, err
	case n == 0 && len(p) > 0:
		return 0, io.EOF
	}
	return n, nil
}

func (f *descriptor) WriteAt(p []byte, off int64) (n int, err error) {
	for n < len(p) { // after a short write, the next one fails with the reason
		var more int
		err := retry("write", f.path, func() (err error) {
			more, err = unix.Pwrite(f.fd, p[n:], off+int64(n))
			return err
		})
		if err != nil {
			return n, err
		}
		n += more
	}
	return n, nil
}

func (f *descriptor) Truncate(size int64) error {
	return retry("truncate", f.path, func() error { return unix.Ftruncate(f.fd, size) })
}

func (f *descriptor) Chmod(mode fs.FileMode) error {
	return retry("chmod", f.path, func() error { return unix.Fchmod(f.fd, uint32(mode.Perm())) })
}

func (f *descriptor) sync() error {
	return retry("sync", f.path, func() error { return unix.Fsync(f.fd) })
}

// Close does not repeat the call after EINTR: the descriptor is closed even then (close(2)). Later calls fail: the
// number may belong to another file.
func (f *descriptor) Close() error {
	fd := f.fd
	f.fd = -1
	return unix.Close(fd)
}

// lock executes one of the lock commands of fcntl(2) on the whole of f.
func (f *descriptor) lock(cmd int, lock *unix.Flock_t) error {
	return retry("lock", f.path, func() error { return unix.FcntlFlock(uintptr(f.fd), cmd, lock) })
}

func (f *descriptor) TryWriteLock() error {
	return f.lock(unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
}

func (f *descriptor) AwaitUnlocked() error {
	return f.lock(unix.F_OFD_SETLKW, &unix.Flock_t{Type: unix.F_RDLCK})
}

func (f *descriptor) Unlock() error {
	return f.lock(unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_UNLCK})
}

func (f *descriptor) WriteLocked() bool {
	lock := unix.Flock_t{Type: unix.F_RDLCK}
	return f.lock(unix.F_OFD_GETLK, &lock) == nil && lock.Type == unix.F_WRLCK
}
