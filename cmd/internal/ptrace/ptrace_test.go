//go:build linux && (amd64 || arm64)

package ptrace

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/internal/testenv"
)

func TestMain(m *testing.M) {
	modes := make(testenv.Modes)
	for name, program := range map[string]func(args []string){
		"record":  record,
		"step":    step,
		"handle":  handle,
		"exit":    exit,
		"threads": threads,
		"parent":  parent,
		"child":   child,
		"fork":    fork,
		"leave":   leave,
		"tracer":  tracer,
		"refused": refused,
		"nobody":  nobody,
	} {
		modes[name] = func(args []string) int {
			program(args)
			return 0
		}
	}
	testenv.RunMode(modes)
	os.Exit(m.Run())
}

// must ends a program with what failed.
func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(99)
	}
}

// self is this test binary as one of its programs.
func self(name string, args ...string) Spec {
	return Spec{Args: testenv.CommandOfOthers(name, args...), Stderr: os.Stderr}
}

// untraced returns self as a command that is not traced.
func untraced(name string, args ...string) *exec.Cmd {
	argv := testenv.CommandOfOthers(name, args...)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stderr = os.Stderr
	return cmd
}

// within is a context for what ends by itself; its end is a hang.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// run runs a program that is to end by itself, and fails the test if it cannot.
func run(t *testing.T, spec Spec, sel func(Call) bool, at func(*Tracee, Call)) Result {
	t.Helper()
	r, err := Run(within(t), spec, sel, at)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// tried is the error of the simplest run.
var tried = sync.OnceValue(func() error {
	_, err := Run(context.Background(), self("exit", "code", "0"), nil, nil)
	return err
})

// parallel begins a test, which needs ptrace and runs beside others.
func parallel(t *testing.T) {
	t.Helper()
	if err := tried(); errors.Is(err, ErrRefused) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	t.Parallel()
}

// record makes a file in the way of a run's Begin and End.
func record(args []string) {
	dir := args[0]
	must(os.Chdir(dir))
	private, running, terminated := filepath.Join(dir, ".main-0"), dir+"/./main-running", dir+"/main-terminated"
	fd, err := unix.Open(private, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	must(err)
	must(unix.Fchmod(fd, 0o644))
	_, err = unix.Write(fd, []byte("running\n"))
	must(err)
	must(unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}))
	must(unix.Renameat2(unix.AT_FDCWD, private, unix.AT_FDCWD, running, unix.RENAME_NOREPLACE))
	_, err = unix.Pwrite(fd, []byte("3\n"), 0)
	must(err)
	must(unix.Ftruncate(fd, 2))
	directory, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(err)
	must(unix.Linkat(directory, "main-running", directory, "main-terminated", 0))
	must(unix.Unlinkat(unix.AT_FDCWD, "main-running", 0))
	_, err = os.Lstat(terminated)
	must(err)
	must(os.Remove(terminated))
	must(unix.Fsync(fd))
	must(unix.Close(fd))
	_, err = os.Stat("/proc/self") // elsewhere
	must(err)
	if _, err := os.Lstat(terminated); !errors.Is(err, fs.ErrNotExist) {
		must(fmt.Errorf("%s: %w", terminated, err))
	}
}

