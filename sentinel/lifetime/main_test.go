package lifetime

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// testTimeout is how long a test waits for anything before it fails.
const testTimeout = 20 * time.Second

// The test binary is also a helper: a process that reads commands from its stdin, one per line, executes
// them on a volume, and answers each with a line. Tests kill, stop and confine only such processes.

func TestMain(m *testing.M) {
	testenv.RunMode(testenv.Modes{"helper": runHelper})
	// The tests mostly wait, and not for a processor. The command line is read later, so it can still
	// change this.
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// refusals are the system calls that a helper's kernel can be made to refuse.
var refusals = map[string]testenv.Rule{
	"inotify-instances": testenv.Refuse(unix.SYS_INOTIFY_INIT1, unix.EMFILE),
	"inotify-watches":   testenv.Refuse(unix.SYS_INOTIFY_ADD_WATCH, unix.ENOSPC),
	"inotify-profile":   testenv.Refuse(unix.SYS_INOTIFY_INIT1, unix.EPERM),
	"inotify-sandbox":   testenv.Refuse(unix.SYS_INOTIFY_INIT1, unix.ENOSYS),
	"inotify-denied":    testenv.Refuse(unix.SYS_INOTIFY_ADD_WATCH, unix.EACCES),
	"inotify-broken":    testenv.Refuse(unix.SYS_INOTIFY_ADD_WATCH, unix.EIO),
	"noreplace":         testenv.Refuse(unix.SYS_RENAMEAT2, unix.EINVAL, testenv.Equal(4, unix.RENAME_NOREPLACE)),
	"renameat2":         testenv.Refuse(unix.SYS_RENAMEAT2, unix.EPERM),
	"renameat2-unknown": testenv.Refuse(unix.SYS_RENAMEAT2, unix.ENOSYS),
	"renameat2-none":    testenv.Refuse(unix.SYS_RENAMEAT2, unix.EOPNOTSUPP),
	"renameat2-broken":  testenv.Refuse(unix.SYS_RENAMEAT2, unix.EIO),
	"locks":             testenv.Refuse(unix.SYS_FCNTL, unix.ENOLCK, testenv.Equal(1, unix.F_OFD_SETLK)),
	"syncs":             testenv.Refuse(unix.SYS_FSYNC, unix.EIO),
	"lock-waits":        testenv.Refuse(unix.SYS_FCNTL, unix.ENOLCK, testenv.Equal(1, unix.F_OFD_SETLKW)),
}

// runHelper is the mode of a helper. refused are the keys of refusals that its kernel refuses.
func runHelper(refused []string) int {
	var rules []testenv.Rule
	for _, name := range refused {
		rules = append(rules, refusals[name])
	}
	if len(rules) > 0 {
		if err := testenv.Install(rules...); err != nil {
			fmt.Println("seccomp:", err)
			return 1
		}
	}
	fmt.Println("ready")
	var run *Run
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		words := strings.Fields(lines.Text())
		reply := "ok"
		if err := execute(words[0], words[1:], &run, lines); err != nil {
			reply = err.Error()
			var live *LiveError
			if errors.As(err, &live) {
				reply = "live: " + reply
			}
		}
		fmt.Println(strings.ReplaceAll(reply, "\n", "; "))
	}
	return 0
}

// durations generates the durations of a helper's runs.
var durations = rand.New(rand.NewPCG(1, 1))

