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
	// TimedOut says that what was waited for did not come in time:
	// --wait-for, --start-timeout.
	TimedOut = 124
	// Wrapper is the wrapper's own error, usage errors included. It is also
	// what an end that cannot be read counts as.
	Wrapper = 125
	// NotExecutable says that the command was found but cannot be executed.
	NotExecutable = 126
	// NotFound says that the command was not found.
	NotFound = 127
	// signalBase is added to the number of the signal that a command died of.
	signalBase = 128
	// Lost is what a run counts as whose owner was killed without a word.
	// Only SIGKILL leaves no word behind, so it is the code of a SIGKILL.
	Lost = signalBase + int(syscall.SIGKILL)
	// Max is the largest code that a process can exit with (wait(2)).
	Max = 255
)

// OfSignal is the exit code of a command that died of sig.
func OfSignal(sig syscall.Signal) int { return signalBase + int(sig) }

// Signal is the signal that a command with this exit code died of, as far as
// the code tells: a command may also exit with such a code by itself.
func Signal(code int) (sig syscall.Signal, ok bool) {
	if code <= signalBase || code > signalBase+64 {
		return 0, false
	}
	return syscall.Signal(code - signalBase), true
}