func TestCalls(t *testing.T) {
	parallel(t)
	target := t.TempDir()
	link := filepath.Join(t.TempDir(), "volume")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	spec := self("record", link)
	spec.Returns = true
	var got []string
	result := run(t, spec, Touching(link), func(_ *Tracee, c Call) {
		got = append(got, strings.NewReplacer(link, "LINK", target, "REAL").Replace(c.String()))
	})
	var want []string
	for i, call := range [][2]string{
		{"chdir(LINK)", "0"},
		{"openat(LINK/.main-0)", "fd"},
		{"fchmod(REAL/.main-0)", "0"},
		{"write(REAL/.main-0)", "8"},
		{"fcntl(REAL/.main-0)", "0"},
		{"renameat2(LINK/.main-0, LINK/main-running)", "0"},
		{"pwrite64(REAL/main-running)", "2"},
		{"ftruncate(REAL/main-running)", "0"},
		{"openat(LINK)", "fd"},
		{"linkat(REAL/main-running, REAL/main-terminated)", "0"},
		{"unlinkat(REAL/main-running)", "0"},
		{"newfstatat(LINK/main-terminated)", "0"},
		{"unlinkat(LINK/main-terminated)", "0"},
		{"fsync(REAL/main-terminated (deleted))", "0"},
		{"close(REAL/main-terminated (deleted))", "0"},
		{"newfstatat(LINK/main-terminated)", "no such file or directory"},
	} {
		entry := fmt.Sprintf("#%d %s", i+1, call[0])
		want = append(want, entry, entry+" = "+call[1])
	}
	// The number of a descriptor, and by which name the kernel knows a file
	// that had two, are nobody's business.
	for i, s := range got {
		if strings.Contains(s, "openat") && i%2 == 1 {
			got[i] = s[:strings.LastIndex(s, " ")] + " fd"
		}
		got[i] = strings.Replace(got[i], "REAL/main-running (deleted)", "REAL/main-terminated (deleted)", 1)
	}
	if !slices.Equal(got, want) {
		t.Errorf("the calls were\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
	if want := (Result{Calls: len(want) / 2}); result != want {
		t.Errorf("result %+v, want %+v", result, want)
	}
}

// step makes the directories 1 to n, one after the other.
func step(args []string) {
	n, err := strconv.Atoi(args[1])
	must(err)
	for i := 1; i <= n; i++ {
		must(os.Mkdir(filepath.Join(args[0], strconv.Itoa(i)), 0o700))
	}
}

// count returns how many entries a directory has.
func count(t *testing.T, dir string) int {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Error(err)
	}
	return len(entries)
}

// A program killed at call i has made the calls before it, and no other.
func TestKillAtEachCall(t *testing.T) {
	parallel(t)
	const n = 10
	dir := t.TempDir()
	if r := run(t, self("step", dir, strconv.Itoa(n)), Touching(dir), nil); r != (Result{Calls: n}) || count(t, dir) != n {
		t.Fatalf("undisturbed: %+v and %d directories, want %d of both", r, count(t, dir), n)
	}
	for i := 1; i <= n; i++ {
		dir := t.TempDir()
		r := run(t, self("step", dir, strconv.Itoa(n)), Touching(dir), func(p *Tracee, c Call) {
			if got := count(t, dir); got != c.N-1 {
				t.Errorf("at call %s: %d directories", c, got)
			}
			if c.N == i {
				if err := p.Kill(); err != nil {
					t.Error(err)
				}
			}
		})
		if want := (Result{Calls: i, ExitCode: -1, Signal: syscall.SIGKILL}); r != want || count(t, dir) != i-1 {
			t.Errorf("killed at call %d: %+v and %d directories, want %+v and %d", i, r, count(t, dir), want, i-1)
		}
	}
}

// handle handles signals, makes directories, and ends by the first signal it gets:
// exits with its number plus 100.
func handle(args []string) {
	c := make(chan os.Signal, 100)
	signal.Notify(c, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGCONT)
	step(args)
	sig := (<-c).(syscall.Signal)
	must(os.Mkdir(filepath.Join(args[0], "end"), 0o700))
	if len(c) > 0 {
		must(fmt.Errorf("another signal: %v", <-c))
	}
	os.Exit(100 + int(sig))
}

// A signal sent at call i arrives once, with its number; the calls go on.
func TestSignalAtEachCall(t *testing.T) {
	parallel(t)
	const n = 5
	for i := 1; i <= n; i++ {
		for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGUSR1} {
			dir := t.TempDir()
			r := run(t, self("handle", dir, strconv.Itoa(n)), Touching(dir), func(p *Tracee, c Call) {
				if c.N == i {
					if err := p.Signal(sig); err != nil {
						t.Error(err)
					}
				}
			})
			if want := (Result{Calls: n + 1, ExitCode: 100 + int(sig)}); r != want {
				t.Errorf("%v at call %d: %+v, want %+v", sig, i, r, want)
			}
		}
	}
	// Nobody handles it.
	dir := t.TempDir()
	r := run(t, self("step", dir, "1000"), Touching(dir), func(p *Tracee, c Call) {
		if c.N == 3 {
			p.Signal(syscall.SIGTERM)
		}
	})
	if r.Signal != syscall.SIGTERM || r.ExitCode != -1 || r.Calls == 1000 {
		t.Errorf("SIGTERM that is not handled: %+v", r)
	}
}

