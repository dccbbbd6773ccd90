package process

import (
	"fmt"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/sentinel/exitcode"
)

// reap is the one waiter for all children. It returns when no child is left, or when the
// kernel refuses to report more.
func (p *Process) reap() {
	for over := false; !over; {
		over = p.reapNext()
	}
}

// Wait waits until the command has ended, and returns its status. It reaps all children
// meanwhile; those that are left then are reaped in the background.
func (p *Process) Wait() Status {
	defer runtime.UnlockOSThread() // the command needs its Pdeathsig no more
	for {
		over := p.reapNext()
		if !isClosed(p.exited) {
			continue
		}
		if !over {
			go p.reap()
		}
		return p.status
	}
}

// reapNext waits until a child can be reaped, and reaps all that can. over means that
// there will be no other.
func (p *Process) reapNext() (over bool) {
	events := unix.WEXITED
	if p.terminal {
		events |= unix.WSTOPPED
	}
	// Wait without reaping, so that collect reaps under mu.
	switch err := unix.Waitid(unix.P_ALL, 0, nil, events|unix.WNOWAIT, nil); err {
	case unix.EINTR:
		return false
	case nil, unix.ECHILD:
		return p.collect()
	default: // refused (seccomp)
		return p.reapWithoutLooking(err)
	}
}

// collect reaps all children that have ended. It reports whether no child is left, or the
// kernel refuses to report more.
func (p *Process) collect() (over bool) {
	options := unix.WNOHANG
	if p.terminal {
		options |= unix.WUNTRACED
	}
	var stoppedBy syscall.Signal // the signal that has stopped the command, or 0
	p.mu.Lock()
	for done := false; !done; {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, options, nil)
		switch {
		case err == unix.EINTR:
		case err == nil && pid > 0 && ws.Stopped():
			if pid == p.pid {
				stoppedBy = ws.StopSignal()
			}
		case err == nil && pid > 0:
			p.recordExit(pid, ws)
		case err == nil:
			done = true
		default: // ECHILD: no child is left
			p.giveUp(fmt.Errorf("wait4: %w", err))
			done, over = true, true
		}
	}
	p.notify()
	p.mu.Unlock()
	if stoppedBy != 0 {
		p.onTerminalStop(stoppedBy)
	}
	return over
}

// recordExit sets the status if the reaped child is the command. The caller holds mu.
func (p *Process) recordExit(pid int, ws unix.WaitStatus) {
	if pid != p.pid {
		return
	}
	p.reaped = true
	p.status = Status{Code: ws.ExitStatus()}
	if ws.Signaled() {
		p.status = Status{Code: exitcode.OfSignal(ws.Signal()), Signal: ws.Signal()}
	}
	p.returnTerminal()
}

// notify closes the channels whose condition holds, and wakes EndGroup. The caller holds mu.
func (p *Process) notify() {
	p.checkAllExited()
	if p.reaped && !isClosed(p.exited) { // after allExited, which a reader of exited may check
		close(p.exited)
	}
	select {
	case p.reaps <- struct{}{}:
	default: // a value is there already
	}
}

// reapWithoutLooking reaps one child where waitid(2) is refused. It reaps it a moment before
// mu is held: a signal that is sent in between reaches another process if the kernel has
// reused the pid at once.
func (p *Process) reapWithoutLooking(refused error) (over bool) {
	var ws unix.WaitStatus
	pid, err := unix.Wait4(-1, &ws, 0, nil)
	if err == unix.EINTR {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.recordExit(pid, ws)
	} else {
		p.giveUp(fmt.Errorf("waitid: %w, wait4: %w", refused, err))
	}
	p.notify()
	return err != nil
}

// giveUp notes that the kernel will report no other child. A command whose end it has not
// reported counts as ended. The caller holds mu.
func (p *Process) giveUp(err error) {
	p.childless = true
	if p.reaped {
		return
	}
	p.reaped = true
	p.status = Status{
		Code: exitcode.Wrapper,
		Err: fmt.Errorf("the exit code of %s is unknown: %w: "+
			"allow waitid and wait4 in the container's seccomp profile", p.name, err),
	}
}

// checkAllExited closes allExited if nothing is left. The caller holds mu.
func (p *Process) checkAllExited() {
	if p.reaped && unix.Kill(-p.pid, 0) == unix.ESRCH {
		p.groupEmpty = true
	}
	if isClosed(p.allExited) || !p.reaped || !p.childless {
		return
	}
	if p.adopts || p.groupEmpty || !groupLives(p.pid) {
		close(p.allExited)
	}
}

// recheckAllExited is for orphans that are not our children: nothing reports their end.
func (p *Process) recheckAllExited() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.checkAllExited()
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
