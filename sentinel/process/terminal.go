package process

import (
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// hasTerminal reports whether stdin is our controlling terminal and we are in its
// foreground. A terminal that is not the controlling one answers ENOTTY here
// (tcgetpgrp(3)), and cannot be given to the command.
func hasTerminal() bool {
	foreground, err := unix.IoctlGetInt(0, unix.TIOCGPGRP)
	return err == nil && foreground == unix.Getpgrp()
}

// returnTerminal takes the terminal back from the command's group, so that a script
// that runs us can read from it.
func (p *Process) returnTerminal() {
	if p.terminal {
		_ = setForeground(unix.Getpgrp())
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
	if !orphaned() {
		p.returnTerminal()
		stopJob()
		if !hasTerminal() {
			p.signalGroup(unix.SIGCONT) // in the background
			return
		}
	}
	// The terminal first: a command that uses it from the background is stopped again.
	if setForeground(p.pid) == nil || sig == syscall.SIGTSTP {
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