// A stopped program stays so until it is continued, as if nobody traced it.
func TestStopAndContinue(t *testing.T) {
	parallel(t)
	const n = 1000
	for _, sig := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGTSTP} {
		dir := t.TempDir()
		var seen atomic.Int64
		stopped := make(chan int64, 1)
		r := run(t, self("step", dir, strconv.Itoa(n)), Touching(dir), func(p *Tracee, c Call) {
			seen.Add(1)
			if c.N != 10 {
				return
			}
			if err := p.Signal(sig); err != nil {
				t.Error(err)
			}
			go func() {
				// Time enough for a program that goes on to make all its calls.
				time.Sleep(300 * time.Millisecond)
				stopped <- seen.Load()
				p.Signal(syscall.SIGCONT)
			}()
		})
		if at := <-stopped; at == n {
			t.Errorf("%v at call 10: the program went on to its end", sig)
		}
		if want := (Result{Calls: n}); r != want {
			t.Errorf("%v, then SIGCONT: %+v, want %+v", sig, r, want)
		}
	}
}

// exit ends with a code, or by a signal.
func exit(args []string) {
	n, err := strconv.Atoi(args[1])
	must(err)
	if args[0] == "code" {
		os.Exit(n)
	}
	must(unix.Kill(os.Getpid(), syscall.Signal(n)))
	unix.Pause()
}

func TestResult(t *testing.T) {
	parallel(t)
	for _, code := range []int{0, 1, 124, 255} {
		if r := run(t, self("exit", "code", strconv.Itoa(code)), Touching("/none"), nil); r != (Result{ExitCode: code}) {
			t.Errorf("exit with %d: %+v", code, r)
		}
	}
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGINT} {
		r := run(t, self("exit", "signal", strconv.Itoa(int(sig))), Touching("/none"), nil)
		if r != (Result{ExitCode: -1, Signal: sig}) {
			t.Errorf("ended by %v: %+v", sig, r)
		}
	}
}

// threads makes directories from as many threads as args[2] says, n each.
func threads(args []string) {
	n, err := strconv.Atoi(args[2])
	must(err)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			runtime.LockOSThread()
			dir := filepath.Join(args[0], strconv.Itoa(i))
			must(os.Mkdir(dir, 0o700))
			step([]string{dir, args[1]})
		})
	}
	all.Wait()
}

// The calls of every thread are seen, and killing ends them all.
func TestThreads(t *testing.T) {
	parallel(t)
	const m, n = 6, 50
	dir := t.TempDir()
	tids := map[int]bool{}
	spec := self("threads", dir, strconv.Itoa(n), strconv.Itoa(m))
	if r := run(t, spec, Touching(dir), func(_ *Tracee, c Call) { tids[c.TID] = true }); r != (Result{Calls: m * (n + 1)}) {
		t.Errorf("undisturbed: %+v, want %d calls", r, m*(n+1))
	}
	if len(tids) < m {
		t.Errorf("calls of %d threads, want %d", len(tids), m)
	}
	for _, i := range []int{1, m, m * n / 2, m * n} {
		dir := t.TempDir()
		spec := self("threads", dir, strconv.Itoa(n), strconv.Itoa(m))
		r := run(t, spec, Touching(dir), func(p *Tracee, c Call) {
			if c.N == i {
				p.Kill()
			}
		})
		if want := (Result{Calls: i, ExitCode: -1, Signal: syscall.SIGKILL}); r != want {
			t.Errorf("killed at call %d: %+v", i, r)
		}
	}
}

