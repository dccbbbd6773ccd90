// Package process owns one command: it starts it, signals it, stops it, and
// reaps it and every orphan that it leaves behind. It is the only place that
// knows wait(2), process groups, /proc, and the arithmetic of exit statuses.
//
// There is one command per program: being the subreaper and the one waiter for
// all children are properties of the whole process.
//
// Process 1 of a container ignores every signal that it does not handle
// (pid_namespaces(7)), so a shell that is process 1 and has no trap outlives
// SIGTERM, and its child works on. The same shell under a wrapper is not
// process 1, and dies. That is why [Process.EndGroup] exists.
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
	// Signal is what the command died of, 0 if it exited.
	Signal syscall.Signal
	// Err is not nil if the kernel refuses to say how the command ended. Code
	// is then exitcode.Wrapper.
	Err error
}

// Process is a command that was started.
type Process struct {
	pid      int
	name     string
	terminal bool // the command's group has the terminal that we had
	adopts   bool // orphans become our children, so ECHILD means that nothing is left

	exited chan struct{}
	gone   chan struct{}
	reaps  chan struct{} // a value whenever something may have been reaped
	status Status        // valid once exited is closed

	// mu makes "is it still there" and the kill(2) or wait(2) that follows
	// one step: a process id may be another's as soon as it is reaped.
	mu         sync.Mutex
	reaped     bool
	childless  bool // no child of ours is left
	groupEmpty bool
	isGone     bool
	passedOn   map[syscall.Signal]bool
	ending     bool // EndGroup passes signals on to the group
	refused    error
}

// Start starts argv with our standard files, environment, working directory,
// umask and limits, in a process group of its own; where we have the terminal,
// the group gets it. The command dies with us, unless prctl(2) is refused
// (seccomp). A command that cannot be started is a *StartError.
func Start(argv []string) (*Process, error) {
	path, err := lookPath(argv[0])
	if err != nil {
		return nil, err
	}
	prestartThreads(prestarted)
	p := &Process{
		name:     filepath.Base(path),
		terminal: hasTerminal(),
		exited:   make(chan struct{}),
		gone:     make(chan struct{}),
		reaps:    make(chan struct{}, 1),
		passedOn: make(map[syscall.Signal]bool),
	}
	started := make(chan error)
	go p.startAndReap(path, argv, started)
	if err := <-started; err != nil {
		return nil, startError(path, err)
	}
	return p, nil
}

// startAndReap starts the command and then waits for it, all on one thread: the kernel
// sends Pdeathsig when the *thread* that forked ends (golang/go#27505), and this
// one ends only after its last child.
func (p *Process) startAndReap(path string, argv []string, started chan<- error) {
	runtime.LockOSThread()

	// Orphans come to process 1, or to us if we are the subreaper.
	p.adopts = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == nil || os.Getpid() == 1

	attributes := syscall.SysProcAttr{
		Setpgid:    true,
		Foreground: p.terminal, // implies Setpgid, and alone would do
		Ctty:       0,
		Pdeathsig:  syscall.SIGKILL,
	}
	pid, err := fork(path, argv, attributes)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.ENOSYS) {
		// Perhaps it is prctl(2) that is refused (seccomp), and not the file.
		attributes.Pdeathsig = 0
		pid, err = fork(path, argv, attributes)
	}
	p.pid = pid
	if err != nil {
		p.returnTerminal() // the child takes it before it executes anything
	}
	started <- err
	if err != nil {
		return
	}
	p.reap()
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

// Gone is closed when nothing is left of all that the command has started, in its process
// group or out of it. Where orphans do not come to us, because prctl(2) is refused, it is
// closed when only zombies are left in its group.
func (p *Process) Gone() <-chan struct{} { return p.gone }

// Status is how the command ended. It is valid once Exited is closed.
func (p *Process) Status() Status { return p.status }

