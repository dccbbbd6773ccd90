package main_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// These tests drive the built sentinel as a user would. The wrapped command is mostly a shell: a Go program has
// threads, descriptors and signal handlers of its own, which would be mixed up with those that it gets from sentinel.

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

// shell returns the command line of a shell script.
func shell(script string, args ...string) []string {
	return append([]string{"sh", "-c", script, "sh"}, args...)
}

// untilUSR1 is a script that exits with 3 on SIGUSR1.
const untilUSR1 = `trap "exit 3" USR1; echo ready; while :; do sleep 0.02; done`

// recorded returns the content of a run's end, or "" if there is none.
func recorded(t *testing.T, dir, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name+"-terminated"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(data)
}

// wantRecord fails the test unless the code is recorded as the end of main, and the volume holds nothing else.
func wantRecord(t *testing.T, dir string, code int) {
	t.Helper()
	if got, want := recorded(t, dir, "main"), fmt.Sprintf("%d\n", code); got != want {
		t.Errorf("the recorded end of main is %q, want %q", got, want)
	}
	if names := testenv.Names(t, dir); names != "main-terminated" {
		t.Errorf("the volume holds %q, want only main-terminated", names)
	}
}

// ended runs a command line to its end, after changes have completed the command.
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

// env adds variables to a command's environment.
func env(vars ...string) func(*exec.Cmd) {
	return func(cmd *exec.Cmd) { cmd.Env = append(cmd.Environ(), vars...) }
}

// prepared is a mode that executes a command line with unusual limits, umask, signal dispositions and environment.
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

// noFork is a mode that executes a command line that can start threads, but no processes: as under a limit on their
// number, but at a place that the test knows.
func noFork(argv []string) int {
	err := testenv.Install(
		testenv.Refuse(unix.SYS_CLONE3, unix.ENOSYS), // callers try clone then
		testenv.Refuse(unix.SYS_CLONE, unix.EAGAIN, testenv.Lacks(0, unix.CLONE_THREAD)),
	)
	if err != nil {
		panic(err)
	}
	panic(unix.Exec(argv[0], argv, os.Environ()))
}

// mounted is a mode that mounts an empty file system with a flag of mount(2), and then executes a command line.
//
//	mounted FLAG DIR PROGRAM [ARG...]
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

// endedOn runs a command line to its end, with a file system mounted on a directory: see mounted.
func endedOn(t *testing.T, dir string, flag int, argv []string) (code int, stdout, stderr string) {
	t.Helper()
	testenv.NeedRoot(t, "to mount a file system")
	namespace := func(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS} }
	try := exec.Command("true")
	if namespace(try); try.Run() != nil {
		t.Skip("needs root with the right to make a mount namespace (CAP_SYS_ADMIN)")
	}
	return ended(t, drive.Command("mounted", append([]string{strconv.Itoa(flag), dir}, argv...)...), namespace)
}

// limited is a mode that runs a command line as another user, with a limit on the number of processes and threads: root
// may have any number.
//
//	limited UID LIMIT PROGRAM [ARG...]
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
	testenv.As(uint32(uid))(cmd)
	if err := cmd.Run(); cmd.ProcessState == nil {
		panic(err)
	}
	return cmd.ProcessState.ExitCode()
}
