//go:build crashpoints

// Package crashpoint names the steps of a program at which tests kill or stop it. With the
// build tag crashpoints, a program does that to itself, as its environment says:
//
//	CRASHPOINT=end.renamed          it kills itself when that step is done
//	CRASHPOINT=end.renamed:stop     it stops itself, until SIGCONT
//	CRASHPOINT=end.renamed:kill:2   the second time, and not the first
//
// Before that it writes "crashpoint" and the step's name to stderr.
package crashpoint

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

var (
	point, action = "", unix.SIGKILL
	remaining     atomic.Int64 // how often the point is still to be reached
)

func init() {
	words := strings.Split(os.Getenv("CRASHPOINT"), ":")
	point = words[0]
	remaining.Store(1)
	if len(words) > 1 && words[1] == "stop" {
		action = unix.SIGSTOP
	}
	if len(words) > 2 {
		n, err := strconv.ParseInt(words[2], 10, 64)
		if err != nil {
			panic(err)
		}
		remaining.Store(n)
	}
}

// At marks that the step with this name is done.
func At(name string) {
	if name != point || remaining.Add(-1) != 0 {
		return
	}
	_, _ = unix.Write(2, []byte("crashpoint "+name+"\n"))
	// Signal this thread: with kill(2), another one may take the signal, and this one would
	// run on until the whole process is stopped or dead.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_ = unix.Tgkill(unix.Getpid(), unix.Gettid(), action)
}
