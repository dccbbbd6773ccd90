package process

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/sentinel/exitcode"
)

// The one waiter for all children.

// reap returns when no child is left, or when the kernel refuses to say more.
func (p *Process) reap() {
	events := unix.WEXITED
	if p.terminal {
		events |= unix.WSTOPPED
	}
	for {
		// Look without reaping, so that the reaping is done under mu.
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

// collect reaps all children that have ended. It reports whether none is left, or no more
// can be known.
func (p *Process) collect() (over bool) {
	options := unix.WNOHANG
	if p.terminal {
		options |= unix.WUNTRACED
	}
	var stoppedBy syscall.Signal // the command, if it was
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
			p.note(pid, ws)
		case err == nil:
			done = true
		case err == unix.ECHILD:
			p.childless, done, over = true, true, true
		default:
			p.giveUp(fmt.Errorf("wait4: %w", err))
			done, over = true, true
		}
	}
	p.tell()
	p.mu.Unlock()
	if stoppedBy != 0 {
		p.follow(stoppedBy)
	}
	return over
}

// note takes a child that was reaped. The caller holds mu.
func (p *Process) note(pid int, ws unix.WaitStatus) {
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

// tell closes what is to be closed by now. The caller holds mu.
func (p *Process) tell() {
	p.checkGone()
	if p.reaped && !isClosed(p.exited) { // after gone, so that who sees the end sees the whole
		close(p.exited)
	}
	select {
	case p.reaps <- struct{}{}:
	default: // it will be read
	}
}

// reapWithoutLooking reaps where waitid(2) is refused. A child may then be reaped a moment
// before we know it, and a signal sent in between could reach another process, if the
// kernel had given its number away at once.
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
			p.note(pid, ws)
		case err == unix.ECHILD:
			p.childless = true
		default:
			p.giveUp(fmt.Errorf("waitid: %w, wait4: %w", refused, err))
		}
		p.tell()
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// giveUp ends a command whose end the kernel refuses to tell. The caller holds mu.
func (p *Process) giveUp(err error) {
	p.childless = true
	if p.reaped {
		return
	}
	p.reaped = true
	p.status = Status{
		Code: exitcode.Wrapper,
		Err:  fmt.Errorf("nobody can know how %s ended: %w: the container's seccomp profile has to allow it", p.name, err),
	}
}

// checkGone closes gone as soon as nothing is left. The caller holds mu.
func (p *Process) checkGone() {
	if p.reaped && unix.Kill(-p.pid, 0) == unix.ESRCH {
		p.groupEmpty = true
	}
	if p.isGone || !p.reaped || !p.childless {
		return
	}
	if p.adopts || p.groupEmpty || !groupLives(p.pid) {
		p.isGone = true
		close(p.gone)
	}
}

// lookForGone is for orphans that do not come to us: of their end nothing tells.
func (p *Process) lookForGone() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.checkGone()
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
