package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
	"github.com/sentinel-shim/sentinel-shim/sentinel/process"
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
	"github.com/sentinel-shim/sentinel-shim/shim"
)

func TestMain(m *testing.M) {
	drive.Main(m, drive.Modes{
		"as-somebody":  drive.AsSomebody,
		"negligent":    drive.Negligent,
		"session":      drive.Session,
		"without-kill": drive.WithoutKill,
		"shim":         raceMode,
		"message":      messageMode,
		"exit":         exitMode,
		"server":       serverMode,
		"ask":          askMode,
		"reader":       readerMode,
		"refused":      refusedMode,
	})
}

// raceMode is shim itself, under the race detector if the tests use it.
func raceMode(args []string) int {
	return run(append([]string{program}, args...), process.CatchSignals())
}

// messageMode is a shim that writes its termination message to a certain file.
//
//	message DIR FILE SIDECAR [ARG...]
func messageMode(args []string) int {
	return shim.Run(shim.Config{
		Dir: args[0], Name: "proxy", Mains: []string{"main"}, Command: args[2:],
		StopSignal: syscall.SIGTERM, GracePeriod: time.Minute, LostAfter: time.Minute,
		Signals: process.CatchSignals(), TerminationLog: args[1], Log: zerolog.Nop(),
	})
}

// exitMode prints "launched" and exits with a code.
//
//	exit CODE
func exitMode(args []string) int {
	fmt.Println("launched")
	code, err := strconv.Atoi(args[0])
	if err != nil {
		panic(err)
	}
	return code
}

// serverMode is a sidecar or a main. It prints "ready" when it catches signals, and "got NAME at NANOSECONDS" for each
// signal. It exits only on the signals in its arguments.
//
//	TERM=3        exits with 3 on SIGTERM
//	TERM=3:500ms  the same, half a second later
//	socket=PATH   answers each connection at PATH with its process ID
//	child         has a child in its group that exits on no signal, and prints "child PID"
func serverMode(args []string) int {
	caught := make(chan os.Signal, 256)
	signal.Notify(caught)
	ends := make(map[syscall.Signal]string)
	for _, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		switch key {
		case "socket":
			go serve(value)
		case "child":
			startChild()
		default:
			sig, err := process.ParseSignal(key)
			if err != nil {
				panic(err)
			}
			ends[sig] = value
		}
	}
	fmt.Println("ready")
	for sig := range caught {
		if sig == syscall.SIGURG { // from Go's runtime
			continue
		}
		fmt.Printf("got %s at %d\n", process.SignalName(sig.(syscall.Signal)), now())
		if end, ok := ends[sig.(syscall.Signal)]; ok {
			code, delay, _ := strings.Cut(end, ":")
			if d, err := time.ParseDuration(delay); err == nil {
				time.Sleep(d)
			}
			n, err := strconv.Atoi(code)
			if err != nil {
				panic(err)
			}
			return n
		}
	}
	return 0
}

// now returns the time in nanoseconds by a clock that all processes share.
func now() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err)
	}
	return ts.Nano()
}

// serve answers each connection at a socket with the process ID.
func serve(path string) {
	_ = os.Remove(path)
	l, err := net.Listen("unix", path)
	if err != nil {
		panic(err)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			panic(err)
		}
		fmt.Fprintln(c, os.Getpid())
		c.Close()
	}
}

// askMode prints the ID of the process that answers at a socket.
//
//	ask PATH
func askMode(args []string) int {
	c, err := net.Dial("unix", args[0])
	if err != nil {
		fmt.Println(err)
		return 1
	}
	var pid int
	if _, err := fmt.Fscan(c, &pid); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("answered by", pid)
	return 0
}

// startChild starts the child of serverMode.
func startChild() {
	argv := drive.Command("server")
	cmd := exec.Command(argv[0], argv[1:]...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		panic(err)
	}
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil { // waits until it is ready
		panic(err)
	}
	fmt.Printf("child %d\n", cmd.Process.Pid)
}