// parent runs child as its command, which dies with it, and makes directories as
// that goes on: one with the command's first line as its name, then "ended".
func parent(args []string) {
	runtime.LockOSThread()
	r, w, err := os.Pipe()
	must(err)
	cmd := untraced("child", args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, w, os.Stdout
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	must(cmd.Start())
	must(w.Close())
	line, err := bufio.NewReader(r).ReadString('\n')
	must(err)
	must(os.Mkdir(filepath.Join(args[0], strings.TrimSpace(line)), 0o700))
	must(cmd.Wait())
	must(os.Mkdir(filepath.Join(args[0], "ended"), 0o700))
}

// child uses the directory, says who traces it, and waits for the end of its input.
func child(args []string) {
	must(os.Mkdir(filepath.Join(args[0], "child"), 0o700))
	status, err := os.ReadFile("/proc/self/status")
	must(err)
	_, tracer, _ := strings.Cut(string(status), "TracerPid:\t")
	tracer, _, _ = strings.Cut(tracer, "\n")
	fmt.Printf("traced-by-%s\n", tracer)
	_, err = io.Copy(io.Discard, os.Stdin)
	must(err)
}

// The command of a program is not traced, and dies with it as it would otherwise.
func TestCommandRunsFree(t *testing.T) {
	parallel(t)
	for _, kill := range []bool{false, true} {
		dir := t.TempDir()
		in, inW := pipe(t)
		outR, out := pipe(t)
		spec := self("parent", dir)
		spec.Stdin, spec.Stdout = in, out
		var calls []string
		starts, touching := 0, Touching(dir)
		r := run(t, spec, func(c Call) bool { return touching(c) || Starting(c) }, func(p *Tracee, c Call) {
			switch {
			case Starting(c):
				starts++
				return
			case kill:
				p.Kill()
			default:
				inW.Close() // lets the command end
			}
			calls = append(calls, strings.Replace(c.Path, dir, "", 1))
		})
		// The command has this end of the pipe until it dies.
		out.Close()
		if said, err := io.ReadAll(outR); len(said) > 0 || err != nil {
			t.Errorf("kill %v: it said %q, %v", kill, said, err)
		}
		want, wantCalls := Result{}, []string{"/traced-by-0", "/ended"}
		if kill {
			want, wantCalls = Result{ExitCode: -1, Signal: syscall.SIGKILL}, wantCalls[:1]
		}
		want.Calls = starts + len(wantCalls)
		if r != want || !slices.Equal(calls, wantCalls) || starts == 0 {
			t.Errorf("kill %v: %+v, directories %q and %d starts; want %+v, %q and some", kill, r, calls, starts, want, wantCalls)
		}
	}
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// fork starts a process whose end no SIGCHLD tells, which ptrace therefore
// takes for a thread; it makes a directory and exits with 42.
func fork(args []string) {
	path, err := unix.BytePtrFromString(filepath.Join(args[0], "child"))
	must(err)
	pid, errno := forkRaw(path)
	if errno != 0 {
		must(errno)
	}
	var status unix.WaitStatus
	_, err = unix.Wait4(pid, &status, unix.WALL, nil)
	must(err)
	must(os.Mkdir(filepath.Join(args[0], "parent"), 0o700))
	os.Exit(status.ExitStatus())
}

// forkRaw does nothing in the child that Go's runtime would notice.
//
//go:norace
//go:nosplit
func forkRaw(path *byte) (int, unix.Errno) {
	dir := unix.AT_FDCWD
	pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, 0, 0, 0, 0, 0, 0)
	if pid == 0 && errno == 0 {
		syscall.RawSyscall(unix.SYS_MKDIRAT, uintptr(dir), uintptr(unsafe.Pointer(path)), 0o700)
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 42, 0, 0)
	}
	return int(pid), errno
}

func TestForkIsNoThread(t *testing.T) {
	parallel(t)
	dir := t.TempDir()
	r := run(t, self("fork", dir), Touching(dir), nil)
	if want := (Result{Calls: 1, ExitCode: 42}); r != want || count(t, dir) != 2 {
		t.Errorf("%+v and %d directories, want %+v and 2", r, count(t, dir), want)
	}
}

