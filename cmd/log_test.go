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
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// fullPipe returns a pipe with no room left, as stderr is if no process reads the log.
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
	for len(line) > 1 { // the rest of the last page
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

// stderrTo makes a command write its stderr to a file.
func stderrTo(w *os.File) func(*exec.Cmd) { return func(cmd *exec.Cmd) { cmd.Stderr = w } }

// loggingShim starts a shim that logs each look to w, around countSignals. Each SIGUSR1 causes a look.
func loggingShim(t *testing.T, w *os.File, changes ...func(*exec.Cmd)) *drive.Process {
	t.Helper()
	flags := []string{"--dir", testenv.FastVolume(t), "--log-level", "trace"}
	s := drive.Start(t, drive.Wrap("shim", flags, drive.Command("signals")), append(changes, stderrTo(w))...)
	s.Await("ready")
	return s
}

// signalled sends SIGUSR1 to a loggingShim n times, and waits each time until its sidecar has got it.
func signalled(s *drive.Process, n int) {
	for i := range n {
		s.Signal(syscall.SIGUSR1)
		s.Await(fmt.Sprintf("got %d\n", i+1))
	}
}

// TestLogThatNobodyReads: a full stderr delays neither an end, nor a signal, nor an error.
func TestLogThatNobodyReads(t *testing.T) {
	t.Parallel()
	// On stdout, which has a reader.
	const ready = `echo ready; exec sleep 1000`
	for _, c := range []struct {
		name    string
		program string
		flags   string
		command []string
		signal  syscall.Signal // when the command is ready; 0: none
		code    int
	}{
		{"a command ends", "sentinel", "", []string{"sh", "-c", "exit 3"}, 0, 3},
		{"a command is asked to end", "sentinel", "", []string{"sh", "-c", ready}, syscall.SIGTERM, 143},
		{"a command is not found", "sentinel", "", []string{"/nowhere"}, 0, 127},
		{"at every level", "sentinel", "--log-level trace", []string{"true"}, 0, 0},
		{"for people", "sentinel", "--log-format console", []string{"true"}, 0, 0},
		{"a sidecar ends", "shim", "", []string{"sh", "-c", "exit 4"}, 0, 4},
		{"a sidecar is asked to end", "shim", "--hold 0s --log-level trace",
			[]string{"sh", "-c", ready}, syscall.SIGTERM, 143},
		{"no volume", "shim", "--dir /nowhere", []string{"true"}, 0, 125},
		{"an unknown flag of sentinel", "sentinel", "--bogus", []string{"true"}, 0, 125},
		{"an unknown flag of shim", "shim", "--bogus", []string{"true"}, 0, 125},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := testenv.FastVolume(t)
			_, w := fullPipe(t)
			flags := append([]string{"--dir", dir}, strings.Fields(c.flags)...)
			p := drive.Start(t, drive.Wrap(c.program, flags, c.command), stderrTo(w))
			if c.signal != 0 {
				p.Await("ready")
				p.Signal(c.signal)
			}
			p.Want(c.code)
		})
	}
	t.Run("main ends", func(t *testing.T) {
		t.Parallel()
		flags := []string{"--dir", testenv.FastVolume(t)}
		_, w := fullPipe(t)
		s := drive.Start(t, drive.Wrap("shim", flags, []string{"sh", "-c", ready}), stderrTo(w))
		s.Await("ready")
		drive.Start(t, drive.Wrap("sentinel", flags, []string{"sh", "-c", "exit 3"}), stderrTo(w)).Want(3)
		s.Want(3)
	})
}

// TestDroppedLines: a reader that comes back after a while learns how many lines are missing.
func TestDroppedLines(t *testing.T) {
	t.Parallel()
	r, w := fullPipe(t)
	s := loggingShim(t, w)
	w.Close()
	signalled(s, 1500)
	if err := unix.SetNonblock(int(r.Fd()), false); err != nil {
		t.Fatal(err)
	}
	lines, told := bufio.NewScanner(r), false
	for !told && lines.Scan() {
		told = strings.Contains(lines.Text(), `"dropped":`) &&
			strings.Contains(lines.Text(), "lines of this log were dropped: nobody read stderr")
	}
	if !told {
		t.Errorf("no line tells of dropped lines (%v)", lines.Err())
	}
}

// TestStderrThatDoesNotBlock: a command may make the stderr that it shares with its wrapper non-blocking. No line is
// lost then while no process reads.
func TestStderrThatDoesNotBlock(t *testing.T) {
	t.Parallel()
	const looks = 100
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s := loggingShim(t, w)
	// The sidecar has the same stderr.
	stderr := int(w.Fd()) // only once: it makes stderr a blocking one again
	if err := unix.SetNonblock(stderr, true); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = unix.Write(stderr, []byte("\n"))
	}
	signalled(s, looks)
	w.Close()
	if err := r.SetReadDeadline(time.Now().Add(drive.Patience)); err != nil {
		t.Fatal(err)
	}
	looked := 0
	lines := bufio.NewScanner(r)
	for looked < looks && lines.Scan() {
		if line := lines.Text(); line != "" && !strings.HasSuffix(line, "}") {
			t.Errorf("a line is incomplete: %s", line)
		}
		if strings.Contains(lines.Text(), "nothing to do") {
			looked++
		}
	}
	if looked < looks {
		t.Errorf("%d of %d looks are in the log (%v)", looked, looks, lines.Err())
	}
}

// countSignals is a mode: a sidecar that counts the SIGUSR1 that it gets.
func countSignals([]string) int {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	fmt.Println("ready")
	for n := 1; ; n++ {
		<-signals
		fmt.Printf("got %d\n", n)
	}
}

// TestGarbage: the settings of Go's garbage collector in a container's environment are meant for the command. With
// GOGC=off a wrapper would never free the memory of a look and a log line.
func TestGarbage(t *testing.T) {
	t.Parallel()
	nowhere, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer nowhere.Close()
	s := loggingShim(t, nowhere, func(cmd *exec.Cmd) {
		cmd.Env = append(os.Environ(), "GOGC=off", "GOMEMLIMIT=off")
	})
	const signals, most = 10_000, 8 << 10
	before := drive.UsageOf(t, s.PID())
	signalled(s, signals)
	if grown := drive.UsageOf(t, s.PID()).Resident - before.Resident; grown > most {
		t.Errorf("the shim has grown by %d KiB in %d looks, at most %d are allowed", grown, signals, most)
	} else {
		t.Logf("the shim has grown by %d KiB in %d looks", grown, signals)
	}
}
