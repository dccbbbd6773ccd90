//go:build linux && (amd64 || arm64)

// Package ptrace runs a program and stops it at the system calls of one's
// choice, for the tests of this repository: counting the calls N of one run and
// then killing, signalling or looking at call 1, 2, ... N of N more runs finds
// what random instants miss.
//
//	count, err := ptrace.Run(ctx, spec, ptrace.Touching(dir), nil)
//	for i := 1; i <= count.Calls; i++ {
//		ptrace.Run(ctx, spec, ptrace.Touching(dir), func(p *ptrace.Tracee, c ptrace.Call) {
//			if c.N == i {
//				p.Kill() // the program dies before call i is made
//			}
//		})
//	}
//
// All threads of the program are followed. A process that it starts is not:
// it runs free and untraced. Of the calls, those are seen which take a path or a
// descriptor of a file, and those which start, end, signal or wait for a
// process; none for memory, time, or the start of a thread.
//
// A thread is stopped on its own: while one is held at a call, the others go on
// as far as their next system call of any kind, and wait there. So the number
// and order of calls are those of the program as far as one goroutine makes
// them, and calls of goroutines that run side by side may change places from
// run to run. A call that a signal interrupts and the kernel restarts is seen
// again.
//
// No privilege is needed: Yama's ptrace_scope 1, the common default, allows a
// process to trace its own children. Linux 5.3 or later is
// (PTRACE_GET_SYSCALL_INFO). See ptrace(2) for what is done here.
package ptrace

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrRefused is in the error of [Run] where the kernel (before Linux 5.3, or
// with kernel.yama.ptrace_scope above 1) or the sandbox does not let a process
// trace its child. A test skips then, with the error as the reason.
var ErrRefused = errors.New("ptrace is refused here")

// Spec is the program to run. It runs in a process group of its own and must
// stay there; as the leader of a group it cannot begin a session.
type Spec struct {
	Args []string // Args[0] is the program's path; PATH is not searched
	Dir  string   // "": that of this process

	Stdin, Stdout, Stderr *os.File // nil: /dev/null

	// Returns makes a selected call stop a second time, when it is done.
	Returns bool
}

// Call is a system call of the program: about to be made, or done.
type Call struct {
	N    int    // the how manieth selected call of this run, from 1; 0 while it is being selected
	TID  int    // the thread that makes it
	Name string // as in section 2 of the manual, e.g. "renameat2"
	Args [6]uint64

	// Path is the file of the call, "" if it has none. One named by path is
	// made absolute and lexically clean; one named by a descriptor has the
	// path by which the kernel knows it now (as in proc_pid_fd(5): links
	// resolved, " (deleted)" appended where that is so; "pipe:[1234]").
	Path string
	// Path2 is the second file of calls with two: rename, link, copy_file_range.
	Path2 string

	// Done is set at the second stop of Spec.Returns; then Err is 0 or the
	// call's error (which may be one that no manual has: the kernel's own
	// ERESTARTSYS, 512, where a signal interrupted it), and Ret what it returned.
	Done bool
	Ret  int64
	Err  syscall.Errno
}

// String is the call for a message of a test: "#5 unlinkat(/v/main-terminated)".
func (c Call) String() string {
	s := fmt.Sprintf("#%d %s(%s", c.N, c.Name, c.Path)
	if c.Path2 != "" {
		s += ", " + c.Path2
	}
	s += ")"
	switch {
	case c.Done && c.Err != 0:
		s += " = " + c.Err.Error()
	case c.Done:
		s += " = " + strconv.FormatInt(c.Ret, 10)
	}
	return s
}

// Touching selects the calls that name dir or something below it by a path or a
// descriptor, also where dir is reached by a link.
func Touching(dir string) func(Call) bool {
	dirs := []string{filepath.Clean(dir)}
	if resolved, err := filepath.EvalSymlinks(dir); err == nil && resolved != dirs[0] {
		dirs = append(dirs, resolved) // as the kernel calls it
	}
	return func(c Call) bool {
		for _, d := range dirs {
			for _, p := range []string{c.Path, c.Path2} {
				if p == d || strings.HasPrefix(p, d+"/") {
					return true
				}
			}
		}
		return false
	}
}

// Starting selects the calls that start a process. os/exec makes one or two:
// the first use of it in a program tries out a feature with a process of its own.
func Starting(c Call) bool {
	switch c.Name {
	case "clone", "clone3", "fork", "vfork":
		return true
	}
	return false
}

// Result is how a run ended.
type Result struct {
	Calls    int            // selected calls that were seen, each counted once
	ExitCode int            // -1 if a signal ended the program
	Signal   syscall.Signal // that signal, else 0
}

// Tracee is the program under way. Its methods may be called from any goroutine
// and at any time.
type Tracee struct {
	PID     int
	process *os.Process
	killed  atomic.Bool
}

// Kill sends SIGKILL: the program ends with all its threads, at once. The call
// at which it is held is not made, and no further one is shown.
func (t *Tracee) Kill() error { return t.Signal(syscall.SIGKILL) }

// Signal sends a signal to the program's process. Where the program is held at a
// call, the signal is delivered only once it goes on: by another thread at any
// time, by the held one when the call is done or interrupted. It is an error
// after the program's end.
func (t *Tracee) Signal(sig syscall.Signal) error {
	if sig == syscall.SIGKILL {
		t.killed.Store(true)
	}
	return t.process.Signal(sig)
}

// Run runs the program to its end. It calls at before each call for which sel
// says true and, with spec.Returns, once more after it; the thread is held
// meanwhile. Both run on the caller's goroutine, one call after the other; a nil
// sel selects every call that can be seen, a nil at only counts.
//
// Signals from wherever reach the program unchanged, stop signals and SIGCONT
// included. The program is killed when ctx ends, which is an error that wraps
// the context's cause, and when at panics or ends the goroutine (t.Fatal). No
// other child of this process is waited for.
func Run(ctx context.Context, spec Spec, sel func(Call) bool, at func(*Tracee, Call)) (Result, error) {
	if ctx.Err() != nil {
		return Result{}, fmt.Errorf("%s was not started: %w", spec.Args[0], context.Cause(ctx))
	}
	// A tracer is a thread: only the one that started the program may trace it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	t, err := start(spec)
	if err != nil {
		return Result{}, err
	}
	defer t.process.Release()
	ended := false
	defer func() {
		if !ended {
			t.reap()
		}
	}()
	defer context.AfterFunc(ctx, func() { t.Kill() })()

	last := "none" // call, for the errors
	var result Result
	open := map[int]Call{} // by thread, with spec.Returns: under way
	show := func(c Call) {
		if last = c.String(); at != nil {
			at(t, c)
		}
	}
	resume(t.PID, 0)
	for {
		tid, status, err := t.wait()
		if err != nil {
			return result, err
		}
		if !status.Stopped() {
			if tid != t.PID { // one of its threads
				delete(open, tid)
				continue
			}
			ended = true
			result.ExitCode, result.Signal = status.ExitStatus(), 0
			if status.Signaled() {
				result.Signal = status.Signal()
			}
			if ctx.Err() != nil && result.Signal == syscall.SIGKILL {
				return result, fmt.Errorf("%s was killed because time was up (the last call was %s): %w",
					spec.Args[0], last, context.Cause(ctx))
			}
			return result, nil
		}
		switch sig, event := stop(status); {
		case event == unix.PTRACE_EVENT_STOP && !t.hasThread(tid):
			// A process, and yet a "clone" to the kernel, because its end is
			// told by no SIGCHLD; a usual fork is not even reported.
			ptrace(unix.PTRACE_DETACH, tid, 0)
		case event == unix.PTRACE_EVENT_STOP && sig != syscall.SIGTRAP:
			ptrace(unix.PTRACE_LISTEN, tid, 0) // stays stopped until SIGCONT
		case event != 0:
			resume(tid, 0)
		case sig != syscall.SIGTRAP|0x80: // PTRACE_O_TRACESYSGOOD
			resume(tid, sig)
		default:
			info, err := syscallInfo(tid)
			if err != nil && err != unix.ESRCH { // ESRCH: just killed
				return result, fmt.Errorf("%w: PTRACE_GET_SYSCALL_INFO: %w", ErrRefused, err)
			}
			switch c, underWay := open[tid]; {
			case err != nil || t.killed.Load():
			case info.op == unix.PTRACE_SYSCALL_INFO_ENTRY && t.leavesGroup(info):
				return result, fmt.Errorf("%s was killed because it leaves its process group, "+
					"outside of which it cannot be traced (the last call was %s)", spec.Args[0], last)
			case info.op == unix.PTRACE_SYSCALL_INFO_ENTRY:
				c, ok := decode(tid, info)
				if !ok || sel != nil && !sel(c) {
					break
				}
				result.Calls++
				c.N = result.Calls
				if spec.Returns {
					open[tid] = c
				}
				show(c)
			case info.op == unix.PTRACE_SYSCALL_INFO_EXIT && underWay:
				delete(open, tid)
				c.Done = true
				if c.Ret = int64(info.nr); -4096 < c.Ret && c.Ret < 0 {
					c.Ret, c.Err = -1, syscall.Errno(-c.Ret)
				}
				show(c)
			}
			resume(tid, 0)
		}
	}
}

// start starts the program and returns with it seized and stopped before its
// first instruction.
func start(spec Spec) (*Tracee, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	files := []*os.File{spec.Stdin, spec.Stdout, spec.Stderr}
	for i := range files {
		if files[i] == nil {
			files[i] = null
		}
	}
	p, err := os.StartProcess(spec.Args[0], spec.Args, &os.ProcAttr{
		Dir:   spec.Dir,
		Files: files,
		// The group is the handle by which wait finds the program's threads,
		// and none of the children this thread had before.
		Sys: &syscall.SysProcAttr{Ptrace: true, Setpgid: true},
	})
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
		return nil, fmt.Errorf("%w: PTRACE_TRACEME: %w", ErrRefused, err)
	}
	if err != nil {
		return nil, err
	}
	t := &Tracee{PID: p.Pid, process: p}

	// Ptrace: true is PTRACE_TRACEME, under which a stop signal cannot stop
	// the program: any restart resumes it. Only PTRACE_SEIZE has
	// PTRACE_LISTEN. So: let go of the program into a stop, seize it, continue it.
	err = func() error {
		if _, _, err := t.wait(); err != nil { // the stop after execve
			return err
		}
		if err := ptrace(unix.PTRACE_DETACH, t.PID, uintptr(unix.SIGSTOP)); err != nil {
			return err
		}
		// Of the children, threads only: forks are reported by options of their own.
		const options = unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_EXITKILL
		if err := ptrace(unix.PTRACE_SEIZE, t.PID, options); err != nil {
			return fmt.Errorf("%w: PTRACE_SEIZE: %w", ErrRefused, err)
		}
		if _, _, err := t.wait(); err != nil { // the SIGSTOP above
			return err
		}
		if err := t.Signal(syscall.SIGCONT); err != nil {
			return err
		}
		for {
			resume(t.PID, 0)
			_, status, err := t.wait()
			if err != nil {
				return err
			}
			if !status.Stopped() {
				return fmt.Errorf("it ended before its first instruction: wait status %#x", status)
			}
			if sig, event := stop(status); event == 0 && sig == syscall.SIGCONT {
				return nil // the caller's first resume swallows it
			}
		}
	}()
	if err != nil {
		t.reap()
		p.Release()
		return nil, fmt.Errorf("tracing %s: %w", spec.Args[0], err)
	}
	return t, nil
}

