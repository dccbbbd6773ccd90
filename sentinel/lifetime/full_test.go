package lifetime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// mounted returns a helper that has mounted a file system: theirs is the path of the mount point for the
// helper, ours the path for this process.
func mounted(t *testing.T, kind, options string, source ...string) (h *helper, theirs, ours string) {
	t.Helper()
	h, theirs = newHelper(t, withMounts), testenv.Volume(t)
	if answer := h.ask(append([]string{"mount", theirs, kind, options}, source...)...); answer != "ok" {
		t.Skipf("no file system can be mounted here: %s", answer)
	}
	return h, theirs, h.inside(theirs)
}

// Begin fails on a full volume with an error. Record records the failure if it can, and no watcher takes it
// for a success.
func TestFullAtBegin(t *testing.T) {
	for _, c := range []struct {
		name    string
		options string
		earlier string // content of the earlier run's end, if there was one
		want    string // the state after Record
	}{
		// A symbolic link needs no block.
		{"no block", "size=64k", "", "unreadable: 125"},
		{"no block, an end there", "size=64k", "0\n", "unreadable: 125"},
		// But it needs an inode: that of the earlier end, if there is one.
		{"no inode", "nr_inodes=3", "", "not started"},
		{"no inode, an end there", "nr_inodes=3", "0\n", "unreadable: 125"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, theirs, ours := mounted(t, "tmpfs", c.options)
			if c.earlier != "" {
				testenv.Plant(t, TerminatedPath(ours, "main"), c.earlier)
			}
			if strings.Contains(c.options, "size") {
				testenv.FillBlocks(t, ours)
			} else {
				testenv.FillInodes(t, ours)
			}
			answer := h.ask("begin", theirs, "main")
			if !strings.Contains(answer, unix.ENOSPC.Error()) || !strings.Contains(answer, theirs) {
				t.Errorf("Begin returned %q; want the file, and that there is no space", answer)
			}
			if answer := h.ask("record", theirs, "main", "125"); !strings.Contains(answer, unix.ENOSPC.Error()) {
				t.Errorf("Record returned %q; want that there is no space", answer)
			}
			wantState(t, ours, "main", c.want)
			for file := range Dir(ours).Names() {
				if isPrivate(file, "main") {
					t.Errorf("%s is left", file)
				}
			}

			// As soon as there is room, a run can begin.
			if err := os.Remove(filepath.Join(ours, "full")); err != nil {
				t.Fatal(err)
			}
			h.do("begin", theirs, "main")
			wantState(t, ours, "main", "running")
			h.do("end", "3")
			wantState(t, ours, "main", "ended: 3")
		})
	}
}

// End records the code on a full volume: it needs no new block.
func TestFullAtEnd(t *testing.T) {
	for code := range 256 {
		if len(formatCode(code)) > len(contentRunning) {
			t.Fatalf("the end %q does not fit into the block of %q", formatCode(code), contentRunning)
		}
	}
	for _, c := range []struct {
		name  string
		steal bool // another process has removed the run's file
		want  string
	}{
		{"the run's own file is there", false, "ended: 3"},
		{"the run's own file is gone", true, "unreadable: 125"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, theirs, ours := mounted(t, "tmpfs", "size=64k")
			h.do("begin", theirs, "main")
			if c.steal {
				if err := os.Remove(runningPath(ours, "main")); err != nil {
					t.Fatal(err)
				}
			}
			testenv.FillBlocks(t, ours)
			answer := h.ask("end", "3")
			if (answer == "ok") == c.steal {
				t.Errorf("End returned %q", answer)
			}
			if c.steal && !strings.Contains(answer, "recorded as a failure") {
				t.Errorf("End returned %q; want what it has done instead", answer)
			}
			wantState(t, ours, "main", c.want)
		})
	}
}

