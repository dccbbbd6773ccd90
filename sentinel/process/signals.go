package process

import (
	"fmt"
	"os"
	"os/signal"
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
	// About our own limits and log: see CatchSignals.
	syscall.SIGPIPE: true, syscall.SIGXFSZ: true, syscall.SIGXCPU: true,
	// Go's runtime keeps these: the profiler's, and those that the C library uses
	// for its threads.
	syscall.SIGPROF: true, 32: true, 33: true, 34: true,
}

// CatchSignals catches every signal that is to be forwarded, and returns the channel
// on which they arrive. It must be the first statement of main. Before it, for a
// millisecond or so, Go's runtime handles signals: it ends the program at HUP, INT,
// QUIT and TERM, and drops others, such as USR1 (design, 8).
//
// To catch a signal, the runtime wakes another thread and waits for it. For the
// real-time signals, half of all, CatchSignals does that in the background: a
// command is started only when all are caught.
//
// Signals that were inherited as ignored (SIGHUP under nohup(1), SIGINT in the
// background of a shell) stay ignored, and the command inherits that.
func CatchSignals() <-chan os.Signal {
	// Caught and dropped, so that they cannot kill us before the exit code is
	// recorded: a log line to a closed stderr raises SIGPIPE, one beyond
	// RLIMIT_FSIZE SIGXFSZ, and RLIMIT_CPU SIGXCPU (getrlimit(2)). They are about
	// the process that they hit; the command gets its own.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE, syscall.SIGXFSZ, syscall.SIGXCPU)

	// signal.Notify drops a signal if the channel is full.
	caught := make(chan os.Signal, 256)
	catch := func(from, to syscall.Signal) {
		for sig := from; sig <= to; sig++ {
			if !notForwarded[sig] && !signal.Ignored(sig) {
				signal.Notify(caught, sig)
			}
		}
	}
	catch(1, rtMin-1)
	catching.Go(func() { catch(rtMin, lastSignal) })
	return caught
}

// catching waits for what CatchSignals does in the background.
var catching sync.WaitGroup

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