// execute executes a command that a helper has received.
func execute(verb string, args []string, run **Run, lines *bufio.Scanner) (err error) {
	switch verb {
	case "begin": // DIR NAME
		*run, _, err = Begin(context.Background(), Dir(args[0]), args[1], nil)
	case "end": // CODE
		err = (*run).End(number(args[0]))
	case "stopping":
		err = (*run).AnnounceStopping()
	case "running":
		err = (*run).RetractStopping()
	case "record": // DIR NAME CODE
		err = Record(Dir(args[0]), args[1], number(args[2]))
	case "sync": // DIR NAME
		err = Sync(Dir(args[0]), args[1])
	case "umask": // MASK
		mask, _ := strconv.ParseInt(args[0], 8, 32)
		syscall.Umask(int(mask))
	case "runs": // DIR NAME N: N runs one after the other, with the codes 1, 2, ... 255, 1, ...
		for i := range number(args[2]) {
			if err := oneRun(args[0], args[1], codeOf(i)); err != nil {
				return fmt.Errorf("run %d: %w", i, err)
			}
		}
	case "run": // DIR NAME CODE: a run that lasts up to 0.2 ms
		if *run, _, err = Begin(context.Background(), Dir(args[0]), args[1], nil); err != nil {
			return err
		}
		for until := monotonic() + durations.Int64N(200_000); monotonic() < until; {
		}
		err = (*run).End(number(args[2]))
	case "contend": // DIR NAME AT SEED: begin up to 0.3 ms after AT ns of the monotonic clock, end within 2 ms
		return contend(args[0], args[1], int64(number(args[2])), uint64(number(args[3])))
	case "watch": // DIR NAME: print every change of the state, for ever
		watcher, err := Watch(Dir(args[0]), args[1:], time.Minute)
		if err != nil {
			fmt.Println("warning:", err)
		}
		var last string
		for {
			if now := describe(watcher.Look()[0]); now != last {
				fmt.Println(now)
				last = now
			}
			<-watcher.Hints()
		}
	case "mount": // DIR TYPE OPTIONS [SOURCE]
		var flags uintptr
		switch args[1] {
		case "bind-ro":
			if err := unix.Mount(args[3], args[0], "", unix.MS_BIND, ""); err != nil {
				return fmt.Errorf("mount --bind: %w", err)
			}
			flags = unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY
		case "remount-ro":
			flags = unix.MS_REMOUNT | unix.MS_RDONLY
		}
		source := args[1]
		if len(args) > 3 {
			source = args[3]
		}
		if err := unix.Mount(source, args[0], args[1], flags, strings.TrimSuffix(args[2], "-")); err != nil {
			return fmt.Errorf("mount: %w", err)
		}
	default:
		err = fmt.Errorf("unknown helper command %q", verb)
	}
	return err
}

func number(word string) int {
	n, err := strconv.Atoi(word)
	if err != nil {
		panic(err)
	}
	return n
}

// codeOf returns the exit code of run i of many: never 0, never that of the run before.
func codeOf(i int) int { return i%255 + 1 }

func oneRun(dir, name string, code int) error {
	run, _, err := Begin(context.Background(), Dir(dir), name, nil)
	if err != nil {
		return err
	}
	return run.End(code)
}

// monotonic returns the time in nanoseconds by a clock that all processes share.
func monotonic() int64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		panic(err)
	}
	return now.Nano()
}

// contend begins a run shortly after a given time, prints from when until when it was live, and ends it.
func contend(dir, name string, at int64, seed uint64) error {
	random := rand.New(rand.NewPCG(seed, 1))
	for monotonic() < at+random.Int64N(300_000) {
		runtime.Gosched()
	}
	run, _, err := Begin(context.Background(), Dir(dir), name, nil)
	if err != nil {
		return err
	}
	from := monotonic()
	time.Sleep(time.Duration(random.Int64N(2_000_000)))
	fmt.Printf("live %d %d\n", from, monotonic())
	return run.End(3)
}

// helper is a helper process.
type helper struct {
	t     testing.TB
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string // its answers; closed when it ends
}

// newHelper starts a helper. It is killed when the test ends. changes may change the command before its
// start.
func newHelper(t testing.TB, changes ...func(*exec.Cmd)) *helper {
	t.Helper()
	argv := testenv.CommandOfOthers("helper")
	h := &helper{t: t, cmd: exec.Command(argv[0], argv[1:]...), lines: make(chan string, 1024)}
	h.cmd.Dir = "/"
	h.cmd.Stderr = os.Stderr
	h.cmd.SysProcAttr = &syscall.SysProcAttr{}
	for _, change := range changes {
		change(h.cmd)
	}
	in, err := h.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	h.in = in
	if err := h.cmd.Start(); err != nil {
		t.Fatalf("cannot start a helper: %v", err)
	}
	go func() {
		defer close(h.lines)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			h.lines <- lines.Text()
		}
	}()
	t.Cleanup(h.kill)
	if line := h.receive(); line != "ready" {
		t.Skipf("cannot confine a helper here: %s", line)
	}
	return h
}

