package process

import (
	"runtime"
	"sync"
)

// How many threads a program may need after the command has started, beside the one that started it.
const (
	// minThreads: one runs, two block in writes to the disk and to the log, and one waits for a timer.
	minThreads = 4
	// backgroundThreads: some more block in waits for runs' locks.
	backgroundThreads = 5
)

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
	done.Wait() // the threads are free only when their goroutines have ended
}
