package lifetime

import (
	"context"
	"encoding/hex"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Volume is the shared directory, and the clock: all that the contract needs from its environment. Each
// method is one step, before and after which other processes may act. [Dir] is the real one. The other is
// the simulation in the tests of package shim, which explores every schedule of these steps.
//
// Files are named relative to the directory. Errors are those of package os.
type Volume interface {
	// Path returns the path of a file, for messages.
	Path(name string) string
	// Lstat is lstat(2): it does not follow links.
	Lstat(name string) (Info, error)
	// Open opens an existing file for reading and, if write is true, for writing. It neither follows a
	// link nor blocks. But it may have an effect (a device): call Lstat before.
	Open(name string, write bool) (File, error)
	// Create creates a file that only its owner can open. Its name is prefix and 16 random hex digits.
	Create(prefix string) (name string, f File, err error)
	// Rename replaces the file to, if there is one.
	Rename(from, to string) error
	// RenameNoReplace fails with fs.ErrExist if to exists.
	RenameNoReplace(from, to string) error
	// Remove is unlink(2): it never removes a directory.
	Remove(name string) error
	// Symlink creates a symbolic link to target.
	Symlink(target, name string) error
	// Names yields the names of the files, in no order; none if the directory cannot be read. A file
	// that is renamed meanwhile may come twice or not at all.
	Names() iter.Seq[string]
	// Full reports whether the file system has no free block. It is false if the file system does not
	// report that.
	Full() bool
	// Lock takes the directory's lock and returns a function that releases it. It waits at most
	// timeout, and then returns without the lock; so it does where there is no such lock.
	Lock(timeout time.Duration) (unlock func())

	Now() time.Time
	// Sleep returns nil after d, or ctx's error as soon as ctx is done.
	Sleep(ctx context.Context, d time.Duration) error
	// Tick calls f every d. stop ends that; when it returns, f is not running and never will.
	Tick(d time.Duration, f func()) (stop func())
}

// File is an open file of a Volume.
type File interface {
	Stat() (Info, error)
	Read(p []byte) (n int, err error)
	WriteAt(p []byte, off int64) (n int, err error)
	Truncate(size int64) error
	Chmod(mode fs.FileMode) error
	// Close also releases the locks that were taken through this File.
	Close() error

	// TryWriteLock takes the write lock without waiting. It fails if somebody else has any lock.
	TryWriteLock() error
	// Unlock releases the lock.
	Unlock() error
	// WriteLocked reports whether somebody else holds a write lock. It takes no lock, and the File need
	// not be writable. It is false if the file system does not report locks.
	WriteLocked() bool
	// AwaitUnlocked blocks until nobody else holds a write lock. From then on until Close, nobody can
	// take one. It fails where the file system refuses such a wait.
	AwaitUnlocked() error
}

// Info is what a Volume reports about a file.
type Info struct {
	Identity
	Type fs.FileMode // 0 (a regular file), fs.ModeDir, or fs.ModeIrregular for all others
}

// Identity distinguishes a file from the next one of the same name, and a file from itself after a later
// write.
type Identity struct {
	Dev, Ino   uint64
	Sec, Nanos int64 // modification time, since 1970
}

func (id Identity) sameFile(other Identity) bool {
	return id.Dev == other.Dev && id.Ino == other.Ino
}

// Dir is the Volume at a path.
type Dir string

func (d Dir) Path(name string) string { return filepath.Join(string(d), name) }

func (d Dir) Lstat(name string) (Info, error) {
	path := d.Path(name)
	return stat("lstat", path, func(st *unix.Stat_t) error { return unix.Lstat(path, st) })
}

func (d Dir) Open(name string, write bool) (File, error) {
	flags := unix.O_RDONLY
	if write {
		flags = unix.O_RDWR
	}
	return open(d.Path(name), flags|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
}

func (d Dir) Create(prefix string) (name string, f File, err error) {
	// crypto/rand would make the program 0.3 MB larger.
	var random [privateBytes]byte
	if _, err := unix.Getrandom(random[:], 0); err != nil {
		return "", nil, os.NewSyscallError("getrandom", err)
	}
	name = prefix + hex.EncodeToString(random[:])
	f, err = open(d.Path(name), unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600)
	return name, f, err
}

func (d Dir) Rename(from, to string) error { return os.Rename(d.Path(from), d.Path(to)) }

func (d Dir) RenameNoReplace(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, d.Path(from), unix.AT_FDCWD, d.Path(to), unix.RENAME_NOREPLACE)
	switch err {
	case nil:
		return nil
	case unix.EINVAL, unix.ENOSYS, unix.EOPNOTSUPP, unix.EPERM:
		// The file system or the kernel does not support the flag, or a seccomp profile does not know
		// the call (some profiles return EPERM). link(2) never replaces anything. If EPERM means that
		// the directory must not be changed, link(2) fails, too.
		if err := os.Link(d.Path(from), d.Path(to)); err != nil {
			return err
		}
		return d.Remove(from)
	}
	return &os.LinkError{Op: "rename", Old: d.Path(from), New: d.Path(to), Err: err}
}

func (d Dir) Remove(name string) error {
	path := d.Path(name)
	if err := unix.Unlink(path); err != nil {
		return &fs.PathError{Op: "remove", Path: path, Err: err}
	}
	return nil
}

func (d Dir) Symlink(target, name string) error { return os.Symlink(target, d.Path(name)) }

// Names has at most 256 names in memory at a time. It reads at most 2^20, so it ends even if others create
// files as fast as it reads.
func (d Dir) Names() iter.Seq[string] {
	const most, atOnce = 1 << 20, 256
	return func(yield func(string) bool) {
		dir, err := os.Open(string(d))
		if err != nil {
			return
		}
		defer dir.Close()
		for range most / atOnce {
			names, err := dir.Readdirnames(atOnce)
			for _, name := range names {
				if !yield(name) {
					return
				}
			}
			if err != nil {
				return
			}
		}
	}
}

// Full checks for blocks only: a file that exists needs no other inode to be written to. Blocks that are
// reserved for root count as taken (f_bavail, see statfs(2)). A file system that reports no blocks at all
// (FUSE, a tmpfs without a limit) never counts as full.
func (d Dir) Full() bool {
	var st unix.Statfs_t
	for {
		switch unix.Statfs(string(d), &st) {
		case nil:
			return st.Blocks > 0 && st.Bavail == 0
		case unix.EINTR:
			continue
		}
		return false
	}
}

// Lock is flock(2) on the directory. A process that can only read the directory may hold that lock for
// ever: hence the timeout.
func (d Dir) Lock(timeout time.Duration) (unlock func()) {
	dir, err := os.Open(string(d))
	if err != nil {
		return func() {}
	}
	for range timeout / retryEvery {
		if unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB) != unix.EWOULDBLOCK {
			break
		}
		time.Sleep(retryEvery)
	}
	return func() { dir.Close() }
}

func (Dir) Now() time.Time { return time.Now() }

func (Dir) Sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func (Dir) Tick(d time.Duration, f func()) (stop func()) {
	// A timer and not a goroutine: stop then needs no other thread to run.
	var mu sync.Mutex
	var stopped bool
	var timer *time.Timer
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(d, func() {
		mu.Lock()
		defer mu.Unlock()
		if !stopped {
			f()
			timer.Reset(d)
		}
	})
	return func() {
		timer.Stop()
		mu.Lock()
		defer mu.Unlock()
		stopped = true
	}
}
