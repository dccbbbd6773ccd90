package process

import (
	"runtime"
	"sync"
)

// blockedThreads is how many threads may block in the kernel at once after the command has
// started: in waits for a child or a run's lock, in writes to the disk or the log. A sentinel
// needs fewer; it is enough for a shim of several mains.
const blockedThreads = 5

// prestartThreads creates threads, which Go's runtime keeps for later use. Later it may be
// unable to create one, because the command has used up the processes of the container
// (pids.max, RLIMIT_NPROC). The runtime then ends the whole program with exit code 2.
func prestartThreads(threads int) {
	var waiting, done sync.WaitGroup
	release := make(chan struct{})
	waiting.Add(threads)
	for range threads {
		done.Go(func() {
			runtime.LockOSThread() // one thread for each goroutine
			defer runtime.UnlockOSThread()
			waiting.Done()
			<-release
		})
	}
	waiting.Wait()
	close(release)
	done.Wait()
}
