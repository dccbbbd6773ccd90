package process

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/sentinel/exitcode"
)

// reap is the one waiter for all children. It returns when no child is left, or when the
// kernel refuses to report more.
func (p *Process) reap() {
	events := unix.WEXITED
	if p.terminal {
		events |= unix.WSTOPPED
	}
	for {
		// Wait without reaping, so that collect reaps under mu.
		err := unix.Waitid(unix.P_ALL, 0, nil, events|unix.WNOWAIT, nil)
		switch {
		case err == unix.EINTR:
		case err == nil:
			if over := p.collect(); over {
				return
			}
		case err == unix.ECHILD:
			p.collect()
			return
		default: // refused (seccomp)
			p.reapWithoutLooking(err)
			return
		}
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
		case err == unix.ECHILD:
			p.childless, done, over = true, true, true
		default:
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

// reapWithoutLooking reaps where waitid(2) is refused. It reaps a child a moment before mu is
// held: a signal that is sent in between reaches another process if the kernel has reused the
// pid at once.
func (p *Process) reapWithoutLooking(refused error) {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		if err == unix.EINTR {
			continue
		}
		p.mu.Lock()
		switch {
		case err == nil:
			p.recordExit(pid, ws)
		case err == unix.ECHILD:
			p.childless = true
		default:
			p.giveUp(fmt.Errorf("waitid: %w, wait4: %w", refused, err))
		}
		p.notify()
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// giveUp counts the command as ended, because the kernel refuses to report its end. The
// caller holds mu.
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
