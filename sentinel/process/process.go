// Package process owns one command: it starts, signals and stops the command, and
// reaps the command and every orphan that the command leaves. It is the only place
// that knows wait(2), process groups, /proc, and the arithmetic of exit statuses.
//
// A program has one command: to be the subreaper, and the one waiter for all
// children, are properties of the whole program.
//
// Process 1 of a container ignores every signal that it does not handle
// (pid_namespaces(7)). So a shell that is process 1 and has no trap survives
// SIGTERM, and its child goes on. Under a wrapper the same shell is not
// process 1, and dies. [Process.EndGroup] makes up for that.
package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/sentinel/crashpoint"
)

// Status is how a command ended.
type Status struct {
	// Code is what a shell would show: the exit code, or 128+n for a
	// command that died of signal n.
	Code int
	// Signal is the signal that the command died of, 0 if it exited.
	Signal syscall.Signal
	// Err is not nil if the kernel refuses to report the exit status. Code is
	// then exitcode.Wrapper.
	Err error
}

// Process is a command that has been started.
type Process struct {
	pid      int
	name     string
	terminal bool // stdin is our controlling terminal
	adopts   bool // orphans become our children, so ECHILD means that nothing is left

	exited    chan struct{}
	allExited chan struct{}
	reaps     chan struct{} // gets a value when children may have been reaped
	status    Status        // valid once exited is closed

	// mu joins the question whether the command has been reaped with the kill(2) or
	// wait(2) that follows: the id of a reaped process may be another's at once.
	mu             sync.Mutex
	reaped         bool
	childless      bool // no child of ours is left
	groupEmpty     bool
	forwarded      map[syscall.Signal]bool
	forwardToGroup bool  // EndGroup forwards signals to the group
	refused        error // the last refusal to signal a process
}

// Start starts argv with our standard files, environment, working directory,
// umask and limits, in a process group of its own, which gets the terminal if we
// have it. The command dies with us, unless prctl(2) is refused (seccomp). Its
// children are reaped in the background. A program calls Start or StartHere, once.
// The error is a *StartError.
func Start(argv []string) (*Process, error) {
	type result struct {
		p   *Process
		err error
	}
	started := make(chan result)
	go func() {
		p, err := startHere(argv, backgroundThreads)
		started <- result{p, err}
		if err == nil {
			p.reap() // on the same thread to the end: see StartHere
		}
	}()
	r := <-started
	return r.p, r.err
}

// StartHere is Start for a caller that waits for the command: the same goroutine
// must call Wait. It saves that goroutine a wake-up by another thread.
//
// It locks the goroutine to its thread: the kernel sends Pdeathsig when the *thread*
// that forked ends (golang/go#27505).
func StartHere(argv []string) (*Process, error) { return startHere(argv, minThreads) }

func startHere(argv []string, threads int) (*Process, error) {
	path, err := lookPath(argv[0])
	if err != nil {
		return nil, err
	}
	prestartThreads(threads)
	runtime.LockOSThread()
	p := &Process{
		name: filepath.Base(path),
		// Orphans become the children of process 1, or of us if we are the subreaper.
		adopts:    unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == nil || os.Getpid() == 1,
		exited:    make(chan struct{}),
		allExited: make(chan struct{}),
		reaps:     make(chan struct{}, 1),
		forwarded: make(map[syscall.Signal]bool),
	}
	_, p.terminal = foreground()
	attributes := syscall.SysProcAttr{
		Setpgid:    true,
		Foreground: hasTerminal(), // implies Setpgid
		Ctty:       0,
		Pdeathsig:  syscall.SIGKILL,
	}
	p.pid, err = fork(path, argv, attributes)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.ENOSYS) {
		// Perhaps a seccomp profile refuses prctl(2), and the file is fine.
		attributes.Pdeathsig = 0
		p.pid, err = fork(path, argv, attributes)
	}
	if err != nil {
		runtime.UnlockOSThread()
		if attributes.Foreground {
			_ = setForeground(unix.Getpgrp()) // the child has taken it before execve(2) failed
		}
		return nil, startError(path, err)
	}
	CatchOtherSignals()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.giveTerminal() // a shell may have given it to us before we caught its SIGCONT
	return p, nil
}

func fork(path string, argv []string, attributes syscall.SysProcAttr) (pid int, err error) {
	return syscall.ForkExec(path, argv, &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{0, 1, 2},
		Sys:   &attributes,
	})
}

// PID is the process id of the command.
func (p *Process) PID() int { return p.pid }

// Exited is closed when the command itself has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// AllExited is closed when the command and all that it has started have ended, in its
// process group or out of it. Where prctl(2) is refused, orphans do not become our children:
// AllExited is then closed when only zombies are left in the group, as seen when the command
// ends and while Stop runs.
func (p *Process) AllExited() <-chan struct{} { return p.allExited }

// Status is how the command ended. It is valid once Exited is closed.
func (p *Process) Status() Status { return p.status }

// Signal sends sig to the command's own process. When that has ended, it sends sig to the
// process group if EndGroup forwards to it, and else does nothing. An error says that the
// kernel does not permit the signal, and what to do.
func (p *Process) Signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case !p.reaped:
		p.forwarded[sig] = true
		if sig == unix.SIGCONT && p.terminal {
			// A shell continues its whole job. If the command alone went on, after the terminal has
			// stopped its group again, nobody would see that stop.
			p.giveTerminal()
			return p.explain(sig, p.name, p.killGroup(sig))
		}
		return p.explain(sig, p.name, unix.Kill(p.pid, sig))
	case p.forwardToGroup:
		return p.explain(sig, p.name, p.killGroup(sig))
	}
	return nil
}

