package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
)

// A soak runs both programs for so long that anything that grows becomes visible.

const (
	// changesPerRun is how often TestSoak changes the file of a live main in each run.
	changesPerRun = 10
	// warmUp is how many runs come before those that are measured.
	warmUp = 30
	// soakPatience is how long TestSoak waits for anything. During such a long test the machine may be busy for a
	// while.
	soakPatience = 2 * time.Minute
)

var soakRuns = flag.Int("soak", 60, "how many runs of a sentinel the shim of TestSoak follows")

// TestSoak: a shim that follows many runs does not grow, nor do the sentinels, nor the volume.
//
// A look opens the file of a run that begins, ends or is killed. So that look is certain when inotify reports an open.
func TestSoak(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	opened := watchOpens(t, p.dir)
	// If the garbage collector runs often, the heap is hardly larger than the live data, and a leak shows.
	frugal := func(cmd *exec.Cmd) { cmd.Env = append(os.Environ(), "GOGC=10") }
	flags := p.flags("--keep-on-failure --log-level error")
	s := drive.Start(t, drive.Wrap("shim", flags, []string{"sleep", "infinity"}), frugal)

	began, changes, tenth := time.Now(), 0, max(*soakRuns/10, 1)
	var shims, sentinels []footprint
	for n := 1; n <= warmUp+*soakRuns; n++ {
		main := startMain(t, p)
		for range changesPerRun {
			now := time.Now()
			if err := os.Chtimes(p.path("main-running"), now, now); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond) // so that most changes cause a look of their own
			changes++
		}
		shims = append(shims, footprintOf(t, s.PID()))
		sentinels = append(sentinels, footprintOf(t, main.cmd.Process.Pid))

		opened.forget()
		if n%10 == 0 {
			main.kill()
			_ = main.cmd.Wait()
			opened.await("main-running", s)
			p.wantFiles("main-running", "proxy-running")
		} else {
			main.end(3)
			opened.await("main-terminated", s)
			p.wantFiles("main-terminated", "proxy-running")
		}
		if n > warmUp && (n-warmUp)%tenth == 0 {
			t.Logf("%s: %d runs, %d changes: shim %s; sentinel %s", time.Since(began).Round(time.Second), n, changes,
				typical(shims[n-tenth:]), typical(sentinels[n-tenth:]))
		}
	}
	startMain(t, p).end(0)
	s.Want(0)
	p.wantFiles("main-terminated", "proxy-terminated")

	wantNoGrowth(t, "the shim", shims[warmUp:warmUp+tenth], shims[len(shims)-tenth:])
	wantNoGrowth(t, "a sentinel", sentinels[warmUp:warmUp+tenth], sentinels[len(sentinels)-tenth:])
}

// wantNoGrowth compares the first footprints with the last. It allows a fixed growth: the more runs, the less each may
// leave behind.
func wantNoGrowth(t *testing.T, who string, first, last []footprint) {
	t.Helper()
	const (
		memory  = 2048 // KiB: how full the pages of a heap are depends on the time of the last collection
		threads = 3    // Go keeps all threads that it ever needed at once, for example for a collection
		files   = 1    // a look has a file open
	)
	before, after := typical(first), typical(last)
	if after.memory > before.memory+memory || after.threads > before.threads+threads ||
		after.files > before.files+files {
		t.Errorf("%s has grown: it had %s, and now has %s", who, before, after)
	}
}

// soakMain is a main in its sentinel.
type soakMain struct {
	t    *testing.T
	cmd  *exec.Cmd
	in   io.Writer
	kill func()
}

// startMain starts a main and returns when its run has begun: then its sentinel makes no more calls on the volume.
func startMain(t *testing.T, p pod) soakMain {
	t.Helper()
	argv := drive.Wrap("sentinel", []string{"--dir", p.dir, "--log-level", "error"},
		[]string{"sh", "-c", "echo begun; read code; exit $code"})
	// Not a drive.Process, which would exist until the end of the test.
	ctx, cancel := context.WithTimeout(t.Context(), soakPatience)
	m := soakMain{t: t, cmd: exec.CommandContext(ctx, argv[0], argv[1:]...), kill: cancel}
	m.cmd.Env = append(os.Environ(), "GOGC=10")
	m.cmd.Stderr = os.Stderr
	in, err := m.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "begun\n" {
		t.Fatalf("a main did not begin within %s: %q, %v", soakPatience, line, err)
	}
	m.in = in
	return m
}

// end makes the main exit, and waits for its sentinel, which must exit with the same code.
func (m soakMain) end(code int) {
	m.t.Helper()
	fmt.Fprintln(m.in, code)
	_ = m.cmd.Wait()
	m.kill() // stops the timer of the context
	if got := m.cmd.ProcessState.ExitCode(); got != code {
		m.t.Fatalf("a sentinel exited with %d, not %d", got, code)
	}
}

// opens reports when files in a directory are opened.
type opens struct {
	t      *testing.T
	events *os.File
	buffer [1 << 16]byte
}

// watchOpens watches a directory until the test ends.
func watchOpens(t *testing.T, dir string) *opens {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	events := os.NewFile(uintptr(fd), "inotify")
	t.Cleanup(func() { events.Close() })
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_OPEN); err != nil {
		t.Fatal(err)
	}
	return &opens{t: t, events: events}
}

// forget drops all reports so far.
func (o *opens) forget() {
	o.t.Helper()
	for {
		_, err := o.read(time.Now())
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		if err != nil {
			o.t.Fatal(err)
		}
	}
}

// await waits until file has been opened since forget.
func (o *opens) await(file string, by *drive.Process) {
	o.t.Helper()
	deadline := time.Now().Add(soakPatience)
	for {
		files, err := o.read(deadline)
		if err != nil {
			o.t.Fatalf("%s has not opened %s: %v\n%s", by, file, err, by.Output())
		}
		if slices.Contains(files, file) {
			return
		}
	}
}

// read waits for the next reports.
func (o *opens) read(deadline time.Time) (files []string, err error) {
	if err := o.events.SetReadDeadline(deadline); err != nil {
		return nil, err
	}
	n, err := o.events.Read(o.buffer[:])
	for rest := o.buffer[:max(n, 0)]; len(rest) > 0; { // see inotify(7)
		end := unix.SizeofInotifyEvent + binary.NativeEndian.Uint32(rest[12:])
		name, _, _ := bytes.Cut(rest[unix.SizeofInotifyEvent:end], []byte{0})
		files, rest = append(files, string(name)), rest[end:]
	}
	return files, err
}

// footprint is what a process holds.
type footprint struct {
	memory  int // KiB, without the pages of files
	threads int
	files   int // descriptors
}

func (f footprint) String() string {
	return fmt.Sprintf("%d KiB, %d threads, %d descriptors", f.memory, f.threads, f.files)
}

// footprintOf returns the footprint of a process.
func footprintOf(t *testing.T, pid int) footprint {
	t.Helper()
	u := drive.UsageOf(t, pid)
	return footprint{memory: u.Anonymous, threads: u.Threads, files: u.Files}
}

// typical returns the median of each figure, which ignores what exists only for a moment.
func typical(all []footprint) footprint {
	middle := func(figure func(footprint) int) int {
		var figures []int
		for _, f := range all {
			figures = append(figures, figure(f))
		}
		slices.Sort(figures)
		return figures[len(figures)/2]
	}
	return footprint{
		memory:  middle(func(f footprint) int { return f.memory }),
		threads: middle(func(f footprint) int { return f.threads }),
		files:   middle(func(f footprint) int { return f.files }),
	}
}
