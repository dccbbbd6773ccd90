package process

import (
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// hasTerminal reports whether stdin is our controlling terminal and we are in its
// foreground. A terminal that is not the controlling one answers ENOTTY to this
// question (tcgetpgrp(3)), and must not be given on.
func hasTerminal() bool {
	foreground, err := unix.IoctlGetInt(0, unix.TIOCGPGRP)
	return err == nil && foreground == unix.Getpgrp()
}

// returnTerminal takes the terminal back from the command's group when the
// command has ended or could not be executed, so that whoever runs us from a
// script can go on reading.
func (p *Process) returnTerminal() {
	if p.terminal {
		_ = setForeground(unix.Getpgrp())
	}
}

// setForeground gives the terminal to a process group.
func setForeground(group int) error {
	// A background process that asks for the terminal is stopped by
	// SIGTTOU, unless it ignores it (tcsetpgrp(3)).
	signal.Ignore(syscall.SIGTTOU)
	return unix.IoctlSetPointerInt(0, unix.TIOCSPGRP, group)
}

// follow does what a terminal's stop signal (Ctrl-Z, say) means to the command that it has
// stopped.
//
// Without a wrapper, a command that is the first of its container is in an orphaned process
// group, and the kernel drops these signals (POSIX.1, 11.1.4): nobody is there who could
// continue it. The wrapper is no such somebody, but the kernel takes it for one. So the
// command is continued at once. Under a shell with job control, all of its job stops.
func (p *Process) follow(sig syscall.Signal) {
	switch sig {
	case syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU:
	default:
		return // SIGSTOP is meant for the command alone
	}
	if !orphaned() {
		p.returnTerminal()
		stopJob()
		if !hasTerminal() {
			p.signalGroup(unix.SIGCONT) // in the background
			return
		}
	}
	// The terminal first: who asks for it without having it is stopped again.
	if setForeground(p.pid) == nil || sig == syscall.SIGTSTP {
		p.signalGroup(unix.SIGCONT)
	}
}

// stopJob stops all of our process group, and returns when the shell has continued it.
func stopJob() {
	all, _ := processes()
	for _, r := range all {
		if r.group == unix.Getpgrp() && r.pid != os.Getpid() {
			_ = unix.Kill(r.pid, unix.SIGSTOP)
		}
	}
	// With kill(2) another thread may take the signal, and this one run on for a moment:
	// it would continue the command, and take the terminal, before the shell has seen a stop.
	_ = unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGSTOP)
}

// orphaned reports whether nobody outside of our process group controls it: no process of
// it has a parent in another group of the same session (POSIX.1, 3.264).
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
