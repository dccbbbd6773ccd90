package process

import (
	"os"
	"os/signal"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// foreground returns the foreground group of stdin. ok is false if stdin is not our
// controlling terminal: one that is not answers ENOTTY here (tcgetpgrp(3)), and cannot be
// given to the command.
func foreground() (group int, ok bool) {
	group, err := unix.IoctlGetInt(0, unix.TIOCGPGRP)
	return group, err == nil
}

// hasTerminal reports whether our group has the terminal.
func hasTerminal() bool {
	group, ok := foreground()
	return ok && group == unix.Getpgrp()
}

// commandHasTerminal reports whether the command's group has the terminal, or one to which
// the command, which may be a shell, has given it. In the background, a shell of which we
// are a job has it, or another of its jobs.
func (p *Process) commandHasTerminal() bool {
	group, ok := foreground()
	if !ok || group == p.pid {
		return ok
	}
	// A shell may have died together with the job that had the terminal.
	return unix.Kill(-group, 0) == unix.ESRCH ||
		slices.ContainsFunc(descendants(), func(st procStat) bool { return st.group == group })
}

// returnTerminal takes the terminal back from the command, so that a script that runs us can
// read from it. It does nothing if the command does not have it.
func (p *Process) returnTerminal() {
	if p.terminal && p.commandHasTerminal() {
		_ = setForeground(unix.Getpgrp())
	}
}

// giveTerminal gives the terminal to the command if our group has it. A shell gives it to us
// when it brings its job to the foreground.
func (p *Process) giveTerminal() {
	if p.terminal && hasTerminal() {
		_ = setForeground(p.pid)
	}
}

// setForeground gives the terminal to a process group.
func setForeground(group int) error {
	// tcsetpgrp(3) by a background process raises SIGTTOU, which stops it unless ignored.
	signal.Ignore(syscall.SIGTTOU)
	return unix.IoctlSetPointerInt(0, unix.TIOCSPGRP, group)
}

// onTerminalStop handles the stop of the command by a signal of the terminal, such as Ctrl-Z.
//
// Under a shell with job control, it stops the rest of the shell's job, too. Elsewhere it
// continues the command at once: without a wrapper, the command of a container is in an
// orphaned process group, in which the kernel drops these signals, because no shell could
// continue it (POSIX.1, 11.1.4). Under a wrapper, the kernel does not count it as orphaned.
func (p *Process) onTerminalStop(sig syscall.Signal) {
	switch sig {
	case syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU:
	default:
		return // SIGSTOP is meant for the command alone
	}
	// A shell that brings a job to the foreground which runs already need not send SIGCONT
	// (bash does not): then the command has used the terminal before it could be given it.
	if late := sig != syscall.SIGTSTP && hasTerminal(); !late && !orphaned() {
		p.returnTerminal()
		stopJob()
		if !hasTerminal() {
			p.signalGroup(unix.SIGCONT) // in the background
			return
		}
	}
	// The terminal first: a command that uses it from the background is stopped again.
	ours := hasTerminal() || p.commandHasTerminal()
	if ours && setForeground(p.pid) == nil || sig == syscall.SIGTSTP {
		p.signalGroup(unix.SIGCONT)
	}
}

// stopJob stops our process group, and returns when the shell has continued it.
func stopJob() {
	all, _ := processes()
	for _, st := range all {
		if st.group == unix.Getpgrp() && st.pid != os.Getpid() {
			_ = unix.Kill(st.pid, unix.SIGSTOP)
		}
	}
	// With kill(2), another thread may take the signal, and this one would run on for a
	// moment: it would continue the command before the shell has seen a stop.
	_ = unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGSTOP)
}

// orphaned reports whether our process group is orphaned: our first ancestor outside of it is
// in another session, or we see none (POSIX.1, 3.264).
func orphaned() bool {
	session, err := unix.Getsid(0)
	for pid := os.Getppid(); err == nil && pid > 0; {
		var group, its int
		if group, err = unix.Getpgid(pid); err != nil || group != unix.Getpgrp() {
			its, err = unix.Getsid(pid)
			return err != nil || its != session
		}
		parent, _ := readStat(pid)
		pid = parent.parent
	}
	return true
}