// readerMode is the smallest program that reacts to a main's end: it only waits for main-terminated with inotify, and
// then sends SIGTERM to a process.
//
//	reader DIR PID
func readerMode(args []string) int {
	pid, err := strconv.Atoi(args[1])
	if err != nil {
		panic(err)
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		panic(err)
	}
	if _, err := unix.InotifyAddWatch(fd, args[0], unix.IN_MOVED_TO); err != nil {
		panic(err)
	}
	fmt.Println("watching")
	if _, err := unix.Read(fd, make([]byte, 4096)); err != nil {
		panic(err)
	}
	if err := unix.Kill(pid, unix.SIGTERM); err != nil {
		panic(err)
	}
	return 0
}

// refusals are the system calls that a kernel may refuse, by name.
var refusals = map[string][]testenv.Rule{
	"inotify": {testenv.Refuse(unix.SYS_INOTIFY_INIT1, unix.EMFILE)},
	"watches": {testenv.Refuse(unix.SYS_INOTIFY_ADD_WATCH, unix.ENOSPC)},
	// It succeeds, but no event ever comes: gVisor does so.
	"events":  {testenv.Refuse(unix.SYS_INOTIFY_ADD_WATCH, 0)},
	"locks":   {testenv.Refuse(unix.SYS_FCNTL, unix.EINVAL, locking)},
	"waitid":  {testenv.Refuse(unix.SYS_WAITID, unix.EPERM)},
	"wait4":   {testenv.Refuse(unix.SYS_WAIT4, unix.EPERM)},
	"prctl":   {testenv.Refuse(unix.SYS_PRCTL, unix.EPERM)},
	"renames": {testenv.Refuse(unix.SYS_RENAMEAT2, unix.EPERM)}, // by an old runtime's profile
	// As a kernel answers that has no such call.
	"prctl-unknown": {testenv.Refuse(unix.SYS_PRCTL, unix.ENOSYS)},
	// No file has a time of creation: some file systems record none.
	"statx":    {testenv.Refuse(unix.SYS_STATX, unix.ENOSYS)},
	"listings": {testenv.Refuse(unix.SYS_GETDENTS64, unix.EPERM)},
	// All locks are granted at once, and none ever blocks another: gVisor does so between containers.
	"sharing": {testenv.Refuse(unix.SYS_FCNTL, 0, locking), testenv.Refuse(unix.SYS_FLOCK, 0)},
}

// locking holds for an fcntl about OFD locks: F_OFD_GETLK, F_OFD_SETLK or F_OFD_SETLKW.
var locking = testenv.Between(1, unix.F_OFD_GETLK, unix.F_OFD_SETLKW)

// refusedMode executes a program for which the kernel refuses some calls: WHAT is a key of refusals.
//
//	refused WHAT[,WHAT] PROGRAM [ARG...]
func refusedMode(args []string) int {
	var rules []testenv.Rule
	for _, what := range strings.Split(args[0], ",") {
		rules = append(rules, refusals[what]...)
	}
	if err := testenv.Install(rules...); err != nil {
		panic(err)
	}
	panic(unix.Exec(args[1], args[1:], os.Environ()))
}

// pod is the volume of a pod.
type pod struct {
	t   *testing.T
	dir string
}

// newPod returns a pod with an empty volume.
func newPod(t *testing.T) pod { return pod{t, t.TempDir()} }

// flags returns the flags of a shim named proxy, and those in words.
func (p pod) flags(words string) []string {
	return append([]string{"--dir", p.dir, "--name", "proxy"}, strings.Fields(words)...)
}

// shim starts a shim named proxy.
func (p pod) shim(flags string, sidecar ...string) *drive.Process {
	p.t.Helper()
	return drive.Start(p.t, drive.Wrap("shim", p.flags(flags), sidecar))
}

// racedShim does the same, under the race detector if the tests use it.
func (p pod) racedShim(flags string, sidecar ...string) *drive.Process {
	p.t.Helper()
	args := append(append(p.flags(flags), "--"), sidecar...)
	return drive.Start(p.t, drive.Command("shim", args...))
}

// shimWithout starts a shim for which the kernel refuses some calls: see refusedMode.
func (p pod) shimWithout(what, flags string, sidecar ...string) *drive.Process {
	p.t.Helper()
	return p.without(what, drive.Wrap("shim", p.flags(flags), sidecar))
}

// without starts a command line for which the kernel refuses some calls: see refusedMode.
func (p pod) without(what string, argv []string) *drive.Process {
	p.t.Helper()
	return drive.Start(p.t, drive.Command("refused", append([]string{what}, argv...)...))
}

