package app

import (
	"bytes"
	"io"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxLines is how many log lines wait, at most, until stderr is read. Then the oldest is dropped: the
	// newest says why the program has ended.
	maxLines = 1000
	// flushWait is how long, at most, an exit waits until the remaining lines are written.
	flushWait = time.Second
)

// logBuffer writes log lines in the background. Stderr may be a pipe that nobody reads (a blocking log
// driver, Ctrl-S on a terminal), and must not delay the end of a pod.
//
// zerolog's package diode does the same, but can lose a wake-up: a line then stays in it until the next
// one comes (cloudfoundry/go-diodes#91; zerolog's copy lacks the fix).
type logBuffer struct {
	lines   chan []byte
	written chan struct{} // closed when the last line has been written

	mu      sync.Mutex
	dropped int  // since the last report
	flushed bool // lines are discarded from now on
}

// newLogBuffer returns a buffer in front of out. After lines were dropped, it calls report with their number
// before it writes the next line. out and report may block.
func newLogBuffer(out io.Writer, report func(dropped int)) *logBuffer {
	b := &logBuffer{lines: make(chan []byte, maxLines), written: make(chan struct{})}
	go func() {
		defer close(b.written)
		for line := range b.lines {
			if n := b.takeDropped(); n > 0 {
				report(n)
			}
			_, _ = out.Write(line) // an error can be reported nowhere: out is the log
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
		default: // the buffer has just been emptied
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

// flush blocks until all lines are written, at most flushWait. It may be called once. Lines that are
// written later are discarded.
//
// It sleeps without a Go timer: a timer needs an epoll descriptor, and where none is left, Go's runtime
// ends the program with exit code 2.
func (b *logBuffer) flush() {
	b.mu.Lock()
	b.flushed = true
	close(b.lines)
	b.mu.Unlock()
	pause := 10 * time.Microsecond // about what one write takes
	for began := time.Now(); time.Since(began) < flushWait; pause = min(2*pause, flushWait/100) {
		runtime.Gosched() // lets the writer run if there is no other thread for it
		select {
		case <-b.written:
			return
		default:
		}
		sleep := unix.NsecToTimespec(int64(pause))
		_ = unix.Nanosleep(&sleep, nil)
	}
}

// stderr is a writer to standard error that blocks even in non-blocking mode. The command shares it with the wrapper:
// O_NONBLOCK, set by one, applies to both (fcntl(2)). To write to os.Stderr would end the program if nobody can read it
// any more (os/signal, SIGPIPE).
type stderr struct{ fd int }

func (s stderr) Write(line []byte) (n int, err error) {
	for n < len(line) && err == nil {
		var more int
		more, err = unix.Write(s.fd, line[n:])
		n += max(more, 0)
		switch err {
		case unix.EINTR:
			err = nil
		case unix.EAGAIN:
			writable := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLOUT}}
			if _, err = unix.Poll(writable, -1); err == unix.EINTR {
				err = nil
			}
		}
	}
	return n, err
}
