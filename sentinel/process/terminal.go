package process

import (
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// hasTerminal tells whether stdin is our controlling terminal and we are in its
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
	if !p.terminal {
		return
	}
	// A background process that asks for the terminal is stopped by
	// SIGTTOU, unless it ignores it (tcsetpgrp(3)).
	signal.Ignore(syscall.SIGTTOU)
	_ = unix.IoctlSetPointerInt(0, unix.TIOCSPGRP, unix.Getpgrp())
}
