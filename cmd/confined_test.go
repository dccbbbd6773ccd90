package cmd_test

import (
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

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// confined is a mode that executes a program under limits.
//
//	confined [LIMIT ...] -- PROGRAM [ARG...]
//
//	cgroup=PATH   the program is in this control group
//	nofile=N      it may have N open files (RLIMIT_NOFILE)
//	open=N        it inherits N open files
//	inotify=N     its user namespace may have N inotify instances
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
	panic("no program to execute")
}

// confine returns the command line that runs another one under limits: see confined.
func confine(argv []string, limits ...string) []string {
	return drive.Command("confined", append(append(limits, "--"), argv...)...)
}

// runUnder runs a command line under rules, with answer in the place of the kernel: see testenv.ListenTo. It returns
// the exit code.
func runUnder(answer func(notify int), argv []string, rules ...testenv.Rule) int {
	runtime.LockOSThread() // the rules hold for this thread, and so for its child
	notify, err := testenv.ListenTo(rules...)
	if err != nil {
		panic(err)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	go answer(notify)
	if err := cmd.Run(); cmd.ProcessState == nil {
		panic(err)
	}
	return cmd.ProcessState.ExitCode()
}

// cgroup is a control group of one controller, of cgroup v1 or v2.
type cgroup struct {
	t    testing.TB
	path string
	v2   bool
}

// newCgroup creates a control group for the time of a test.
func newCgroup(t testing.TB, controller string) cgroup {
	t.Helper()
	testenv.NeedRoot(t, "to make a control group")
	const root = "/sys/fs/cgroup"
	g := cgroup{t: t}
	parent := filepath.Join(root, controller)
	if _, err := os.Stat(filepath.Join(parent, "cgroup.procs")); err != nil {
		// v2: the test enables no controller, because that would change the machine.
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
		// It is busy until its last process is reaped, and the reaper may be another process.
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

// limit returns the limit that puts a program into the group: see confined.
func (g cgroup) limit() string { return "cgroup=" + g.path }

// set writes one of the group's files, of which v1 and v2 are the names.
func (g cgroup) set(v1, v2 string, value int) {
	g.t.Helper()
	if err := os.WriteFile(g.file(v1, v2), []byte(strconv.Itoa(value)), 0); err != nil {
		g.t.Fatal(err)
	}
}

// get reads one of the group's files, of which v1 and v2 are the names.
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
