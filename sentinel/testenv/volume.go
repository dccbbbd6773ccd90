package testenv

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Volume creates a directory for the time of a test, with an emptyDir's mode: all users can reach it and write
// to it.
func Volume(t testing.TB) string {
	t.Helper()
	return volumeIn(t, "")
}

// FastVolume does the same in memory (TEST_MEMORY, by default /dev/shm) if that is possible, for tests with many
// runs: a sync to disk takes longer than all else.
func FastVolume(t testing.TB) string {
	t.Helper()
	memory := cmp.Or(os.Getenv("TEST_MEMORY"), "/dev/shm")
	if unix.Access(memory, unix.W_OK) != nil {
		return volumeIn(t, "")
	}
	return volumeIn(t, memory)
}

func volumeIn(t testing.TB, parent string) string {
	t.Helper()
	dir, err := os.MkdirTemp(parent, "volume-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Plant writes a file as a part of a test's setup.
func Plant(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Listing returns the sorted names of the files in a directory, with the content of small regular files and the
// mode of all others.
func Listing(dir string) string {
	const small = 4096 // bytes
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err.Error()
	}
	var all []string
	for _, entry := range entries {
		text := entry.Name()
		info, err := entry.Info()
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err == nil && info.Mode().IsRegular() && info.Size() <= small:
			content, _ := os.ReadFile(filepath.Join(dir, entry.Name()))
			text += fmt.Sprintf("=%q", content)
		case err == nil:
			text += "(" + info.Mode().String() + ")"
		}
		all = append(all, text)
	}
	return strings.Join(all, " ")
}

// WantListing fails the test unless the directory holds exactly want: see Listing.
func WantListing(t testing.TB, dir string, want ...string) {
	t.Helper()
	slices.Sort(want)
	if got := Listing(dir); got != strings.Join(want, " ") {
		t.Errorf("the volume holds %s, not %s", got, strings.Join(want, " "))
	}
}

// Names returns the sorted names of the files in a directory, separated by spaces.
func Names(t testing.TB, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return strings.Join(names, " ")
}

// FillBlocks fills a file system to the last byte, with a file named full.
func FillBlocks(t testing.TB, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "full"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 16; size > 0; size /= 2 {
		for block := bytes.Repeat([]byte("x"), size); ; {
			if _, err := f.Write(block); err != nil {
				if !errors.Is(err, unix.ENOSPC) {
					t.Fatal(err)
				}
				break
			}
		}
	}
}

// FillInodes creates files until a file system has no inode left. One is named full.
func FillInodes(t testing.TB, dir string) {
	t.Helper()
	Plant(t, filepath.Join(dir, "full"), "")
	for i := 0; ; i++ {
		err := unix.Mknod(filepath.Join(dir, fmt.Sprint("full", i)), unix.S_IFREG|0o600, 0)
		if err == unix.ENOSPC {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
