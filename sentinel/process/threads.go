package process

import (
	"runtime"
	"sync"
)

// prestarted are as many threads as can wait in the kernel at once, for what a program
// does after the command's start: the end of a child, of another run's lock, of a write to
// disk or to the log. It is more than a sentinel needs, and enough for a shim of several
// mains.
const prestarted = 5

// prestartThreads makes threads, which Go keeps for whoever needs one later. Later there may be
// none to be had: a command that has used up the processes of its container (pids.max,
// RLIMIT_NPROC) takes them from us, too, and Go's runtime gives up the whole program,
// with exit code 2, where it cannot make a thread.
func prestartThreads(threads int) {
	var waiting, done sync.WaitGroup
	release := make(chan struct{})
	waiting.Add(threads)
	for range threads {
		done.Go(func() {
			runtime.LockOSThread() // so that it waits in a thread of its own
			defer runtime.UnlockOSThread()
			waiting.Done()
			<-release
		})
	}
	waiting.Wait()
	close(release)
	done.Wait()
}