// refusing makes the kernel refuse some calls to a helper. names are keys of refusals.
func refusing(names ...string) func(*exec.Cmd) {
	return func(cmd *exec.Cmd) { cmd.Args = append(cmd.Args, names...) }
}

// send sends a command to the helper.
func (h *helper) send(words ...string) {
	h.t.Helper()
	if _, err := fmt.Fprintln(h.in, strings.Join(words, " ")); err != nil {
		h.t.Fatalf("cannot send %s to a helper: %v", words[0], err)
	}
}

// receive returns the next line that the helper prints.
func (h *helper) receive() string {
	h.t.Helper()
	select {
	case line, ok := <-h.lines:
		if !ok {
			h.t.Fatal("a helper has ended without an answer")
		}
		return line
	case <-time.After(testTimeout):
		h.t.Fatalf("a helper has printed nothing for %s", testTimeout)
	}
	return ""
}

// ask sends a command to the helper and returns the answer: "ok" or an error.
func (h *helper) ask(words ...string) string {
	h.t.Helper()
	h.send(words...)
	return h.receive()
}

// do sends a command to the helper. The command must succeed.
func (h *helper) do(words ...string) {
	h.t.Helper()
	if answer := h.ask(words...); answer != "ok" {
		h.t.Fatalf("%s: %s", strings.Join(words, " "), answer)
	}
}

// kill kills the helper with SIGKILL and reaps it.
func (h *helper) kill() {
	_ = h.cmd.Process.Kill()
	_ = h.cmd.Wait()
}

// inside returns the path for this process of what has the given path for the helper.
func (h *helper) inside(path string) string {
	return fmt.Sprintf("/proc/%d/root%s", h.cmd.Process.Pid, path)
}

// describe formats a state.
func describe(s State) string {
	switch s.Phase {
	case NotStarted:
		return "not started"
	case Unsettled:
		return "unsettled"
	case Running:
		return "running"
	case Unverified:
		return "unverified"
	}
	cause := map[Cause]string{
		Recorded: "ended", Empty: "empty", Unreadable: "unreadable", Lost: "lost", NoRoom: "no room",
	}[s.Cause]
	if s.FoundDead {
		cause += ", found dead"
	}
	return fmt.Sprintf("%s: %d", cause, s.Code)
}

// lookOnce returns the state that a new watcher sees, once it has settled.
func lookOnce(t testing.TB, dir, name string) string {
	t.Helper()
	o := NewObserver(Dir(dir), name, time.Minute)
	for deadline := time.Now().Add(testTimeout); time.Now().Before(deadline); {
		state, locked := o.Look(false, settleTick)
		if locked != nil {
			locked.Close()
		}
		if state.Phase != Unsettled {
			return describe(state)
		}
	}
	t.Fatalf("%s: the run %s has not settled within %s", dir, name, testTimeout)
	return ""
}

// wantState fails the test unless a new watcher sees the state want.
func wantState(t testing.TB, dir, name, want string) {
	t.Helper()
	if got := lookOnce(t, dir, name); got != want {
		t.Errorf("the state of %s is %q, not %q; the volume: %s", name, got, want, testenv.Listing(dir))
	}
}

func runningPath(dir, name string) string { return Dir(dir).Path(name + runningSuffix) }

// mustBegin begins a run that must succeed.
func mustBegin(t testing.TB, dir, name string) *Run {
	t.Helper()
	run, _, err := Begin(context.Background(), Dir(dir), name, nil)
	if err != nil {
		t.Fatalf("Begin: %v; the volume: %s", err, testenv.Listing(dir))
	}
	return run
}

// mustEnd ends a run, which must succeed.
func mustEnd(t testing.TB, run *Run, code int) {
	t.Helper()
	if err := run.End(code); err != nil {
		t.Fatalf("End: %v; the volume: %s", err, testenv.Listing(string(run.volume.(Dir))))
	}
}

// readLock takes a read lock on a file until the test ends. A neighbour that can only read the file can do
// the same.
func readLock(t testing.TB, path string) {
	t.Helper()
	f, err := open(path, unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.(*descriptor).lock(unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK}); err != nil {
		t.Fatalf("a read lock on %s: %v", path, err)
	}
}

// withMounts gives a helper a mount namespace of its own.
func withMounts(cmd *exec.Cmd) { testenv.Namespaces(cmd.SysProcAttr, syscall.CLONE_NEWNS) }
