// Package drive runs the built programs in tests as a user would. It builds them once for each test binary,
// starts them, and waits for lines of their output.
//
// The commands that they wrap may be modes of the test binary itself (see [Command]).
package drive

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// Patience is how long a test waits for anything before it fails.
const Patience = 20 * time.Second

// Modes are the wrapped commands that a test binary can run as.
type Modes = testenv.Modes

var directory string // of the built programs

// Main is for TestMain. If the arguments name a mode (see Command), it runs the mode; else it builds the
// programs and runs the tests. It does not return.
func Main(m *testing.M, modes Modes) {
	testenv.RunMode(modes)
	os.Exit(run(m))
}

// prepare lets more tests run at once than there are processors, because they mostly wait.
func prepare() error {
	flag.Parse()
	return flag.Set("test.parallel", "10")
}

func run(m *testing.M) int {
	err := prepare()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if directory, err = os.MkdirTemp("", "drive-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(directory)
	if err := os.Chmod(directory, 0o755); err != nil { // tests also run the programs as other users
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := build(directory); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// build builds the programs as they are released. It does not use the race detector, which would make them slow and
// large; the tests of the packages use it.
func build(into string, tags ...string) error {
	_, here, _, _ := runtime.Caller(0)
	cmd := exec.Command("cmd/build", append([]string{into}, tags...)...)
	cmd.Dir = filepath.Join(filepath.Dir(here), "../../..")
	cmd.Env = append(os.Environ(), "VERSION=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cmd/build: %w\n%s", err, out)
	}
	return nil
}

// Tagged builds the programs with an additional build tag and returns their directory. The end of the test
// removes it.
func Tagged(t testing.TB, tag string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := build(dir, tag); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Program returns the path of a built program, "sentinel" or "shim".
func Program(name string) string { return filepath.Join(directory, name) }

// Command returns the command line that runs a mode of the test binary.
func Command(mode string, args ...string) []string { return testenv.Command(mode, args...) }

// Wrap returns the command line of a program that wraps a command: PROGRAM FLAGS -- COMMAND.
func Wrap(program string, flags []string, command []string) []string {
	argv := append([]string{Program(program)}, flags...)
	return append(append(argv, "--"), command...)
}

// Process is a process that a test has started.
type Process struct {
	t   testing.TB
	cmd *exec.Cmd

	mu     sync.Mutex
	output bytes.Buffer
	rest   []byte        // the beginning of a line that is not complete yet
	more   chan struct{} // closed and replaced when there is more output
	ended  bool          // no more output will come

	exited chan struct{} // closed when the process has ended and its output has been read
}

// Start starts a command line. Before that, it applies changes to the command. The end of the test kills
// the process if it still runs.
func Start(t testing.TB, argv []string, changes ...func(*exec.Cmd)) *Process {
	t.Helper()
	p := &Process{
		t: t, cmd: exec.Command(argv[0], argv[1:]...),
		more: make(chan struct{}), exited: make(chan struct{}),
	}
	for _, change := range changes {
		change(p.cmd)
	}
	// Not a pipe of package exec: Wait would block until all descendants have closed it.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if p.cmd.Stdout == nil {
		p.cmd.Stdout = w
	}
	if p.cmd.Stderr == nil {
		p.cmd.Stderr = w
	}
	err = p.cmd.Start()
	w.Close()
	if err != nil {
		r.Close()
		t.Fatalf("%s: %v", strings.Join(argv, " "), err)
	}
	waited := make(chan struct{})
	go func() {
		_ = p.cmd.Wait()
		close(waited)
		_ = r.SetReadDeadline(time.Now()) // wakes Process.read
	}()
	go p.read(r, waited)
	t.Cleanup(func() {
		p.Kill()
		<-p.exited
		r.Close()
	})
	return p
}

// read reads the output until no process can write to it any more. It closes exited earlier, when the process
// has ended and all its output has been read: descendants may live longer.
func (p *Process) read(r *os.File, waited <-chan struct{}) {
	buffer := make([]byte, 64<<10)
	drained := false
	for {
		n, err := r.Read(buffer)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			drained, err = true, p.drain(r, buffer)
			close(p.exited)
		}
		p.add(buffer[:n], err != nil, err != nil)
		if err == nil {
			continue
		}
		if !drained {
			<-waited
			close(p.exited)
		}
		return
	}
}

// drain reads what the pipe holds now. It does not block.
func (p *Process) drain(r *os.File, buffer []byte) error {
	pipe, err := r.SyscallConn()
	if err != nil {
		return err
	}
	if err := r.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	return pipe.Read(func(fd uintptr) (done bool) {
		for {
			n, err := syscall.Read(int(fd), buffer)
			if n > 0 {
				p.add(buffer[:n], false, false)
			} else if err != syscall.EINTR {
				p.add(nil, true, false)
				return true // the pipe is empty, or closed
			}
		}
	})
}

// add adds text to the output: all of it if all is set, else up to the end of the last complete line. ended
// says that no more output will come.
func (p *Process) add(text []byte, all, ended bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rest = append(p.rest, text...)
	end := bytes.LastIndexByte(p.rest, '\n') + 1
	if all {
		end = len(p.rest)
	}
	p.output.Write(p.rest[:end])
	p.rest, p.ended = p.rest[end:], ended
	close(p.more)
	p.more = make(chan struct{})
}

// Output returns everything that the process and its descendants have written so far.
func (p *Process) Output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.String()
}

