package cmd_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// inMemory returns a volume that is a small file system in memory.
func inMemory(t testing.TB, options string) (dir string) {
	t.Helper()
	dir = testenv.FastVolume(t)
	testenv.Tmpfs(t, dir, options)
	return dir
}

// onDisk returns a volume that is a small file system on a disk.
func onDisk(t testing.TB) (dir string) {
	t.Helper()
	dir = testenv.FastVolume(t)
	testenv.Disk(t, dir, 1<<20, "-b", "1024", "-m", "0", "-N", "64", "-O", "^has_journal,^resize_inode")
	return dir
}

// TestFullVolume fills the volume before or after each of the two programs starts.
func TestFullVolume(t *testing.T) {
	t.Parallel()
	for _, fs := range []struct {
		name     string
		mount    func(t testing.TB) (dir string)
		fill     func(t testing.TB, dir string)
		recorded bool // a sentinel that cannot begin can still record that
	}{
		{"no block", func(t testing.TB) string { return inMemory(t, "size=64k") }, testenv.FillBlocks, true},
		{"no inode", func(t testing.TB) string { return inMemory(t, "nr_inodes=16") }, testenv.FillInodes, false},
		{"a disk without a block", onDisk, testenv.FillBlocks, true},
		{"a disk without an inode", onDisk, testenv.FillInodes, false},
	} {
		for _, first := range []string{"nobody", "the shim", "the sentinel", "both"} {
			for _, code := range []int{0, 3} {
				t.Run(fmt.Sprintf("%s, after %s, %d", fs.name, first, code), func(t *testing.T) {
					t.Parallel()
					dir := fs.mount(t)
					command, open := gated(t, code)
					var sidecar, main *drive.Process
					startShim := func() {
						sidecar = drive.Start(t, shim(dir, impatient...))
						sidecar.Await("sleep started")
					}
					startMain := func() { main = drive.Start(t, sentinel(dir, command)) }
					if first == "the shim" || first == "both" {
						startShim()
					}
					if first == "the sentinel" || first == "both" {
						startMain()
						main.Await("ready")
					}
					fs.fill(t, dir)
					if sidecar == nil {
						startShim()
					}
					if main != nil {
						open()
						main.Want(code)
						sidecar.Want(code)
						return
					}
					startMain()
					main.Want(125)
					main.Await("make room on the volume " + dir)
					if fs.recorded {
						sidecar.Want(125)
					} else {
						main.Await("the end of main could not be recorded")
						stopUntold(t, dir, sidecar)
						sidecar.Want(untold)
					}
				})
			}
		}
	}
}

// TestEmptyEndOnAFullVolume: a main without a sentinel writes its end, and the volume is full. That leaves an empty
// file, just as a main does that only creates the file to report a success.
func TestEmptyEndOnAFullVolume(t *testing.T) {
	t.Parallel()
	const (
		writes  = `false; echo $? >"$0/main-terminated"`
		touches = `: >"$0/main-terminated"`
		full    = "is empty and the volume is full: counted as a failure (125): free space or raise sizeLimit"
		empty   = "is empty: counted as a success"
	)
	memory := func(t testing.TB) string { return inMemory(t, "size=64k,nr_inodes=16") }
	for _, c := range []struct {
		name   string
		mount  func(t testing.TB) (dir string)
		main   string
		before func(t testing.TB, dir string) // main ends
		after  func(t testing.TB, dir string)
		code   int
		says   string
	}{
		{"memory without a block", memory, writes, testenv.FillBlocks, nil, 125, full},
		{"memory without an inode", memory, touches, nil, testenv.FillInodes, 0, empty},
		{"memory", memory, touches, nil, nil, 0, empty},
		{"a disk without a block", onDisk, writes, testenv.FillBlocks, nil, 125, full},
		{"a disk without an inode", onDisk, touches, nil, testenv.FillInodes, 0, empty},
		{"a disk", onDisk, touches, nil, nil, 0, empty},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := c.mount(t)
			sidecar := drive.Start(t, shim(dir))
			sidecar.Await("sleep started")
			if c.before != nil {
				c.before(t, dir)
			}
			drive.Start(t, []string{"/bin/sh", "-c", c.main, dir}).Code() // the shell may fail to write
			if c.after != nil {
				c.after(t, dir)
			}
			sidecar.Want(c.code)
			sidecar.Await(filepath.Join(dir, "main-terminated") + " " + c.says)
		})
	}
}

// TestMainsMountReadOnly: the sentinel cannot write to the volume. It says what to do.
func TestMainsMountReadOnly(t *testing.T) {
	t.Parallel()
	dir := testenv.FastVolume(t)
	sidecar := drive.Start(t, shim(dir, impatient...))
	sidecar.Await("sleep started")
	mount := testenv.ReadOnly(t, dir)
	main := drive.Start(t, sentinel(mount, []string{"true"}))
	main.Want(125)
	main.Await("the volume " + mount + " has to be writable for this user (readOnly, fsGroup)")
	stopUntold(t, dir, sidecar)
	sidecar.Want(untold)
}