// wait waits for a thread of the program, and for nothing else: by its process
// group, because this thread may have children of other tests; and of this
// thread (__WNOTHREAD), because other threads may wait for theirs.
func (t *Tracee) wait() (tid int, status unix.WaitStatus, err error) {
	for {
		tid, err = unix.Wait4(-t.PID, &status, unix.WALL|unix.WNOTHREAD, nil)
		if err != unix.EINTR {
			return tid, status, err
		}
	}
}

// reap kills the program and waits for its end.
func (t *Tracee) reap() {
	t.Kill()
	for {
		tid, status, err := t.wait()
		if err != nil || tid == t.PID && !status.Stopped() {
			return
		}
	}
}

// hasThread reports whether tid is a thread of the program, and not a process.
func (t *Tracee) hasThread(tid int) bool {
	_, err := os.Lstat(fmt.Sprintf("/proc/%d/task/%d", t.PID, tid))
	return err == nil
}

// leavesGroup reports whether a call would take the program out of its process
// group, and so out of the reach of wait. (setsid is refused to a group's leader.)
func (t *Tracee) leavesGroup(info callInfo) bool {
	pid, group := int(int32(info.args[0])), int(int32(info.args[1]))
	return info.nr == unix.SYS_SETPGID && (pid == 0 || pid == t.PID) && group != 0 && group != t.PID
}