// explain returns an error if err, the result of kill(2), means that the process may not be
// signalled. The other errors of kill mean that the process has ended.
func (p *Process) explain(sig syscall.Signal, name string, err error) error {
	if err != unix.EPERM {
		return nil
	}
	return fmt.Errorf("%s could not be sent to %s: it runs as another user than its wrapper: "+
		"give the container the capability KILL (securityContext.capabilities.add)", SignalName(sig), name)
}

// EndGroup ends the process group of a command that has ended, if the command died of a
// signal that Signal had sent: the group gets the same signal, and those that Signal sends
// later. The channel delivers one value when no process of the group is left that may be
// signalled; at once, if the command ended in another way. The value is an error if some
// processes are left that may not be signalled, and says what to do. See design, 5.2.
func (p *Process) EndGroup() <-chan error {
	p.mu.Lock()
	sig := p.status.Signal
	p.forwardToGroup = sig != 0 && p.forwarded[sig]
	forwards := p.forwardToGroup
	p.mu.Unlock()

	ended := make(chan error, 1)
	if !forwards || !groupLives(p.pid) {
		ended <- nil
		return ended
	}
	p.signalGroup(sig)
	go func() {
		ticker := time.NewTicker(poll)
		defer ticker.Stop()
		for {
			if over, err := p.groupEnded(sig); over {
				ended <- err
				return
			}
			select {
			case <-p.reaps:
			case <-ticker.C:
			}
		}
	}()
	return ended
}

// poll is how often EndGroup and Stop check processes that are not our children: nothing
// reports their end.
const poll = 50 * time.Millisecond

// killWait is how long Stop waits for processes that it has killed. One that is still there
// hangs in the kernel (on a dead network file system, say).
const killWait = 5 * time.Second

// Stopped is how a Stop ended.
type Stopped struct {
	// Killed means that the grace period was over and SIGKILL was sent.
	Killed bool
	// Survivors are the names (comm, proc_pid_comm(5)) of the processes that had outlived the
	// grace period. It is empty where /proc does not show them.
	Survivors []string
	// Exited means that the command itself had ended before SIGKILL was sent.
	Exited bool
	// Refused is not nil if the command, or all that is left of it, may not be signalled. It
	// says what to do. Stop has not waited for these processes: they end with the container.
	Refused error
}

// Stop ends the command and all that it has started (design, 4.3):
//
//  1. The command's process gets sig.
//  2. If it still runs when half of grace is over, its process group gets sig, once: a shell
//     that runs a server in the foreground delays its trap until the server ends.
//  3. When it has ended, everything left gets SIGTERM. Not sig: what a shell starts with &
//     ignores SIGINT and SIGQUIT (POSIX.1, Shell Command Language, 2.11).
//  4. When grace is over, everything left gets SIGKILL.
//
// The command has got sig when Stop returns. The channel delivers one value when nothing is
// left that may be signalled, at the latest five seconds after SIGKILL.
func (p *Process) Stop(sig syscall.Signal, grace time.Duration) <-chan Stopped {
	stopped := make(chan Stopped, 1)
	if refused := p.Signal(sig); refused != nil {
		stopped <- Stopped{Refused: refused}
		return stopped
	}
	crashpoint.At("stop.signalled")
	go func() { stopped <- p.awaitStop(sig, grace) }()
	return stopped
}

// awaitStop does what Stop does after the first signal.
func (p *Process) awaitStop(sig syscall.Signal, grace time.Duration) (s Stopped) {
	half := time.NewTimer(grace / 2)
	defer half.Stop()
	end := time.NewTimer(grace)
	defer end.Stop()
	ticker := time.NewTicker(poll)
	defer ticker.Stop()

	exited, last := p.exited, (<-chan time.Time)(nil)
	groupHasTERM := false
	for {
		select {
		case <-p.allExited:
			<-p.exited // closed a moment later, and Status is valid only then
			crashpoint.At("stop.all-exited")
			return s
		case <-exited:
			exited = nil
			half.Stop()
			crashpoint.At("stop.exited")
			// Where nothing is left, /proc need not be read: that takes longer than all else.
			if s.Exited = !s.Killed; s.Exited && !isClosed(p.allExited) {
				p.signalTree(unix.SIGTERM, groupHasTERM)
				crashpoint.At("stop.tree-signalled")
			}
		case <-half.C:
			p.signalGroup(sig)
			groupHasTERM = sig == unix.SIGTERM
			crashpoint.At("stop.half-time")
		case <-end.C:
			s.Killed, s.Survivors = true, p.signalTree(unix.SIGKILL, false)
			crashpoint.At("stop.killed")
			last = time.After(killWait)
		case <-ticker.C:
			if s.Killed { // new ones may have been started meanwhile
				p.signalTree(unix.SIGKILL, false)
			}
			if s.Refused = p.onlyRefusedRemain(); s.Refused != nil {
				return s
			}
			p.recheckAllExited()
		case <-last:
			return s
		}
	}
}
