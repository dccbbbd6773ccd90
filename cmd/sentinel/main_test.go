package main_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
)

// These tests drive the built sentinel as a user would. What is wrapped is mostly a
// shell: unlike a Go program it has no threads, descriptors and signal handlers of its
// own that would have to be told from what sentinel hands on.

func TestMain(m *testing.M) {
	drive.Main(m, drive.Modes{
		"prepared":     prepared,
		"no-fork":      noFork,
		"limited":      limited,
		"mounted":      mounted,
		"sidecar":      sidecar,
		"nameserved":   nameserved,
		"negligent":    drive.Negligent,
		"as-somebody":  drive.AsSomebody,
		"without-kill": drive.WithoutKill,
	})
}

// sentinel starts the sentinel on a volume.
func sentinel(t *testing.T, dir string, flags []string, command ...string) *drive.Process {
	t.Helper()
	return drive.Start(t, drive.Wrap("sentinel", append([]string{"--dir", dir}, flags...), command))
}

// shell is the command line of a shell script.
func shell(script string, args ...string) []string {
	return append([]string{"sh", "-c", script, "sh"}, args...)
}

// recorded is what the recorded end of a run holds, "" if there is none.
func recorded(t *testing.T, dir, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name+"-terminated"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(data)
}

// wantRecord fails the test unless the code is recorded as the end of main, and nothing
// else is left on the volume.
func wantRecord(t *testing.T, dir string, code int) {
	t.Helper()
	if got, want := recorded(t, dir, "main"), fmt.Sprintf("%d\n", code); got != want {
		t.Errorf("the recorded end of main is %q, want %q", got, want)
	}
	if names := listing(t, dir); names != "main-terminated" {
		t.Errorf("on the volume is %q, want main-terminated alone", names)
	}
}

// listing is the names of the files in a directory, separated by spaces.
func listing(t *testing.T, dir string) string {
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

// eventually waits for something that nobody tells of.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(drive.Patience); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, drive.Patience)
		}
	}
}

// ended runs a command line to its end.
func ended(t *testing.T, argv []string, changes ...func(*exec.Cmd)) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &err
	for _, change := range changes {
		change(cmd)
	}
	if startErr := cmd.Start(); startErr != nil {
		t.Fatal(startErr)
	}
	timer := time.AfterFunc(drive.Patience, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	_ = cmd.Wait()
	return cmd.ProcessState.ExitCode(), out.String(), err.String()
}

func env(vars ...string) func(*exec.Cmd) {
	return func(cmd *exec.Cmd) { cmd.Env = append(cmd.Environ(), vars...) }
}

// as makes a command another user's.
func as(uid uint32) func(*exec.Cmd) {
	return func(cmd *exec.Cmd) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
}

// somebody is a user who owns no file.
const somebody = 54321

// sharedDir is a directory that other users can reach, and write to.
func sharedDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := errors.Join(os.Chmod(filepath.Dir(dir), 0o755), os.Chmod(dir, 0o777)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func needRoot(t *testing.T, what string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: " + what)
	}
}

// prepared executes a command line with limits, umask, signal dispositions and
// environment that differ from the usual.
func prepared(argv []string) int {
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 123, Max: 1000}); err != nil {
		panic(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 0, Max: 4096}); err != nil {
		panic(err)
	}
	unix.Umask(0o027)
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT)
	panic(unix.Exec(argv[0], argv, append(os.Environ(),
		"EMPTY=", "A=b=c", "LINES=a\nb", "NOT_TEXT_\xff=\xff", "no equals sign", "=no name")))
}

// noFork executes a command line that cannot start processes (threads it can): what a
// limit on their number does, at a place of our choice.
func noFork(argv []string) int {
	const (
		number = 0  // the offset of seccomp_data.nr
		arg0   = 16 // and of the lower half of args[0], on the machines that we know
	)
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	jump := func(test uint16, k uint32, yes, no uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_K | test, K: k, Jt: yes, Jf: no}
	}
	answer := func(k uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k} }
	filter := []unix.SockFilter{
		load(number),
		jump(unix.BPF_JEQ, unix.SYS_CLONE3, 4, 0),
		jump(unix.BPF_JEQ, unix.SYS_CLONE, 0, 4),
		load(arg0),
		jump(unix.BPF_JSET, unix.CLONE_THREAD, 2, 0),
		answer(unix.SECCOMP_RET_ERRNO | uint32(unix.EAGAIN)),
		answer(unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)), // callers try clone then
		answer(unix.SECCOMP_RET_ALLOW),
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	runtime.LockOSThread() // whose the filter is
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		panic(err)
	}
	if _, _, errno := syscall.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program))); errno != 0 {
		panic(errno)
	}
	panic(unix.Exec(argv[0], argv, os.Environ()))
}

// mounted executes a command line where a directory is an empty file system with a flag of
// mount(2).
func mounted(args []string) int {
	flag, err := strconv.ParseUint(args[0], 10, 64)
	if err != nil {
		panic(err)
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		panic(err)
	}
	if err := unix.Mount("tmpfs", args[1], "tmpfs", uintptr(flag), ""); err != nil {
		panic(err)
	}
	panic(unix.Exec(args[2], args[2:], os.Environ()))
}

// endedOn runs a command line to its end where a directory is such a file system.
func endedOn(t *testing.T, dir string, flag int, argv []string) (code int, stdout, stderr string) {
	t.Helper()
	needRoot(t, "it mounts a file system")
	namespace := func(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS} }
	try := exec.Command("true")
	if namespace(try); try.Run() != nil {
		t.Skip("needs root with the right to make a mount namespace (CAP_SYS_ADMIN)")
	}
	return ended(t, drive.Command("mounted", append([]string{strconv.Itoa(flag), dir}, argv...)...), namespace)
}

// limited runs a command line as a user who has no other processes, and may have so many
// of them and threads. Root itself may have any number.
func limited(args []string) int {
	uid, uidErr := strconv.ParseUint(args[0], 10, 32)
	limit, err := strconv.ParseUint(args[1], 10, 64)
	if err := errors.Join(uidErr, err); err != nil {
		panic(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NPROC, &unix.Rlimit{Cur: limit, Max: limit}); err != nil {
		panic(err)
	}
	cmd := exec.Command(args[2], args[3:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	as(uint32(uid))(cmd)
	if err := cmd.Run(); cmd.ProcessState == nil {
		panic(err)
	}
	return cmd.ProcessState.ExitCode()
}
