// Package gvisor runs the programs in pods of the real gVisor. There, containers do not see each other's
// locks, and inotify reports no changes of a volume; the programs have only the heartbeat and a look once a
// second. Run it as root with make gvisor. It needs no Kubernetes and takes about 70 s, of which it mostly
// waits.
package gvisor

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// With one of these as its first argument, the test binary is the command of a container.
const (
	pauseMode = "gvisor:pause" // waits for SIGTERM
	serveMode = "gvisor:serve" // prints "ready"; for each argument SIGNAL=CODE, exits with CODE on SIGNAL
)

// insideVar is set in the environment of the test binary that runs in the new namespaces.
const insideVar = "GVISOR_TEST_INSIDE"

var (
	state string // the directory of the built programs and of everything that lives as long as the tests
	runsc string // the path of gVisor's runtime
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == pauseMode {
		end := make(chan os.Signal, 1)
		signal.Notify(end, syscall.SIGTERM)
		<-end
		return
	}
	if len(os.Args) > 1 && os.Args[1] == serveMode {
		os.Exit(serve(os.Args[2:]))
	}
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "gvisor:", err)
		code = 1
	}
	os.Exit(code)
}

func serve(args []string) int {
	known := map[string]os.Signal{"TERM": syscall.SIGTERM, "USR1": syscall.SIGUSR1}
	caught := make(chan os.Signal, 16)
	codes := make(map[os.Signal]int)
	for _, arg := range args {
		name, value, _ := strings.Cut(arg, "=")
		code, err := strconv.Atoi(value)
		if err != nil || known[name] == nil {
			panic("not SIGNAL=CODE: " + arg)
		}
		codes[known[name]] = code
		signal.Notify(caught, known[name])
	}
	fmt.Println("ready")
	return codes[<-caught]
}

// run runs the tests in new PID and mount namespaces. However the tests end, the kernel then removes all their
// processes and mounts.
func run(m *testing.M) (code int, err error) {
	flag.Parse()
	if os.Geteuid() != 0 {
		return m.Run(), nil // every test is skipped
	}
	_, here, _, _ := runtime.Caller(0)
	state = filepath.Join(filepath.Dir(here), "..", ".state", "gvisor")
	runsc = filepath.Join(state, "runsc")
	if os.Getenv(insideVar) != "" {
		return inside(m)
	}
	if err := build(filepath.Dir(here)); err != nil {
		return 1, err
	}

	runtime.LockOSThread() // Pdeathsig is sent when this thread ends
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideVar+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:   syscall.CLONE_NEWPID,
		Unshareflags: syscall.CLONE_NEWNS,
		Pdeathsig:    syscall.SIGKILL,
	}
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 1, fmt.Errorf("running the tests in new PID and mount namespaces: %w", err)
	}
	return 0, nil
}

// inside is run in the new namespaces.
func inside(m *testing.M) (code int, err error) {
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return 1, os.NewSyscallError("mount of /proc", err)
	}
	directory := filepath.Join(state, "run")
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return 1, err
	}
	if err := syscall.Mount("tmpfs", directory, "tmpfs", 0, "mode=755"); err != nil {
		return 1, os.NewSyscallError("mount of a tmpfs on "+directory, err)
	}
	if err := os.Setenv("TMPDIR", directory); err != nil {
		return 1, err
	}
	if err := makeRoot(filepath.Join(directory, "root")); err != nil {
		return 1, err
	}
	// All tests at once: they mostly wait.
	if err := flag.Set("test.parallel", "20"); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// build builds runsc and the programs into the state directory.
func build(here string) error {
	for directory, argv := range map[string][]string{
		filepath.Join(here, "runsc"): {
			"go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", state + "/", "tool",
		},
		filepath.Join(here, "..", ".."): {"cmd/build", state},
	} {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Dir = directory
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // static
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s in %s: %w\n%s", argv[0], directory, err, out)
		}
	}
	return nil
}

// makeRoot makes the root file system of all containers: the programs, this test binary as /stand-in, and mount
// points.
func makeRoot(root string) error {
	for _, directory := range []string{"proc", "tmp/pod"} {
		if err := os.MkdirAll(filepath.Join(root, directory), 0o755); err != nil {
			return err
		}
	}
	for name, from := range map[string]string{
		"sentinel": filepath.Join(state, "sentinel"),
		"shim":     filepath.Join(state, "shim"),
		"stand-in": "/proc/self/exe",
	} {
		if err := install(filepath.Join(root, name), from); err != nil {
			return err
		}
	}
	return nil
}

func install(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