// Await waits until the output holds text. It fails the test after Patience, or if no more output can come.
func (p *Process) Await(text string) {
	p.t.Helper()
	p.AwaitCount(text, 1)
}

// AwaitCount is Await for n occurrences of text.
func (p *Process) AwaitCount(text string, n int) {
	p.t.Helper()
	deadline := time.After(Patience)
	for {
		p.mu.Lock()
		seen, ended, more := strings.Count(p.output.String(), text), p.ended, p.more
		p.mu.Unlock()
		if seen >= n {
			return
		}
		if ended {
			p.t.Fatalf("%s ended, but has written %q %d times, want %d:\n%s", p, text, seen, n, p.Output())
		}
		select {
		case <-more:
		case <-deadline:
			p.t.Fatalf("%s has written %q %d times within %s, want %d:\n%s", p, text, seen, Patience, n, p.Output())
		}
	}
}

// AwaitUnlessExited waits until the output holds text, or the process has exited without writing it. It reports
// whether the output holds text.
func (p *Process) AwaitUnlessExited(text string) bool {
	p.t.Helper()
	deadline := time.After(Patience)
	for exited := false; ; {
		p.mu.Lock()
		seen, more := strings.Contains(p.output.String(), text), p.more
		p.mu.Unlock()
		if seen || exited {
			return seen
		}
		select {
		case <-more:
		case <-p.exited:
			exited = true
		case <-deadline:
			p.t.Fatalf("%s has neither written %q nor exited within %s:\n%s", p, text, Patience, p.Output())
		}
	}
}

// AwaitAll waits until no more output can come: the process and its descendants have ended.
func (p *Process) AwaitAll() {
	p.t.Helper()
	deadline := time.After(Patience)
	for {
		p.mu.Lock()
		ended, more := p.ended, p.more
		p.mu.Unlock()
		if ended {
			return
		}
		select {
		case <-more:
		case <-deadline:
			p.t.Fatalf("%s, or a process that it has started, has not ended within %s:\n%s", p, Patience, p.Output())
		}
	}
}

// Exited returns a channel that is closed when the process has ended and Output holds all that it wrote.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Code waits until Exited is closed and returns the exit code of the process, 128+n for signal n.
func (p *Process) Code() int {
	p.t.Helper()
	ws := p.Status()
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}

// Status waits until Exited is closed and returns how the process ended.
func (p *Process) Status() syscall.WaitStatus {
	p.t.Helper()
	select {
	case <-p.exited:
	case <-time.After(Patience):
		p.t.Fatalf("%s has not ended within %s:\n%s", p, Patience, p.Output())
	}
	return p.cmd.ProcessState.Sys().(syscall.WaitStatus)
}

// Want waits for the end of the process, and fails the test if its exit code is not code.
func (p *Process) Want(code int) {
	p.t.Helper()
	if got := p.Code(); got != code {
		p.t.Fatalf("%s exited with %d, want %d:\n%s", p, got, code, p.Output())
	}
}

// PID returns the process ID.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends a signal to the process.
func (p *Process) Signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatalf("%s: %v: %v\n%s", p, sig, err, p.Output())
	}
}

// Kill kills the process if it has not ended.
func (p *Process) Kill() { _ = p.cmd.Process.Kill() }

func (p *Process) String() string { return strings.Join(p.cmd.Args, " ") }

// Eventually waits until a condition holds, by looking again and again: for what nothing reports.
func Eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(Patience); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", Patience, what)
		}
	}
}
