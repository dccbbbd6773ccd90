package lifetime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// counted is a volume that counts the files that it has open.
func counted(dir string, open *int) hooked {
	v := hooked{Dir: Dir(dir)}
	count := func(f File, err error) (File, error) {
		if err != nil {
			return nil, err
		}
		*open++
		return countedFile{f, open}, nil
	}
	v.open = func(name string, write bool) (File, error) { return count(v.Dir.Open(name, write)) }
	v.create = func(prefix string) (string, File, error) {
		name, f, err := v.Dir.Create(prefix)
		f, err = count(f, err)
		return name, f, err
	}
	return v
}

type countedFile struct {
	File
	open *int
}

func (f countedFile) Close() error {
	*f.open--
	return f.File.Close()
}

// leave leaves the private file of a Begin that was killed at a time.
func leave(t *testing.T, dir, private string, at time.Time) {
	t.Helper()
	path := filepath.Join(dir, private)
	testenv.Plant(t, path, contentRunning)
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
}

// One Begin removes at most maxLeftovers private files, and leaves none of them open.
func TestLeftoversAreBounded(t *testing.T) {
	const more = 7
	dir, open := testenv.FastVolume(t), 0
	for i := range maxLeftovers + more {
		leave(t, dir, fmt.Sprintf(".main-%016x", i), time.Now().Add(-time.Hour))
	}
	run, _, err := Begin(t.Context(), counted(dir, &open), "main", nil)
	if err != nil {
		t.Fatal(err)
	}
	if open != 1 {
		t.Errorf("%d files are open, not the run's alone", open)
	}
	ended := run.End(3)
	left := 0
	for file := range Dir(dir).Names() {
		if isPrivate(file, "main") {
			left++
		}
	}
	if ended != nil || left != more || open != 0 {
		t.Errorf("End: %v; %d leftovers, want %d; %d files are open", ended, left, more, open)
	}
}

// A private file counts as left over from leftoverAge on. One that cannot be examined stays.
func TestAgeOfLeftovers(t *testing.T) {
	const old, young, closed = ".main-0000000000000001", ".main-0000000000000002", ".main-0000000000000003"
	dir, now := testenv.Volume(t), time.Unix(1000, 0)
	v := hooked{Dir: Dir(dir), clock: &now}
	v.open = func(name string, write bool) (File, error) {
		if name == closed {
			return nil, &fs.PathError{Op: "open", Path: name, Err: unix.EACCES}
		}
		return v.Dir.Open(name, write)
	}
	leave(t, dir, old, now.Add(-leftoverAge))
	leave(t, dir, young, now.Add(-leftoverAge+1))
	leave(t, dir, closed, now.Add(-time.Hour))
	removeLeftovers(t.Context(), v, "main")
	testenv.WantListing(t, dir, young+`="running\n"`, closed+`="running\n"`)
}

// A file whose name is as long as the random part of a private name is not private.
func TestIsPrivate(t *testing.T) {
	const random = "0123456789abcdef"
	for file, want := range map[string]bool{
		".main-" + random: true, random: false, "main-" + random: false, ".main-": false, ".mai-" + random: false,
	} {
		if got := isPrivate(file, "main"); got != want {
			t.Errorf("isPrivate(%q) = %t", file, got)
		}
	}
}

func TestRefersTo(t *testing.T) {
	dir := testenv.Volume(t)
	testenv.Plant(t, dir+"/file", "3\n")
	f, err := openRegular(Dir(dir), "file")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want := func(want bool, what string) {
		t.Helper()
		if got := refersTo(Dir(dir), "file", f); got != want {
			t.Errorf("the name of %s refers to it: %t", what, got)
		}
	}
	want(true, "an open file")
	if err := os.Rename(dir+"/file", dir+"/away"); err != nil {
		t.Fatal(err)
	}
	want(false, "a renamed file")
	testenv.Plant(t, dir+"/file", "3\n")
	want(false, "a replaced file")
}

// openSeen opens nothing that Lstat has not found to be a regular file, and closes what is none after all.
func TestOpenSeenOpensRegularFilesOnly(t *testing.T) {
	dir, open := testenv.Volume(t), 0
	v := counted(dir, &open)
	testenv.Plant(t, dir+"/file", "")
	seen, err := v.Lstat("file")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(dir+"/file"), unix.Mkfifo(dir+"/file", 0o666)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := openSeen(v, "file", seen, false); !errors.Is(err, errIrregular) || open != 0 {
		t.Errorf("openSeen of a FIFO that was a file before: %v; %d files are open", err, open)
	}
	v.open = func(name string, _ bool) (File, error) {
		t.Errorf("%s is opened", name)
		return nil, unix.EACCES
	}
	if _, err := openRegular(v, "file"); !errors.Is(err, errIrregular) {
		t.Errorf("openRegular of a FIFO: %v", err)
	}
}