// sentinel starts a sentinel named main.
func (p pod) sentinel(flags string, command ...string) *drive.Process {
	p.t.Helper()
	return drive.Start(p.t, drive.Wrap("sentinel", append([]string{"--dir", p.dir}, strings.Fields(flags)...), command))
}

// begin begins a run in this process. It is live and holds its lock.
func (p pod) begin(name string) *lifetime.Run {
	p.t.Helper()
	run, _, err := lifetime.Begin(context.Background(), lifetime.Dir(p.dir), name, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	return run
}

// end ends a run.
func (p pod) end(run *lifetime.Run, code int) {
	p.t.Helper()
	if err := run.End(code); err != nil {
		p.t.Fatal(err)
	}
}

// path returns the path of a file on the volume.
func (p pod) path(name string) string { return filepath.Join(p.dir, name) }

// withServer returns a pod with a live main in this process, and with a shim around a sidecar in serverMode that is
// ready. args are the arguments of serverMode.
func withServer(t *testing.T, flags string, args ...string) (pod, *lifetime.Run, *drive.Process) {
	t.Helper()
	return withServerIn(t, pod.shim, flags, args)
}

// withRacedServer does the same with a racedShim.
func withRacedServer(t *testing.T, flags string, args ...string) (pod, *lifetime.Run, *drive.Process) {
	t.Helper()
	return withServerIn(t, pod.racedShim, flags, args)
}

func withServerIn(
	t *testing.T, shim func(p pod, flags string, sidecar ...string) *drive.Process, flags string, args []string,
) (pod, *lifetime.Run, *drive.Process) {
	t.Helper()
	p := newPod(t)
	run := p.begin("main")
	s := shim(p, flags, drive.Command("server", args...)...)
	s.Await("ready")
	return p, run, s
}

// record creates or replaces a file on the volume in one step, as any program may.
func (p pod) record(file, content string) {
	p.t.Helper()
	temporary := p.path(".foreign")
	testenv.Plant(p.t, temporary, content)
	if err := os.Rename(temporary, p.path(file)); err != nil {
		p.t.Fatal(err)
	}
}

// want fails the test unless a file on the volume has this content.
func (p pod) want(file, content string) {
	p.t.Helper()
	if got, err := os.ReadFile(p.path(file)); err != nil || string(got) != content {
		p.t.Fatalf("%s holds %q (%v), not %q", file, got, err, content)
	}
}

// wantFiles fails the test unless the volume holds these files and no other.
func (p pod) wantFiles(names ...string) {
	p.t.Helper()
	if files := testenv.Names(p.t, p.dir); files != strings.Join(names, " ") {
		p.t.Fatalf("the volume holds %q, not %q", files, names)
	}
}

// wantNot fails the test if a process has written a text.
func wantNot(t *testing.T, p *drive.Process, text string) {
	t.Helper()
	if strings.Contains(p.Output(), text) {
		t.Fatalf("%s has written %q:\n%s", p, text, p.Output())
	}
}

// wantNotLaunched fails the test unless a shim that has ended logs that it has not started exitMode, and has not.
func wantNotLaunched(t *testing.T, s *drive.Process) {
	t.Helper()
	s.Await("was not started") // the last line
	wantNot(t, s, "launched")
}

// number waits for prefix in the output, and returns the number after it.
func number(t *testing.T, p *drive.Process, prefix string) int64 {
	t.Helper()
	p.Await(prefix)
	_, rest, _ := strings.Cut(p.Output(), prefix)
	digits := strings.FieldsFunc(rest, func(r rune) bool { return r < '0' || r > '9' })[0]
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		t.Fatalf("no number after %q: %v\n%s", prefix, err, p.Output())
	}
	return n
}

// wantDead fails the test unless a process has ended. It may be a zombie.
func wantDead(t *testing.T, pid int) {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return
	}
	if _, state, _ := strings.Cut(string(stat), ") "); !strings.HasPrefix(state, "Z") {
		t.Fatalf("process %d is alive: %s", pid, stat)
	}
}

// median returns the median.
func median(times []time.Duration) time.Duration {
	times = slices.Sorted(slices.Values(times))
	return times[len(times)/2]
}
