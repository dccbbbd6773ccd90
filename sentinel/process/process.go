// Package process owns one command: it starts it, signals it, stops it, and
// reaps it and every orphan that it leaves behind. It is the only place that
// knows wait(2), process groups and the arithmetic of exit statuses.
//
// There is one command per program: being the subreaper and the one waiter for
// all children are properties of the whole process.
package process

import (
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/sentinel/crashpoint"
	"github.com/sentinel-shim/sentinel-shim/sentinel/exitcode"
)

// Status is how a command ended.
type Status struct {
	// Code is what a shell would show: the exit code, or 128+n for a
	// command that died of signal n.
	Code int
	// Signal is what the command died of, 0 if it exited.
	Signal syscall.Signal
}

// Process is a command that was started.
type Process struct {
	pid      int
	terminal bool // the command's group has the terminal that we had

	exited chan struct{}
	gone   chan struct{}
	status Status // valid once exited is closed

	// mu makes "is it still there" and the kill(2) or wait(2) that follows
	// one step: a process id may be another's as soon as it is reaped.
	mu        sync.Mutex
	reaped    bool
	groupGone bool
}

// Start starts argv with our standard files, environment, working directory,
// umask and limits, in a process group of its own; where we have the terminal,
// the group gets it. The command dies with us. A command that cannot be started
// is a *StartError.
func Start(argv []string) (*Process, error) {
	path, err := lookPath(argv[0])
	if err != nil {
		return nil, err
	}
	spare(spareThreads)
	p := &Process{
		terminal: hasTerminal(),
		exited:   make(chan struct{}),
		gone:     make(chan struct{}),
	}
	started := make(chan error)
	go p.own(path, argv, started)
	if err := <-started; err != nil {
		return nil, startError(path, err)
	}
	return p, nil
}

// own starts the command and then waits for it, all on one thread: the kernel
// sends Pdeathsig when the *thread* that forked ends (golang/go#27505), and this
// one ends only after its last child.
func (p *Process) own(path string, argv []string, started chan<- error) {
	runtime.LockOSThread()

	// Orphans come to us even if we are not process 1. Refused only by
	// kernels that do not know it; then they are process 1's to reap.
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

	pid, err := syscall.ForkExec(path, argv, &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{0, 1, 2},
		Sys: &syscall.SysProcAttr{
			Setpgid:    true,
			Foreground: p.terminal, // implies Setpgid, and alone would do
			Ctty:       0,
			Pdeathsig:  syscall.SIGKILL,
		},
	})
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

// reap is the one waiter. It returns when no child is left, which with a
// subreaper means that nothing is left of all that the command has started.
func (p *Process) reap() {
	for {
		// Look without reaping, so that the reaping is done under mu.
		err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if err == unix.EINTR {
			continue
		}
		p.mu.Lock()
		var ended bool
		for {
			var ws unix.WaitStatus
			pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
			if err == unix.EINTR {
				continue
			}
			if err != nil || pid <= 0 {
				break
			}
			if pid == p.pid {
				p.status, p.reaped, ended = statusOf(ws), true, true
				p.returnTerminal()
			}
		}
		p.checkGroup()
		if ended { // after gone, so that who sees the end sees the whole
			close(p.exited)
		}
		p.mu.Unlock()
		if err != nil { // ECHILD
			return
		}
	}
}

func statusOf(ws unix.WaitStatus) Status {
	if ws.Signaled() {
		return Status{Code: exitcode.OfSignal(ws.Signal()), Signal: ws.Signal()}
	}
	return Status{Code: ws.ExitStatus()}
}

// checkGroup closes gone once no process of the command's group is left. The
// caller holds mu.
func (p *Process) checkGroup() {
	if p.groupGone || !p.reaped {
		return
	}
	if unix.Kill(-p.pid, 0) == unix.ESRCH {
		p.groupGone = true
		close(p.gone)
	}
}

// PID is the process id of the command.
func (p *Process) PID() int { return p.pid }

// Exited is closed when the command itself has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Gone is closed when no process of the command's group is left.
func (p *Process) Gone() <-chan struct{} { return p.gone }

// Status is how the command ended. It is valid once Exited is closed.
func (p *Process) Status() Status { return p.status }

// Signal sends sig to the command's own process, or to nobody if it has ended.
func (p *Process) Signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped {
		// The only errors left are that it is dead but not yet reaped,
		// and that it has become another user's (EPERM).
		_ = unix.Kill(p.pid, sig)
	}
}

// signalGroup sends sig to every process of the command's group.
func (p *Process) signalGroup(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.groupGone {
		_ = unix.Kill(-p.pid, sig)
	}
	p.checkGroup()
}

// poll is how often Stop asks whether the group is empty once the command
// itself has ended: of a member that is reaped by another than us, we hear
// nothing.
const poll = 50 * time.Millisecond

// lastWait is for how long Stop waits for processes that have been killed.
// What is left after that hangs in the kernel (a dead network file system, say).
const lastWait = 5 * time.Second

// Stop ends the command: sig to its process; the same once to its process
// group, as soon as the process has ended or half of grace is over (a shell that
// runs a server in the foreground delays its trap until then); SIGKILL to the
// group when grace is over. It returns when no process of the group is left, and
// whether SIGKILL was needed.
func (p *Process) Stop(sig syscall.Signal, grace time.Duration) (killed bool) {
	p.Signal(sig)
	crashpoint.At("stop.signalled")
	half := time.NewTimer(grace / 2)
	defer half.Stop()
	end := time.NewTimer(grace)
	defer end.Stop()
	ticker := time.NewTicker(poll)
	defer ticker.Stop()

	exited, last := p.exited, (<-chan time.Time)(nil)
	for {
		select {
		case <-p.gone:
			<-p.exited // closed a moment later, and Status is valid only then
			crashpoint.At("stop.gone")
			return killed
		case <-exited:
			exited = nil
			crashpoint.At("stop.exited")
			if half.Stop() {
				p.signalGroup(sig)
				crashpoint.At("stop.group-signalled")
			}
		case <-half.C:
			p.signalGroup(sig)
			crashpoint.At("stop.half-time")
		case <-end.C:
			killed = true
			p.signalGroup(syscall.SIGKILL)
			crashpoint.At("stop.killed")
			last = time.After(lastWait)
		case <-ticker.C:
			p.signalGroup(0)
		case <-last:
			return killed
		}
	}
}
