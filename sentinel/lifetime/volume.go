package lifetime

import (
	"context"
	"encoding/hex"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Volume is the shared directory, and the time that passes there: all that the
// contract asks of its surroundings, one method for one step that another process
// may come between. [Dir] is the real one. The other is the simulation in the tests
// of package shim, which puts every possible schedule between these steps.
//
// Files are named relative to the directory. Errors are those of package os.
type Volume interface {
	// Path is what a file is called in messages.
	Path(name string) string
	// Lstat is lstat(2): links are not followed.
	Lstat(name string) (Info, error)
	// Open opens an existing file. It neither follows a link nor waits, but it
	// may act (a device): look at what it is before.
	Open(name string, write bool) (File, error)
	// Create makes a new file that only its owner can open, with a name of
	// prefix and 16 random hex digits.
	Create(prefix string) (name string, f File, err error)
	// Rename replaces what to names.
	Rename(from, to string) error
	// RenameNoReplace fails with fs.ErrExist where to names anything.
	RenameNoReplace(from, to string) error
	// Remove is unlink(2): never of a directory.
	Remove(name string) error
	// Symlink makes a symbolic link that says target.
	Symlink(target, name string) error
	// Names are the names of the files, in no order; none if they cannot be read.
	// What is renamed meanwhile may come twice or not at all.
	Names() iter.Seq[string]
	// Full reports whether no byte can be added to any file, for lack of a free block.
	// Where the file system cannot say, it is not full.
	Full() bool
	// Lock takes the directory's lock, for which it waits at most timeout, and returns what gives
	// it back. It goes on without the lock after that, or where there is none.
	Lock(timeout time.Duration) (unlock func())

	Now() time.Time
	// Sleep returns ctx's error as soon as ctx is done.
	Sleep(ctx context.Context, d time.Duration) error
	// Tick calls f again and again, d apart. stop returns when f is not running, and will not run
	// any more.
	Tick(d time.Duration, f func()) (stop func())
}

// File is an open file of a Volume.
type File interface {
	Stat() (Info, error)
	Read(p []byte) (n int, err error)
	WriteAt(p []byte, off int64) (n int, err error)
	Truncate(size int64) error
	Chmod(mode fs.FileMode) error
	// Close gives back the locks that were taken by this File.
	Close() error

	// TryWriteLock takes the write lock. It fails if somebody has a lock.
	TryWriteLock() error
	// Unlock gives it back.
	Unlock() error
	// WriteLocked reports whether somebody else holds a write lock. It takes
	// nothing, and a File that can only be read is enough. Where the file
	// system cannot say, no lock is seen.
	WriteLocked() bool
	// AwaitUnlocked returns when nobody holds a write lock any more; until
	// Close, nobody can take one.
	AwaitUnlocked() error
}

// Info is what a Volume tells of a file: its identity, and of which type it is.
type Info struct {
	Identity
	Type fs.FileMode // see fs.ModeType; 0 is a regular file
}

// Identity tells one file from the next of the same name, and one state of a
// file from a later one.
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

func (d Dir) Lstat(name string) (Info, error) { return infoOf(os.Lstat(d.Path(name))) }

func (d Dir) Open(name string, write bool) (File, error) {
	flags := os.O_RDONLY
	if write {
		flags = os.O_RDWR
	}
	return asFile(os.OpenFile(d.Path(name), flags|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0))
}

func (d Dir) Create(prefix string) (name string, f File, err error) {
	// crypto/rand does the same, and makes the program 0.3 MB larger.
	var random [privateBytes]byte
	if _, err := unix.Getrandom(random[:], 0); err != nil {
		return "", nil, os.NewSyscallError("getrandom", err)
	}
	name = prefix + hex.EncodeToString(random[:])
	f, err = asFile(os.OpenFile(d.Path(name), os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600))
	return name, f, err
}

func (d Dir) Rename(from, to string) error { return os.Rename(d.Path(from), d.Path(to)) }

func (d Dir) RenameNoReplace(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, d.Path(from), unix.AT_FDCWD, d.Path(to), unix.RENAME_NOREPLACE)
	switch err {
	case nil:
		return nil
	case unix.EINVAL, unix.ENOSYS, unix.EOPNOTSUPP, unix.EPERM:
		// A file system or a kernel without it, or a seccomp profile that does not know
		// the call (EPERM is also what such a profile says). link(2) never replaces
		// anything. A directory that may not be changed refuses that, too.
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

// Names never has more than a few of the names in memory, and ends even if files are
// made as fast as it reads.
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

// Full asks for blocks only: whoever has created a file needs no other inode to write to it.
// What is reserved for root counts as taken (f_bavail, see statfs(2)). A file system that
// reports no blocks at all (FUSE, a tmpfs without a limit) does not say.
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

// Lock is flock(2) on the directory. A process that can only read the directory may hold it for ever;
// hence the timeout.
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
	quiet, still := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(still)
		ticker := time.NewTicker(d)
		defer ticker.Stop()
		for {
			select {
			case <-quiet:
				return
			case <-ticker.C:
				f()
			}
		}
	}()
	return func() {
		close(quiet)
		<-still
	}
}

func infoOf(info fs.FileInfo, err error) (Info, error) {
	if err != nil {
		return Info{}, err
	}
	st := info.Sys().(*syscall.Stat_t)
	// The types of these fields differ between processors.
	return Info{
		Identity{uint64(st.Dev), uint64(st.Ino), int64(st.Mtim.Sec), int64(st.Mtim.Nsec)},
		info.Mode().Type(),
	}, nil
}

// osFile is a File of a Dir. (Not embedded: what a program can reach of os.File's
// methods it carries along.)
type osFile struct{ f *os.File }

func asFile(f *os.File, err error) (File, error) {
	if err != nil {
		return nil, err // and no File, not one without an *os.File
	}
	return osFile{f}, nil
}

func (f osFile) Stat() (Info, error)                      { return infoOf(f.f.Stat()) }
func (f osFile) Read(p []byte) (int, error)               { return f.f.Read(p) }
func (f osFile) WriteAt(p []byte, off int64) (int, error) { return f.f.WriteAt(p, off) }
func (f osFile) Truncate(size int64) error                { return f.f.Truncate(size) }
func (f osFile) Chmod(mode fs.FileMode) error             { return f.f.Chmod(mode) }
func (f osFile) Close() error                             { return f.f.Close() }