// Children of the same thread are left to those who started them.
func TestOtherChildren(t *testing.T) {
	parallel(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var others []*exec.Cmd
	for i := range 3 {
		cmd := untraced("exit", "code", strconv.Itoa(10+i))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		others = append(others, cmd)
		// Wait for its end without taking it.
		if err := unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	run(t, self("step", dir, "10"), Touching(dir), nil)
	for i, cmd := range others {
		if cmd.Wait(); cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != 10+i {
			t.Errorf("the child that exits with %d: %v", 10+i, cmd.ProcessState)
		}
	}
}

// Runs side by side, on the same and other threads, do not disturb each other.
func TestConcurrentRuns(t *testing.T) {
	parallel(t)
	var all sync.WaitGroup
	for i := range 4 {
		dir := t.TempDir()
		all.Go(func() {
			for range 5 {
				n := 5 + i
				r, err := Run(within(t), self("handle", t.TempDir(), strconv.Itoa(n)), nil, func(p *Tracee, c Call) {
					if c.Name == "mkdirat" && strings.HasSuffix(c.Path, "/"+strconv.Itoa(n)) {
						p.Signal(syscall.SIGUSR1)
					}
				})
				if err != nil || r.ExitCode != 100+int(syscall.SIGUSR1) {
					t.Errorf("%s: %+v, %v", dir, r, err)
				}
			}
		})
	}
	all.Wait()
}

// dead fails the test if the program of a finished Run is still there, in
// whatever state.
func dead(t *testing.T, pid int) {
	t.Helper()
	if pid == 0 {
		t.Error("the program did not run")
	} else if err := unix.Kill(pid, 0); err != unix.ESRCH {
		t.Errorf("the program is still there: kill(%d, 0) = %v", pid, err)
	}
}

func TestContextEnds(t *testing.T) {
	parallel(t)
	ctx, cancel := context.WithCancelCause(within(t))
	enough := errors.New("enough")
	pid, dir := 0, t.TempDir()
	r, err := Run(ctx, self("handle", dir, "3"), Touching(dir), func(p *Tracee, c Call) {
		if pid = p.PID; c.N == 3 {
			cancel(enough) // afterwards it waits for a signal, for ever
		}
	})
	if !errors.Is(err, enough) || !strings.Contains(err.Error(), "#3 mkdirat("+dir+"/3)") {
		t.Errorf("Run = %+v, %v; want an error that is the context's cause and names call #3", r, err)
	}
	dead(t, pid)

	dir = t.TempDir()
	if r, err := Run(ctx, self("step", dir, "3"), nil, nil); !errors.Is(err, enough) || count(t, dir) != 0 {
		t.Errorf("Run with a context that has ended: %+v, %v, and %d directories; want its cause and none", r, err, count(t, dir))
	}
}

// t.Fatal in a callback leaves nothing behind.
func TestGoexit(t *testing.T) {
	parallel(t)
	pid, dir := 0, t.TempDir()
	done := make(chan struct{})
	go func() {
		defer close(done)
		Run(within(t), self("step", dir, "3"), Touching(dir), func(p *Tracee, _ Call) {
			pid = p.PID
			runtime.Goexit()
		})
	}()
	<-done
	dead(t, pid)
	if n := count(t, dir); n != 0 {
		t.Errorf("%d directories, want 0: the program went on", n)
	}
}

// tracer holds a program at its first call until its own input ends.
func tracer(args []string) {
	dir := args[0]
	spec := self("step", dir, "3")
	spec.Stdout = os.Stdout
	_, err := Run(context.Background(), spec, Touching(dir), func(*Tracee, Call) {
		fmt.Println("held")
		io.Copy(io.Discard, os.Stdin)
	})
	must(err)
}

// A test binary that is killed takes the program with it.
func TestTracerDies(t *testing.T) {
	parallel(t)
	dir := t.TempDir()
	in, _ := pipe(t)
	outR, out := pipe(t)
	cmd := untraced("tracer", dir)
	cmd.Stdin, cmd.Stdout = in, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out.Close()
	said := bufio.NewReader(outR)
	line, err := said.ReadString('\n')
	cmd.Process.Kill()
	cmd.Wait()
	if line != "held\n" {
		t.Fatalf("the tracer said %q, %v", line, err)
	}
	// The program has this end of the pipe until it dies.
	if rest, err := io.ReadAll(said); len(rest) > 0 || err != nil || count(t, dir) != 0 {
		t.Errorf("the program said %q, %v, and made %d directories; want none", rest, err, count(t, dir))
	}
}

func TestNotStarted(t *testing.T) {
	parallel(t)
	plain := filepath.Join(t.TempDir(), "plain")
	testenv.Plant(t, plain, "")
	for path, want := range map[string]error{"/none": fs.ErrNotExist, plain: fs.ErrPermission} {
		_, err := Run(within(t), Spec{Args: []string{path}}, nil, nil)
		if !errors.Is(err, want) || errors.Is(err, ErrRefused) && want == fs.ErrNotExist {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
}

// leave goes to the process group of its parent.
func leave([]string) {
	must(unix.Setpgid(0, 0)) // where it is already
	group, err := unix.Getpgid(os.Getppid())
	must(err)
	must(unix.Setpgid(0, group))
}

func TestGroupLeft(t *testing.T) {
	parallel(t)
	pid := 0
	_, err := Run(within(t), self("leave"), func(c Call) bool { return c.Name == "setpgid" }, func(p *Tracee, _ Call) { pid = p.PID })
	if err == nil || !strings.Contains(err.Error(), "leaves its process group") || !strings.Contains(err.Error(), "#1 setpgid()") {
		t.Errorf("Run = %v, want an error that says so and names the call before", err)
	}
	dead(t, pid)
}

// refused traces under a filter that forbids it, and prints what comes of it.
func refused(args []string) {
	request, err := strconv.Atoi(args[0])
	must(err)
	must(testenv.Install(testenv.Refuse(unix.SYS_PTRACE, unix.EPERM, testenv.Equal(0, uint32(request)))))
	_, err = Run(context.Background(), self("exit", "code", "0"), nil, nil)
	fmt.Printf("%v\n%v\n", errors.Is(err, ErrRefused), err)
	if pid, err := unix.Wait4(-1, nil, unix.WALL|unix.WNOHANG, nil); err != unix.ECHILD {
		fmt.Printf("a child is left behind: %d, %v\n", pid, err)
	}
}

// A sandbox that forbids any of the steps is told apart from other errors.
func TestRefused(t *testing.T) {
	parallel(t)
	for request, says := range map[int]string{
		unix.PTRACE_TRACEME:          "PTRACE_TRACEME",
		unix.PTRACE_SEIZE:            "PTRACE_SEIZE",
		unix.PTRACE_GET_SYSCALL_INFO: "PTRACE_GET_SYSCALL_INFO",
	} {
		out, err := untraced("refused", strconv.Itoa(request)).Output()
		lines := strings.Split(string(out), "\n")
		if err != nil || len(lines) != 3 || lines[0] != "true" || !strings.Contains(lines[1], says) {
			t.Errorf("%s refused: the program said %q, %v; want an error that is ErrRefused and says so", says, out, err)
		}
	}
}

// nobody traces, and says as who.
func nobody(args []string) {
	dir := args[0]
	r, err := Run(context.Background(), self("record", dir), Touching(dir), nil)
	must(err)
	fmt.Printf("uid %d: %+v\n", os.Getuid(), r)
}

// No privilege is needed.
func TestUnprivileged(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("not root: all the other tests show it")
	}
	parallel(t)
	const uid = 65534
	dir := testenv.Volume(t)
	cmd := untraced("nobody", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.Output()
	if want := "uid 65534: {Calls:16 ExitCode:0 Signal:signal 0}\n"; err != nil || string(out) != want {
		t.Errorf("as nobody: %q, %v; want %q", out, err, want)
	}
}

// What a run costs beside the program's own time.
func BenchmarkRun(b *testing.B) {
	dir := b.TempDir()
	for b.Loop() {
		if _, err := Run(b.Context(), self("exit", "code", "0"), Touching(dir), nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUntraced(b *testing.B) {
	for b.Loop() {
		if err := untraced("exit", "code", "0").Run(); err != nil {
			b.Fatal(err)
		}
	}
}
