package cmd_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
)

// confined becomes another program, after some limit was put on it.
//
//	confined [LIMIT ...] -- PROGRAM [ARG...]
//
//	cgroup=PATH   it is in this control group
//	nofile=N      it may have N open files (RLIMIT_NOFILE)
//	open=N        it inherits N of them
//	inotify=N     its user namespace, a new one, may have N inotify instances
func confined(args []string) int {
	for i, arg := range args {
		if arg == "--" {
			panic(unix.Exec(args[i+1], args[i+1:], os.Environ()))
		}
		what, value, _ := strings.Cut(arg, "=")
		n, _ := strconv.Atoi(value)
		var err error
		switch what {
		case "cgroup":
			err = os.WriteFile(filepath.Join(value, "cgroup.procs"), []byte("0"), 0)
		case "nofile":
			err = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(n), Max: uint64(n)})
		case "open":
			for range n {
				_, openErr := unix.Open(os.DevNull, unix.O_RDONLY, 0)
				err = errors.Join(err, openErr)
			}
		case "inotify":
			err = os.WriteFile("/proc/sys/user/max_inotify_instances", []byte(value), 0)
		default:
			err = errors.New("no such limit")
		}
		if err != nil {
			panic(fmt.Errorf("%s: %w", arg, err))
		}
	}
	panic("no program to become")
}

// confine is the command line that puts limits on another.
func confine(argv []string, limits ...string) []string {
	return drive.Command("confined", append(append(limits, "--"), argv...)...)
}

// userNamespace has a command run in a user namespace of its own, as its root.
func userNamespace(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
}

func needRoot(t testing.TB, what string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: " + what)
	}
}

// cgroup is a control group of one controller, of cgroup v1 or v2.
type cgroup struct {
	t    testing.TB
	path string
	v2   bool
}

// newCgroup makes a control group for the time of a test.
func newCgroup(t testing.TB, controller string) cgroup {
	t.Helper()
	needRoot(t, "to make a control group")
	const root = "/sys/fs/cgroup"
	g := cgroup{t: t}
	parent := filepath.Join(root, controller)
	if _, err := os.Stat(filepath.Join(parent, "cgroup.procs")); err != nil {
		// v2, where it is as it is: to enable a controller is the machine's matter.
		enabled, err := os.ReadFile(filepath.Join(root, "cgroup.subtree_control"))
		if err != nil || !slices.Contains(strings.Fields(string(enabled)), controller) {
			t.Skipf("no control group of %s can be had here: %v", controller, err)
		}
		parent, g.v2 = root, true
	}
	path, err := os.MkdirTemp(parent, "sentinel-shim-test-")
	if err != nil {
		t.Skipf("no control group of %s can be had here: %v", controller, err)
	}
	g.path = path
	t.Cleanup(func() {
		// It is busy until its last process is reaped, by whomever.
		for deadline := time.Now().Add(drive.Patience); ; time.Sleep(10 * time.Millisecond) {
			err := unix.Rmdir(g.path)
			if err == nil {
				return
			}
			if err != unix.EBUSY || time.Now().After(deadline) {
				t.Errorf("rmdir %s: %v", g.path, err)
				return
			}
		}
	})
	return g
}

// limit is the directive that has a program confined to the group.
func (g cgroup) limit() string { return "cgroup=" + g.path }

// set writes one of the group's files, which may have two names.
func (g cgroup) set(v1, v2 string, value int) {
	g.t.Helper()
	if err := os.WriteFile(g.file(v1, v2), []byte(strconv.Itoa(value)), 0); err != nil {
		g.t.Fatal(err)
	}
}

// get reads one of the group's files.
func (g cgroup) get(v1, v2 string) string {
	g.t.Helper()
	content, err := os.ReadFile(g.file(v1, v2))
	if err != nil {
		g.t.Fatal(err)
	}
	return strings.TrimSpace(string(content))
}

func (g cgroup) file(v1, v2 string) string {
	if g.v2 {
		return filepath.Join(g.path, v2)
	}
	return filepath.Join(g.path, v1)
}

// mountedVolume is a directory on a file system of its own, for the rest of the test and what
// it starts.
func mountedVolume(t testing.TB, kind, options string) (dir string) {
	t.Helper()
	dir = newVolume(t)
	privateMounts(t)
	if err := unix.Mount(kind, dir, kind, 0, options); err != nil {
		t.Skipf("%s cannot be mounted here: %v", kind, err)
	}
	unmountAfter(t, dir)
	return dir
}

