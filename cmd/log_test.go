package cmd_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/internal/testenv"
)

// fullPipe is a pipe into which nothing more fits, as stderr is when nobody reads the log.
func fullPipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	line := []byte("in the way\n")
	var err error
	for ; err == nil; _, err = unix.Write(fds[1], line) {
	}
	for len(line) > 1 { // what is left of the last page
		line = line[len(line)-1:]
		for err = nil; err == nil; _, err = unix.Write(fds[1], line) {
		}
	}
	if err != unix.EAGAIN {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(fds[1], false); err != nil {
		t.Fatal(err)
	}
	r, w = os.NewFile(uintptr(fds[0]), "reader"), os.NewFile(uintptr(fds[1]), "stderr")
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// TestLogThatNobodyReads: it holds up neither an end, nor a signal, nor an error.
func TestLogThatNobodyReads(t *testing.T) {
	t.Parallel()
	// Which command has started is seen on stdout.
	const ready = `echo ready; exec sleep 1000`
	for _, c := range []struct {
		name    string
		program string
		flags   string
		command []string
		signal  syscall.Signal // once it is ready; 0: none
		code    int
	}{
		{"a command ends", "sentinel", "", []string{"sh", "-c", "exit 3"}, 0, 3},
		{"a command is asked to end", "sentinel", "", []string{"sh", "-c", ready}, syscall.SIGTERM, 143},
		{"a command is not found", "sentinel", "", []string{"/nowhere"}, 0, 127},
		{"at every level", "sentinel", "--log-level trace", []string{"true"}, 0, 0},
		{"for people", "sentinel", "--log-format console", []string{"true"}, 0, 0},
		{"a sidecar ends", "shim", "", []string{"sh", "-c", "exit 4"}, 0, 4},
		{"a sidecar is asked to end", "shim", "--hold 0s --log-level trace", []string{"sh", "-c", ready}, syscall.SIGTERM, 143},
		{"no volume", "shim", "--dir /nowhere", []string{"true"}, 0, 125},
		{"a flag that is none", "sentinel", "--bogus", []string{"true"}, 0, 125},
		{"a flag that is none of shim's", "shim", "--bogus", []string{"true"}, 0, 125},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := testenv.FastVolume(t)
			_, w := fullPipe(t)
			flags := append([]string{"--dir", dir}, strings.Fields(c.flags)...)
			p := drive.Start(t, drive.Wrap(c.program, flags, c.command), func(cmd *exec.Cmd) { cmd.Stderr = w })
			if c.signal != 0 {
				p.Await("ready")
				p.Signal(c.signal)
			}
			p.Want(c.code)
		})
	}
	t.Run("main ends", func(t *testing.T) {
		t.Parallel()
		dir := testenv.FastVolume(t)
		_, w := fullPipe(t)
		s := drive.Start(t, drive.Wrap("shim", []string{"--dir", dir}, []string{"sh", "-c", ready}), func(cmd *exec.Cmd) { cmd.Stderr = w })
		s.Await("ready")
		drive.Start(t, drive.Wrap("sentinel", []string{"--dir", dir}, []string{"sh", "-c", "exit 3"}), func(cmd *exec.Cmd) { cmd.Stderr = w }).Want(3)
		s.Want(3)
	})
}

// TestDroppedLines: who reads again after a while is told how many lines are missing.
func TestDroppedLines(t *testing.T) {
	t.Parallel()
	dir := testenv.FastVolume(t)
	r, w := fullPipe(t)
	// Each signal is a look, and each look is a line.
	s := drive.Start(t, drive.Wrap("shim", []string{"--dir", dir, "--log-level", "trace"}, drive.Command("signals")), func(cmd *exec.Cmd) { cmd.Stderr = w })
	s.Await("ready")
	w.Close()
	for n := range 1500 {
		s.Signal(syscall.SIGUSR1)
		s.Await(fmt.Sprintf("got %d\n", n+1))
	}
	if err := unix.SetNonblock(int(r.Fd()), false); err != nil {
		t.Fatal(err)
	}
	lines, told := bufio.NewScanner(r), false
	for !told && lines.Scan() {
		told = strings.Contains(lines.Text(), `"dropped":`) && strings.Contains(lines.Text(), "lines of this log were dropped: nobody read stderr")
	}
	if !told {
		t.Errorf("nothing is said of dropped lines (%v)", lines.Err())
	}
}

// TestStderrThatDoesNotBlock: a command may make the stderr that it shares with its wrapper
// non-blocking. No line is lost then while nobody reads.
func TestStderrThatDoesNotBlock(t *testing.T) {
	t.Parallel()
	const looks = 100
	dir := testenv.FastVolume(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s := drive.Start(t, drive.Wrap("shim", []string{"--dir", dir, "--log-level", "trace"}, drive.Command("signals")), func(cmd *exec.Cmd) { cmd.Stderr = w })
	s.Await("ready")
	// The sidecar's stderr is this one, too.
	stderr := int(w.Fd()) // which makes it a blocking one, each time
	if err := unix.SetNonblock(stderr, true); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = unix.Write(stderr, []byte("\n"))
	}
	for n := range looks {
		s.Signal(syscall.SIGUSR1)
		s.Await(fmt.Sprintf("got %d\n", n+1))
	}
	w.Close()
	if err := r.SetReadDeadline(time.Now().Add(drive.Patience)); err != nil {
		t.Fatal(err)
	}
	looked := 0
	lines := bufio.NewScanner(r)
	for looked < looks && lines.Scan() {
		if line := lines.Text(); line != "" && !strings.HasSuffix(line, "}") {
			t.Errorf("a line is not whole: %s", line)
		}
		if strings.Contains(lines.Text(), "nothing to do") {
			looked++
		}
	}
	if looked < looks {
		t.Errorf("of %d looks only %d were logged (%v)", looks, looked, lines.Err())
	}
}

// countSignals is a sidecar that numbers the SIGUSR1 that it gets.
func countSignals([]string) int {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	fmt.Println("ready")
	for n := 1; ; n++ {
		<-signals
		fmt.Printf("got %d\n", n)
	}
}

// TestGarbage: what a container's environment says to Go's garbage collector is meant for the
// command. With GOGC=off a wrapper would never give back what a look and a log line take.
func TestGarbage(t *testing.T) {
	t.Parallel()
	dir := testenv.FastVolume(t)
	nowhere, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer nowhere.Close()
	s := drive.Start(t, drive.Wrap("shim", []string{"--dir", dir, "--log-level", "trace"}, drive.Command("signals")), func(cmd *exec.Cmd) {
		cmd.Stderr = nowhere
		cmd.Env = append(os.Environ(), "GOGC=off", "GOMEMLIMIT=off")
	})
	s.Await("ready")
	const signals, most = 10_000, 8 << 10
	before := drive.UsageOf(t, s.PID())
	for n := range signals {
		s.Signal(syscall.SIGUSR1)
		s.Await(fmt.Sprintf("got %d\n", n+1))
	}
	if grown := drive.UsageOf(t, s.PID()).Resident - before.Resident; grown > most {
		t.Errorf("it has grown by %d KiB in %d looks, at most %d are allowed", grown, signals, most)
	} else {
		t.Logf("it has grown by %d KiB in %d looks", grown, signals)
	}
}