// ext4 without a free block and a free directory slot refuses even the rename: End leaves the code in the
// run's own, unlocked file.
func TestFullDirectory(t *testing.T) {
	h, theirs, ours := mountedDisk(t)
	w, err := Watch(Dir(ours), []string{"main"}, 0)
	if err != nil {
		t.Logf("inotify is refused: %v", err)
	}
	defer w.Close()
	h.do("begin", theirs, "main")
	await(t, w, "running")
	testenv.FillBlocks(t, ours)
	// Fill every slot that is left in the directory: first those for long names, then those into which
	// only shorter names fit.
	for length := 200; length >= len("main-terminated"); length-- {
		for i := 0; ; i++ {
			name := fmt.Sprintf("%0*d", length, i)
			err := unix.Mknod(filepath.Join(ours, name), unix.S_IFREG|0o600, 0)
			if err == unix.ENOSPC {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	answer := h.ask("end", "3")
	if !strings.Contains(answer, unix.ENOSPC.Error()) ||
		!strings.Contains(answer, "the exit code is in "+runningPath(theirs, "main")) {
		t.Errorf("End returned %q; want that there was no space, and where the code is", answer)
	}
	await(t, w, "ended: 3")
	wantState(t, ours, "main", "ended: 3")
	if content, err := os.ReadFile(runningPath(ours, "main")); err != nil || string(content) != "3\n" {
		t.Errorf("the run's file holds %q, %v", content, err)
	}

	// The next run replaces the file as soon as there is room for its private file.
	for file := range Dir(ours).Names() {
		if file != "main-running" && file != "lost+found" {
			if err := os.Remove(filepath.Join(ours, file)); err != nil {
				t.Fatal(err)
			}
		}
	}
	h.do("begin", theirs, "main")
	await(t, w, "running")
	h.do("end", "4")
	await(t, w, "ended: 4")
}

// If the disk fails during a run, End returns an error, and no watcher sees a success.
func TestDiskFails(t *testing.T) {
	h, theirs, ours := mountedDisk(t)
	w, err := Watch(Dir(ours), []string{"main"}, time.Hour)
	if err != nil {
		t.Logf("inotify is refused: %v", err)
	}
	defer w.Close()
	h.do("begin", theirs, "main")
	await(t, w, "running")
	d, err := os.Open(ours)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	const shutdown = 0x8004587d // EXT4_IOC_SHUTDOWN: every later access fails
	if err := unix.IoctlSetPointerInt(int(d.Fd()), shutdown, 2); err != nil {
		t.Skipf("this kernel cannot make a disk fail: %v", err)
	}
	if answer := h.ask("end", "0"); !strings.Contains(answer, unix.EIO.Error()) || !strings.Contains(answer, theirs) {
		t.Errorf("End returned %q; want the file, and that its disk has failed", answer)
	}
	await(t, w, "lost: 137")
}

// mountedDisk mounts a small disk with ext4: see mounted.
func mountedDisk(t *testing.T) (h *helper, theirs, ours string) {
	t.Helper()
	// Blocks are small: a directory soon needs another. There is no reserve and no journal.
	const options = "-b 1024 -m 0 -N 1024 -O ^has_journal,^resize_inode"
	image := testenv.DiskImage(t, 1<<20, strings.Fields(options)...)
	h, theirs, ours = mounted(t, "ext4", "-", loopDevice(t, image))
	if err := os.Chmod(ours, 0o777); err != nil {
		t.Fatal(err)
	}
	return h, theirs, ours
}

// loopDevice returns a block device whose content is the file image. It exists until the test ends.
func loopDevice(t *testing.T, image string) string {
	t.Helper()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no loop device can be had here: %v", err)
	}
	defer control.Close()
	file, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for range 100 { // another process may take the free device first
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			t.Skipf("no loop device can be had here: %v", err)
		}
		path := fmt.Sprintf("/dev/loop%d", n)
		device, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Skipf("no loop device can be had here: %v", err)
		}
		err = unix.IoctlLoopConfigure(int(device.Fd()), &unix.LoopConfig{
			Fd:   uint32(file.Fd()),
			Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR},
		})
		if err == unix.EBUSY {
			device.Close()
			continue
		}
		if err != nil {
			device.Close()
			t.Skipf("no loop device can be had here: %v", err)
		}
		t.Cleanup(func() { device.Close() }) // the kernel releases it when it is unmounted (LO_FLAGS_AUTOCLEAR)
		return path
	}
	t.Skip("no loop device can be had here: they are all taken")
	return ""
}

// On a read-only mount a watcher can follow a run, but no run can begin.
func TestReadOnlyMount(t *testing.T) {
	t.Parallel()
	dir, owner := testenv.Volume(t), newHelper(t)
	watcher, theirs, _ := mounted(t, "bind-ro", "-", dir)
	for _, command := range [][]string{{"begin", theirs, "shim"}, {"record", theirs, "shim", "3"}} {
		answer := watcher.ask(command...)
		if !strings.Contains(answer, unix.EROFS.Error()) || !strings.Contains(answer, theirs) {
			t.Errorf("%s returned %q; want the file, and that the file system is read-only", command[0], answer)
		}
	}
	watcher.send("watch", theirs, "main")
	expect := func(want string) {
		t.Helper()
		if line := watcher.receive(); line != want {
			t.Fatalf("the watcher reports %q, not %q", line, want)
		}
	}
	expect("not started")
	owner.do("begin", dir, "main")
	expect("running")
	owner.kill()
	expect("lost: 137")
	next := newHelper(t)
	next.do("begin", dir, "main")
	expect("running")
	next.do("end", "3")
	expect("ended: 3")
	testenv.WantListing(t, dir, `main-terminated="3\n"`)
}

// If the volume was removed, Begin and Record return an error that names it.
func TestNoVolume(t *testing.T) {
	dir := testenv.Volume(t)
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	run, earlier, err := Begin(context.Background(), Dir(dir), "main", nil)
	if run != nil || earlier || !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), dir) {
		t.Errorf("Begin returned %v, earlier %t", err, earlier)
	}
	if err := Record(Dir(dir), "main", 125); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), dir) {
		t.Errorf("Record returned %v", err)
	}
}