// mountedDisk is the same with ext4, in a file of so many bytes.
func mountedDisk(t testing.TB, size int64) (dir string) {
	t.Helper()
	dir, image := newVolume(t), filepath.Join(newVolume(t), "image")
	privateMounts(t)
	plant(t, image, "")
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	for _, argv := range [][]string{
		{"mkfs.ext4", "-q", "-F", "-b", "1024", "-m", "0", "-N", "64", "-O", "^has_journal,^resize_inode", image},
		{"mount", "-o", "loop", image, dir},
	} {
		// Not every user's PATH leads to where administrators' tools are.
		out, err := exec.Command("env", append([]string{"PATH=" + os.Getenv("PATH") + ":/sbin:/usr/sbin"}, argv...)...).CombinedOutput()
		if err != nil {
			t.Skipf("no disk with ext4 can be had here: %s: %v: %s", argv[0], err, out)
		}
	}
	unmountAfter(t, dir)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// privateMounts gives the rest of the test, and what it starts, mounts of its own. They go
// with the test's thread.
func privateMounts(t testing.TB) {
	t.Helper()
	needRoot(t, "to mount a volume")
	runtime.LockOSThread() // for good
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Skipf("needs CAP_SYS_ADMIN: a mount namespace of its own: %v", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
}

func unmountAfter(t testing.TB, dir string) {
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// withoutVDSO makes copies of both programs that ask the kernel for the time by a system
// call: of the vDSO, which they would ask else, nobody can take the place.
func withoutVDSO(t testing.TB) (directory string) {
	t.Helper()
	directory = t.TempDir()
	for _, program := range []string{"sentinel", "shim"} {
		image, err := os.ReadFile(drive.Program(program))
		if err != nil {
			t.Fatal(err)
		}
		symbol := []byte("__vdso_clock_gettime")
		if runtime.GOARCH == "arm64" {
			symbol = []byte("__kernel_clock_gettime")
		}
		if !bytes.Contains(image, symbol) {
			t.Fatalf("%s does not look for %s", program, symbol)
		}
		// Under this name it is not found, and then is done without.
		image = bytes.ReplaceAll(image, symbol, bytes.ToUpper(symbol))
		if err := os.WriteFile(filepath.Join(directory, program), image, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return directory
}

// wallClock runs a program of withoutVDSO under another wall clock. It says a number of
// seconds since 1970 when the program begins; or it is wild: of two numbers it says now
// the one and now the other.
//
//	clock SECONDS[,SECONDS] PROGRAM [ARG...]
func wallClock(args []string) int {
	var says []int64
	for _, word := range strings.Split(args[0], ",") {
		seconds, err := strconv.ParseInt(word, 10, 64)
		if err != nil {
			panic(err)
		}
		says = append(says, seconds)
	}
	runtime.LockOSThread() // whose the filter is, and so its child's
	notify := notifyOfClock()
	cmd := exec.Command(args[1], args[2:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	go answerClock(notify, says)
	if err := cmd.Run(); cmd.ProcessState == nil {
		panic(err)
	}
	return cmd.ProcessState.ExitCode()
}

// notifyOfClock has the kernel ask us, by the descriptor that is returned, whenever a child
// of this thread makes the system call for the wall clock.
func notifyOfClock() (notify int) {
	const first = 16 // where struct seccomp_data has the call's first argument
	return notifyOf(
		load(callNumber), unless(unix.SYS_CLOCK_GETTIME, 3),
		load(first), unless(unix.CLOCK_REALTIME, 1), verdict(userNotify),
		verdict(unix.SECCOMP_RET_ALLOW),
	)
}

// stuckDisk runs a program to which no disk ever confirms a sync: the call does not return.
//
//	stuckdisk PROGRAM [ARG...]
func stuckDisk(args []string) int {
	runtime.LockOSThread() // whose the filter is, and so its child's
	notifyOf(              // and nobody answers
		load(callNumber),
		unless(unix.SYS_FSYNC, 1), verdict(userNotify),
		unless(unix.SYS_FDATASYNC, 1), verdict(userNotify),
		unless(unix.SYS_SYNCFS, 1), verdict(userNotify),
		verdict(unix.SECCOMP_RET_ALLOW),
	)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); cmd.ProcessState == nil {
		panic(err)
	}
	return cmd.ProcessState.ExitCode()
}

// The instructions of a seccomp filter, see seccomp(2).
const (
	callNumber = 0 // where struct seccomp_data has the call
	userNotify = 0x7fc00000
)

func load(at uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
}

func unless(value uint32, skip uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value, Jf: skip}
}

func verdict(k uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k}
}

// notifyOf installs a filter on this thread and its children. By the descriptor that is
// returned the kernel asks what is to become of the calls for which the verdict is userNotify.
func notifyOf(filter ...unix.SockFilter) (notify int) {
	const newListener = 8
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		panic(err)
	}
	fd, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, newListener, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		panic(errno)
	}
	return int(fd)
}

// answerClock answers all who ask.
func answerClock(notify int, says []int64) {
	const receive, send = 0xc0502100, 0xc0182101 // SECCOMP_IOCTL_NOTIF_RECV and _SEND
	began := time.Now()
	for n := 0; ; n++ {
		var asked struct { // struct seccomp_notif
			id         uint64
			pid, flags uint32
			nr         int32
			arch       uint32
			ip         uint64
			args       [6]uint64
		}
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(notify), receive, uintptr(unsafe.Pointer(&asked)))
		if errno == unix.EINTR || errno == unix.ENOENT { // who asked is dead
			continue
		}
		if errno != 0 {
			panic(errno)
		}
		since := time.Since(began)
		now := unix.Timespec{Sec: says[n%len(says)] + int64(since/time.Second), Nsec: int64(since % time.Second)}
		const size = int(unsafe.Sizeof(now))
		local := []unix.Iovec{{Base: (*byte)(unsafe.Pointer(&now))}}
		local[0].SetLen(size)
		if _, err := unix.ProcessVMWritev(int(asked.pid), local, []unix.RemoteIovec{{Base: uintptr(asked.args[1]), Len: size}}, 0); err != nil && err != unix.ESRCH {
			panic(err)
		}
		response := struct { // struct seccomp_notif_resp
			id    uint64
			value int64
			err   int32
			flags uint32
		}{id: asked.id}
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(notify), send, uintptr(unsafe.Pointer(&response))); errno != 0 && errno != unix.ENOENT {
			panic(errno)
		}
	}
}