// Signal sends sig to the command's own process; to nobody if that has ended; to its
// process group after EndGroup. An error says that the kernel does not permit it, and what
// to do.
func (p *Process) Signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case !p.reaped:
		p.passedOn[sig] = true
		return p.explain(sig, p.name, unix.Kill(p.pid, sig))
	case p.ending:
		return p.explain(sig, p.name, p.killGroup(sig))
	}
	return nil
}

// explain makes an error of what kill(2) has answered if the process may not be signalled.
// Its other errors say that the process has ended.
func (p *Process) explain(sig syscall.Signal, name string, err error) error {
	if err != unix.EPERM {
		return nil
	}
	return fmt.Errorf("%s could not be sent to %s: it runs as another user than its wrapper: give the container the capability KILL (securityContext.capabilities.add)", SignalName(sig), name)
}

// EndGroup is for a command that has ended. If it has died of a signal that Signal had
// passed on, what is left of its process group gets the same signal, and all that come
// later. The channel delivers a value when nothing of the group is left that may be
// signalled; at once if the command has ended in another way. The value is an error if some
// of it is left, and says what to do.
func (p *Process) EndGroup() <-chan error {
	p.mu.Lock()
	sig := p.status.Signal
	p.ending = sig != 0 && p.passedOn[sig]
	ending := p.ending
	p.mu.Unlock()

	ended := make(chan error, 1)
	if !ending || !groupLives(p.pid) {
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

// poll is how often EndGroup and Stop look at processes that are not our children: of
// their end we hear nothing.
const poll = 50 * time.Millisecond

// killWait is for how long Stop waits for processes that have been killed.
// What is left after that hangs in the kernel (a dead network file system, say).
const killWait = 5 * time.Second

// Stopped is how a Stop ended.
type Stopped struct {
	// Killed: SIGKILL was needed.
	Killed bool
	// Left are the names (comm, proc_pid_comm(5)) of the processes that it was needed for.
	// Where /proc does not tell, there are none.
	Left []string
	// Exited: the command itself had ended before that.
	Exited bool
	// Refused is not nil if some may not be signalled. Stop has not waited for these: they
	// end with the container.
	Refused error
}

// Stop ends the command and all that it has started. It sends sig to the command's
// process; if that runs on, sig once to its process group when half of grace is over (a
// shell that runs a server in the foreground delays its trap until then). As soon as the
// process has ended, what is left gets SIGTERM: not sig, for what a shell starts with &
// ignores SIGINT and SIGQUIT (POSIX.1, Shell Command Language, 2.11). SIGKILL to all when
// grace is over. It returns when nothing is left that may be signalled.
func (p *Process) Stop(sig syscall.Signal, grace time.Duration) (s Stopped) {
	if s.Refused = p.Signal(sig); s.Refused != nil {
		return s
	}
	crashpoint.At("stop.signalled")
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
		case <-p.gone:
			<-p.exited // closed a moment later, and Status is valid only then
			crashpoint.At("stop.gone")
			return s
		case <-exited:
			exited = nil
			half.Stop()
			crashpoint.At("stop.exited")
			if !s.Killed {
				s.Exited = true
				p.signalLeft(unix.SIGTERM, groupHasTERM)
				crashpoint.At("stop.left-signalled")
			}
		case <-half.C:
			p.signalGroup(sig)
			groupHasTERM = sig == unix.SIGTERM
			crashpoint.At("stop.half-time")
		case <-end.C:
			s.Killed, s.Left = true, p.signalLeft(unix.SIGKILL, false)
			crashpoint.At("stop.killed")
			last = time.After(killWait)
		case <-ticker.C:
			if s.Killed { // some may have been started meanwhile
				p.signalLeft(unix.SIGKILL, false)
			}
			if s.Refused = p.onlyRefusedLeft(); s.Refused != nil {
				return s
			}
			p.lookForGone()
		case <-last:
			return s
		}
	}
}
