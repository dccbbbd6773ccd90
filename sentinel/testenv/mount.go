package testenv

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// PrivateMounts gives the rest of the test, and what it starts, mounts of its own. They end with the thread of
// the test. It needs root.
func PrivateMounts(t testing.TB) {
	t.Helper()
	NeedRoot(t, "to mount a volume")
	runtime.LockOSThread() // until the end of the test, and so of the thread
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Skipf("needs CAP_SYS_ADMIN: a mount namespace of its own: %v", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
}

// Tmpfs mounts a file system in memory on a directory, with options of mount(8): see PrivateMounts.
func Tmpfs(t testing.TB, dir, options string) {
	t.Helper()
	PrivateMounts(t)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Skipf("tmpfs cannot be mounted here: %v", err)
	}
	unmountAfter(t, dir)
}

// DiskImage returns a file of that size in bytes that holds an empty ext4 file system, and its path. options are
// those of mkfs.ext4. It needs root, because only root can mount it.
func DiskImage(t testing.TB, size int64, options ...string) (image string) {
	t.Helper()
	NeedRoot(t, "to mount an image of a disk")
	image = filepath.Join(t.TempDir(), "image")
	Plant(t, image, "")
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	mkfs, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		mkfs = "/sbin/mkfs.ext4" // not every PATH leads to the administrator's tools
	}
	out, err := exec.Command(mkfs, append(append([]string{"-q", "-F"}, options...), image)...).CombinedOutput()
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("needs mkfs.ext4 (Debian: e2fsprogs)")
	}
	if err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	return image
}

// Disk mounts a DiskImage on a directory: see PrivateMounts.
func Disk(t testing.TB, dir string, size int64, options ...string) {
	t.Helper()
	image := DiskImage(t, size, options...)
	PrivateMounts(t)
	if out, err := exec.Command("mount", "-t", "ext4", "-o", "loop", image, dir).CombinedOutput(); err != nil {
		if strings.Contains(string(out), "loop device") {
			t.Skipf("no loop device can be had here: %s", out)
		}
		t.Fatalf("mount: %v: %s", err, out)
	}
	unmountAfter(t, dir)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
}

// ReadOnly mounts a directory a second time, read-only, and returns where: see PrivateMounts.
func ReadOnly(t testing.TB, dir string) (mount string) {
	t.Helper()
	PrivateMounts(t)
	mount = Volume(t)
	if err := unix.Mount(dir, mount, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	unmountAfter(t, mount)
	if err := unix.Mount("", mount, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	return mount
}

func unmountAfter(t testing.TB, dir string) {
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// Namespaces makes a command start in new namespaces (CLONE_NEWNS and the like). Without root, these belong to a new
// user namespace, of which the command is root.
func Namespaces(attr *syscall.SysProcAttr, flags uintptr) {
	attr.Cloneflags |= flags &^ unix.CLONE_NEWNS
	attr.Unshareflags |= flags & unix.CLONE_NEWNS // package syscall then makes the mounts private
	if os.Geteuid() != 0 {
		attr.Cloneflags |= unix.CLONE_NEWUSER
	}
	if attr.Cloneflags&unix.CLONE_NEWUSER != 0 {
		attr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
}
