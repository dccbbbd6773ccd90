package app

import (
	"bytes"
	"errors"
	"io"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxLines is how many log lines wait at most for somebody to read stderr. Then the oldest
	// is dropped: the newest says why a program has ended.
	maxLines = 1000
	// flushWait is for how long at most an exit waits for the rest to be read.
	flushWait = time.Second
)

// logBuffer writes log lines in the background. Stderr may be a pipe that nobody reads (a
// blocking log driver, Ctrl-S on a terminal), and what decides when a pod ends must not wait
// for it. zerolog's package diode does the same, but a line may stay in it until the next one
// comes: a wake-up gets lost there (cloudfoundry/go-diodes#91, which zerolog's copy is without).
type logBuffer struct {
	lines   chan []byte
	written chan struct{} // closed when the last line has been

	mu      sync.Mutex
	dropped int  // since that was last told
	flushed bool // what comes now comes too late
}

// newLogBuffer returns a buffer in front of out. tell is called with the number of dropped lines
// before the line behind them is written, and may block as out may.
func newLogBuffer(out io.Writer, tell func(dropped int)) *logBuffer {
	b := &logBuffer{lines: make(chan []byte, maxLines), written: make(chan struct{})}
	go func() {
		defer close(b.written)
		for line := range b.lines {
			if n := b.takeDropped(); n > 0 {
				tell(n)
			}
			_, _ = out.Write(line) // whoever closed it wants no log
		}
	}()
	return b
}

// Write takes one line. It never blocks and never fails.
func (b *logBuffer) Write(line []byte) (n int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for !b.flushed {
		select {
		case b.lines <- bytes.Clone(line):
			return len(line), nil
		default:
		}
		select {
		case <-b.lines:
			b.dropped++
		default: // it was just written
		}
	}
	return len(line), nil
}

func (b *logBuffer) takeDropped() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, b.dropped = b.dropped, 0
	return n
}

// flush waits until all is written, at most flushWait. It is called once, at the end. It sleeps
// without a timer of Go's, which would need an epoll descriptor and end the program with exit
// code 2 where none is left.
func (b *logBuffer) flush() {
	b.mu.Lock()
	b.flushed = true
	close(b.lines)
	b.mu.Unlock()
	pause := 10 * time.Microsecond // about what one write takes
	for began := time.Now(); time.Since(began) < flushWait; pause = min(2*pause, flushWait/100) {
		runtime.Gosched() // where there is no other thread for the writer, it has this one
		select {
		case <-b.written:
			return
		default:
		}
		sleep := unix.NsecToTimespec(int64(pause))
		_ = unix.Nanosleep(&sleep, nil)
	}
}

// patient is a file whose Write waits for the reader even where the file does not block. The
// command shares stderr with us, and what it sets there (O_NONBLOCK) holds for us, too: fcntl(2).
type patient struct{ *os.File }

func (p patient) Write(line []byte) (n int, err error) {
	for {
		var more int
		more, err = p.File.Write(line[n:])
		n += more
		if !errors.Is(err, unix.EAGAIN) {
			return n, err
		}
		writable := []unix.PollFd{{Fd: int32(p.Fd()), Events: unix.POLLOUT}}
		if _, pollErr := unix.Poll(writable, -1); pollErr != nil && pollErr != unix.EINTR {
			return n, err
		}
	}
}