// A file that cannot be made complete is neither left open nor left behind.
func TestIncompleteFile(t *testing.T) {
	dir, open := testenv.Volume(t), 0
	v := counted(dir, &open)
	create := v.create
	v.create = func(prefix string) (string, File, error) {
		private, f, err := create(prefix)
		chmod := func(fs.FileMode) error { return &fs.PathError{Op: "chmod", Path: private, Err: unix.EPERM} }
		return private, hookedFile{File: f, chmod: chmod}, err
	}
	testenv.Plant(t, TerminatedPath(dir, "main"), "0\n")
	run, earlier, err := Begin(t.Context(), v, "main", nil)
	if run != nil || !earlier || !errors.Is(err, unix.EPERM) {
		t.Errorf("Begin: %v, earlier %t; want that chmod is refused, and an earlier run", err, earlier)
	}
	if open != 0 {
		t.Errorf("%d files are open", open)
	}
	testenv.WantListing(t, dir, `main-terminated="0\n"`)
}

// While Begin replaces a dead file, it holds that file's lock: others may hold the directory's for ever.
func TestDeadFileIsLockedWhileItIsReplaced(t *testing.T) {
	dir, replaced := testenv.Volume(t), false
	testenv.Plant(t, runningPath(dir, "main"), contentRunning)
	v := hooked{Dir: Dir(dir)}
	v.rename = func(from, to string) error {
		replaced = true
		f, err := v.Dir.Open(to, false)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if !f.WriteLocked() {
			t.Errorf("%s is replaced while others can lock it", to)
		}
		return v.Dir.Rename(from, to)
	}
	if _, _, err := Begin(t.Context(), v, "main", nil); err != nil || !replaced {
		t.Errorf("Begin: %v; replaced %t", err, replaced)
	}
}

// A Begin that waits for a live run says so once. What it finds is not its own earlier run.
func TestBeginWaitsInVain(t *testing.T) {
	dir := testenv.Volume(t)
	mustBegin(t, dir, "main") // never ends
	testenv.Plant(t, TerminatedPath(dir, "main"), "1\n")
	clock, calls := time.Unix(1, 0), 0
	v := hooked{Dir: Dir(dir), clock: &clock}
	_, earlier, err := begin(t.Context(), v, "main", 10*retryEvery, func(*LiveError) { calls++ })
	var live *LiveError
	if !errors.As(err, &live) || earlier || calls != 1 {
		t.Errorf("Begin: %v, earlier %t, waiting was called %d times", err, earlier, calls)
	}
}

// A Begin that fails says whether there was an earlier run.
func TestBeginFailsAfterARun(t *testing.T) {
	dir := testenv.Volume(t)
	testenv.Plant(t, TerminatedPath(dir, "main"), "1\n")
	v := hooked{Dir: Dir(dir), noReplace: func(from, to string) error {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: unix.EIO}
	}}
	if _, earlier, err := Begin(context.Background(), v, "main", nil); !errors.Is(err, unix.EIO) || !earlier {
		t.Errorf("Begin: %v, earlier %t", err, earlier)
	}
	testenv.WantListing(t, dir, `main-terminated="1\n"`)
}

// Where an end cannot be recorded at all, the error says so, and nothing is left behind.
func TestRecordInVain(t *testing.T) {
	for name, create := range map[string]error{"a directory is there": nil, "and the volume is full": unix.ENOSPC} {
		t.Run(name, func(t *testing.T) {
			dir := testenv.Volume(t)
			if err := os.Mkdir(TerminatedPath(dir, "main"), 0o755); err != nil {
				t.Fatal(err)
			}
			v := hooked{Dir: Dir(dir)}
			if create != nil {
				v.create = func(prefix string) (string, File, error) {
					return "", nil, &fs.PathError{Op: "open", Path: prefix, Err: create}
				}
			}
			err := Record(v, "main", 3)
			if err == nil || strings.Contains(err.Error(), "recorded") || create != nil && !errors.Is(err, create) {
				t.Errorf("Record: %v", err)
			}
			testenv.WantListing(t, dir, "main-terminated(drwxr-xr-x)")
		})
	}
}

// Without a descriptor in the whole system, an end becomes a symbolic link.
func TestRecordWithoutADescriptorInTheSystem(t *testing.T) {
	dir := testenv.Volume(t)
	v := hooked{Dir: Dir(dir), create: func(prefix string) (string, File, error) {
		return "", nil, &fs.PathError{Op: "open", Path: prefix, Err: unix.ENFILE}
	}}
	if err := Record(v, "main", 3); err == nil || !strings.Contains(err.Error(), "recorded as a failure (125)") {
		t.Errorf("Record: %v", err)
	}
	testenv.WantListing(t, dir, "main-terminated(Lrwxrwxrwx)")
}
