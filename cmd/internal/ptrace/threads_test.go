//go:build linux && (amd64 || arm64)

package ptrace

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

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
	r := run(t, spec, Touching(dir), func(_ *Tracee, c Call) { tids[c.TID] = true })
	if r != (Result{Calls: m * (n + 1)}) {
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
			t.Errorf("kill %v: %+v, directories %q and %d starts; want %+v, %q and some",
				kill, r, calls, starts, want, wantCalls)
		}
	}
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
