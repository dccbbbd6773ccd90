//go:build crashpoints

// Package crashpoint names the steps at which a program may be killed, for the tests that
// do so. Built with the tag crashpoints, a program does to itself what its environment
// says:
//
//	CRASHPOINT=end.renamed          it kills itself when that step is done
//	CRASHPOINT=end.renamed:stop     it stops itself, until SIGCONT
//	CRASHPOINT=end.renamed:kill:2   the second time, and not the first
//
// Before that it says so on stderr.
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
	left          atomic.Int64 // how many times it is still to come to the point
)

func init() {
	words := strings.Split(os.Getenv("CRASHPOINT"), ":")
	point = words[0]
	left.Store(1)
	if len(words) > 1 && words[1] == "stop" {
		action = unix.SIGSTOP
	}
	if len(words) > 2 {
		n, err := strconv.ParseInt(words[2], 10, 64)
		if err != nil {
			panic(err)
		}
		left.Store(n)
	}
}

// At is called where a step is done.
func At(name string) {
	if name != point || left.Add(-1) != 0 {
		return
	}
	_, _ = unix.Write(2, []byte("crashpoint "+name+"\n"))
	// A signal to the process may be another thread's to take, and this one would go on
	// until that is done.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_ = unix.Tgkill(unix.Getpid(), unix.Gettid(), action)
}
