//go:build crashpoints

// Package crashpoint names the steps of a program at which tests kill or stop it. With the
// build tag crashpoints, a program does that to itself, as its environment says:
//
//	CRASHPOINT=shim.begun        it kills itself when that step is done
//	CRASHPOINT=shim.begun:stop   it stops itself, once, until SIGCONT
//
// Before that it writes "crashpoint" and the step's name to stderr.
//
// A system call needs no crash point behind it: ptrace stops a program at each of its calls (cmd/internal/ptrace).
package crashpoint

import (
	"os"
	"runtime"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

var (
	point, action = "", unix.SIGKILL
	reached       atomic.Bool
)

func init() {
	var stop bool
	if point, stop = strings.CutSuffix(os.Getenv("CRASHPOINT"), ":stop"); stop {
		action = unix.SIGSTOP
	}
}

// At marks that the step with this name is done.
func At(name string) {
	if name != point || reached.Swap(true) {
		return
	}
	_, _ = unix.Write(2, []byte("crashpoint "+name+"\n"))
	// Signal this thread: with kill(2), another one may take the signal, and this one would
	// run on until the whole process is stopped or dead.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_ = unix.Tgkill(unix.Getpid(), unix.Gettid(), action)
}
