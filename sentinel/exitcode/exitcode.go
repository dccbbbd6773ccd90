// Package exitcode names every exit code that sentinel and shim give a meaning
// of their own. All other codes are the wrapped command's and pass unchanged.
//
// 124 to 127 are those of timeout(1), env(1) and nohup(1); 128+n is the
// shell's code for a command that died of signal n (bash(1), EXIT STATUS).
package exitcode

import "syscall"

const (
	// OK is success.
	OK = 0
	// TimedOut means that a wait timed out: --wait-for, --start-timeout.
	TimedOut = 124
	// Wrapper is an error of the wrapper's own, usage errors included. An end
	// that holds no code counts as Wrapper, too (design, 2.4).
	Wrapper = 125
	// NotExecutable means that the command was found but cannot be executed.
	NotExecutable = 126
	// NotFound means that the command was not found.
	NotFound = 127
	// signalBase is added to the number of the signal that a command died of.
	signalBase = 128
	// Lost is the code of a run whose owner was killed before it could record one.
	// It is that of SIGKILL, which no program can handle.
	Lost = signalBase + int(syscall.SIGKILL)
	// Max is the largest exit code of a process (wait(2)).
	Max = 255
)

// OfSignal is the exit code of a command that died of sig.
func OfSignal(sig syscall.Signal) int { return signalBase + int(sig) }

// Signal returns the signal that code stands for, and whether it stands for one. The
// command need not have died of it: it may also exit with such a code by itself.
func Signal(code int) (sig syscall.Signal, ok bool) {
	if code <= signalBase || code > signalBase+64 {
		return 0, false
	}
	return syscall.Signal(code - signalBase), true
}
