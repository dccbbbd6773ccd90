package process

import (
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// lastSignal is Linux' SIGRTMAX.
const lastSignal = syscall.Signal(64)

// notForwarded are the signals that are never forwarded.
var notForwarded = map[syscall.Signal]bool{
	// No program can catch these two.
	syscall.SIGKILL: true, syscall.SIGSTOP: true,
	// SIGCHLD is about our own children. Go's scheduler raises SIGURG dozens of
	// times a second, to preempt its threads.
	syscall.SIGCHLD: true, syscall.SIGURG: true,
	// Faults are about the process that they hit, which is us.
	syscall.SIGSEGV: true, syscall.SIGBUS: true, syscall.SIGFPE: true, syscall.SIGILL: true,
	syscall.SIGABRT: true, syscall.SIGTRAP: true, syscall.SIGSYS: true,
	// About our own limits and log.
	syscall.SIGPIPE: true, syscall.SIGXFSZ: true, syscall.SIGXCPU: true,
	// Go's runtime keeps these: the profiler's, and those that the C library uses
	// for its threads.
	syscall.SIGPROF: true, 32: true, 33: true, 34: true,
}

// first are the signals that are caught at once: those of users that end a program which
// does not handle them, and those that users send to a command as soon as it is ready.
var first = []syscall.Signal{
	syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2,
}

// caught gets all signals that are to be forwarded, dropped those that are not.
// signal.Notify drops a signal if the channel is full.
var (
	caught  = make(chan os.Signal, 256)
	dropped = make(chan os.Signal, 1)
)

// CatchSignals catches HUP, INT, QUIT, TERM, USR1 and USR2, and returns the channel on
// which they arrive. It must be the first statement of main: before it, for a millisecond
// or so, Go's runtime ends the program at the first four, and drops the others (design, 8).
//
// Signals that were inherited as ignored (SIGHUP under nohup(1), SIGINT in the
// background of a shell) stay ignored, and the command inherits that.
func CatchSignals() <-chan os.Signal {
	othersPending = true
	// A log line beyond RLIMIT_FSIZE raises it (getrlimit(2)). It must not kill us before
	// the exit code is recorded.
	signal.Notify(dropped, syscall.SIGXFSZ)
	for _, sig := range first {
		Catch(sig)
	}
	return caught
}

// Catch catches a signal that is to be forwarded, on the channel of CatchSignals.
func Catch(sig syscall.Signal) {
	if !notForwarded[sig] && !signal.Ignored(sig) {
		signal.Notify(caught, sig)
	}
}

// CatchOtherSignals catches the rest of what is to be forwarded, on the channel of
// CatchSignals, if that was called. Start does so when the command has started: to catch a
// signal, Go's runtime wakes another thread and waits for it, and for all signals that takes
// as long as the rest of the start. Until then it drops them, as the kernel drops what
// process 1 of a container does not handle yet. A program that waits before it starts the
// command calls it itself: the runtime does not drop all of them (TSTP).
func CatchOtherSignals() {
	if !othersPending {
		return
	}
	othersPending = false
	// The caller may be locked to its thread (StartHere), which would make each wake-up two.
	var done sync.WaitGroup
	done.Go(func() {
		// SIGXCPU is about our own limit (RLIMIT_CPU); the command gets its own.
		signal.Notify(dropped, syscall.SIGPIPE, syscall.SIGXCPU)
		for sig := syscall.Signal(1); sig <= lastSignal; sig++ {
			if !slices.Contains(first, sig) {
				Catch(sig)
			}
		}
	})
	done.Wait()
}

// othersPending is true from CatchSignals to CatchOtherSignals.
var othersPending bool

// rtMin is SIGRTMIN for kill -l and Docker's STOPSIGNAL: the C library keeps the first
// two of the kernel's real-time signals for itself (signal(7)).
const rtMin = syscall.Signal(34)

// SignalName is the name of sig: "SIGTERM", "SIGRTMIN+3".
func SignalName(sig syscall.Signal) string {
	name := unix.SignalName(sig)
	switch {
	case name != "":
		return name
	case sig == rtMin:
		return "SIGRTMIN"
	case sig > rtMin && sig <= lastSignal:
		return fmt.Sprintf("SIGRTMIN+%d", sig-rtMin)
	}
	return fmt.Sprintf("signal %d", int(sig))
}

// ParseSignal reads a signal as kill(1) does: a name, with or without SIG and in
// either case, or a number from 1 to 64. "RTMIN+n" and "RTMAX-n" are names. The
// error quotes s and says what is allowed.
func ParseSignal(s string) (syscall.Signal, error) {
	name := strings.TrimPrefix(strings.Map(upper, s), "SIG")
	if sig := unix.SignalNum("SIG" + name); sig != 0 {
		return sig, nil
	}
	base, sign, number := syscall.Signal(0), syscall.Signal(1), s
	switch {
	case name == "RTMIN":
		return rtMin, nil
	case name == "RTMAX":
		return lastSignal, nil
	case strings.HasPrefix(name, "RTMIN+"):
		base, number = rtMin, name[len("RTMIN+"):]
	case strings.HasPrefix(name, "RTMAX-"):
		base, sign, number = lastSignal, -1, name[len("RTMAX-"):]
	}
	n, err := strconv.ParseUint(number, 10, 8)
	sig := base + sign*syscall.Signal(n)
	if err != nil || sig < 1 || sig > lastSignal || (base != 0 && sig < rtMin) {
		return 0, fmt.Errorf("%q is no signal: give a name (TERM, SIGTERM, RTMIN+3) or a number from 1 to 64", s)
	}
	return sig, nil
}

// upper makes ASCII letters upper case, and no others: strings.ToUpper would make ſ an S.
func upper(r rune) rune {
	if 'a' <= r && r <= 'z' {
		return r - 'a' + 'A'
	}
	return r
}
