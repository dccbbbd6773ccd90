package lifetime

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// mustOpen opens a file of a volume.
func mustOpen(t *testing.T, dir, name string, write bool) File {
	t.Helper()
	f, err := Dir(dir).Open(name, write)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// A call that a signal interrupts is repeated until it succeeds, or fails for another reason.
func TestInterruptedCall(t *testing.T) {
	for _, last := range []error{nil, unix.EIO} {
		calls := 0
		err := retry("open", "/volume/main-running", func() error {
			if calls++; calls < 3 {
				return unix.EINTR
			}
			return last
		})
		if calls != 3 || !errors.Is(err, last) {
			t.Errorf("after %d calls: %v; want 3, the last with %v", calls, err, last)
		}
	}
}

// The type says what may be opened, and what may be replaced.
func TestTypes(t *testing.T) {
	dir := testenv.Volume(t)
	testenv.Plant(t, dir+"/file", "")
	err := errors.Join(os.Mkdir(dir+"/directory", 0o777), os.Symlink("file", dir+"/link"), unix.Mkfifo(dir+"/FIFO", 0o666))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{
		"file": 0, "directory": fs.ModeDir, "link": fs.ModeIrregular, "FIFO": fs.ModeIrregular,
	} {
		if info, err := Dir(dir).Lstat(name); err != nil || info.Type != want {
			t.Errorf("a %s has the type %v (%v), not %v", name, info.Type, err, want)
		}
	}
}

// The command that a program starts inherits no file.
func TestDescriptorIsNotInherited(t *testing.T) {
	dir := testenv.Volume(t)
	testenv.Plant(t, dir+"/file", "")
	f := mustOpen(t, dir, "file", false)
	defer f.Close()
	flags, err := unix.FcntlInt(uintptr(f.(*descriptor).fd), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("the flags of the descriptor are %#x (%v), without FD_CLOEXEC", flags, err)
	}
}

// A descriptor reads as an io.Reader has to.
func TestRead(t *testing.T) {
	dir := testenv.Volume(t)
	testenv.Plant(t, dir+"/file", "3\n")
	f := mustOpen(t, dir, "file", false)
	defer f.Close()
	for _, c := range []struct{ size, n int }{{1, 1}, {0, 0}, {4, 1}} {
		if n, err := f.Read(make([]byte, c.size)); n != c.n || err != nil {
			t.Errorf("Read into %d bytes: %d, %v; want %d", c.size, n, err, c.n)
		}
	}
	if n, err := f.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("Read at the end: %d, %v", n, err)
	}
	directory := mustOpen(t, dir, ".", false)
	defer directory.Close()
	if n, err := directory.Read(make([]byte, 1)); n != 0 || !errors.Is(err, unix.EISDIR) {
		t.Errorf("Read of a directory: %d, %v", n, err)
	}
}

// After a write that was cut short, the error says why.
func TestShortWrite(t *testing.T) {
	_, _, ours := mounted(t, "tmpfs", "size=4k")
	testenv.Plant(t, ours+"/file", "")
	f := mustOpen(t, ours, "file", true)
	defer f.Close()
	page := os.Getpagesize()
	if n, err := f.WriteAt(make([]byte, 2*page), 0); n != page || !errors.Is(err, unix.ENOSPC) {
		t.Errorf("%d bytes were written, and then %v; want %d, and that no space is left", n, err, page)
	}
}

// A closed file is not another one that has got its descriptor.
func TestClosedFile(t *testing.T) {
	dir := testenv.Volume(t)
	testenv.Plant(t, dir+"/file", "3\n")
	f := mustOpen(t, dir, "file", false)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	next := mustOpen(t, dir, "file", false) // gets the lowest number that is free
	defer next.Close()
	if n, err := f.Read(make([]byte, 4)); n != 0 || !errors.Is(err, unix.EBADF) {
		t.Errorf("Read of a closed file: %d, %v", n, err)
	}
	if err := f.Close(); !errors.Is(err, unix.EBADF) {
		t.Errorf("Close of a closed file: %v", err)
	}
}