// stop splits the status of a stopped thread into the signal and the
// PTRACE_EVENT, 0 if it is none.
func stop(status unix.WaitStatus) (sig syscall.Signal, event int) {
	return status.StopSignal(), int(status) >> 16
}

// resume lets a thread go on to its next system call's entry or exit, with the
// signal if it is not 0. A thread that has been killed meanwhile needs nothing.
func resume(tid int, sig syscall.Signal) { ptrace(unix.PTRACE_SYSCALL, tid, uintptr(sig)) }

func ptrace(request, tid int, data uintptr) error {
	if _, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, uintptr(request), uintptr(tid), 0, data, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// callInfo is struct ptrace_syscall_info. At the exit of a call, nr is what it returns.
type callInfo struct {
	op   uint8
	_    [3]uint8
	_    uint32    // architecture
	_    [2]uint64 // instruction and stack pointer
	nr   uint64
	args [6]uint64
	_    uint64
}

// syscallInfo asks for the call at whose entry or exit a thread is stopped. The
// kernel says which of the two it is: nobody has to count stops.
func syscallInfo(tid int) (info callInfo, err error) {
	_, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_GET_SYSCALL_INFO, uintptr(tid),
		unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0)
	if errno != 0 {
		return info, errno
	}
	return info, nil
}
