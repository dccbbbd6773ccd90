// Package drive is for tests that drive the built programs as a user would: it
// builds them once for a test binary, starts them, and waits for lines of their output.
//
// The commands that they wrap are modes of the test binary itself ([Command]), so that
// nothing but Go is needed.
package drive

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Patience is for how long a test waits for anything before it fails.
const Patience = 20 * time.Second

// modeArg as the first argument makes the test binary one of its modes.
const modeArg = "drive:mode"

// Modes are what a test binary can be as a wrapped command, by name. Each gets the
// arguments behind the name and returns the exit code.
type Modes map[string]func(args []string) int

var directory string // where the programs were built

// Main is for TestMain: it is one of the modes if the arguments say so; else it builds
// the programs and runs the tests.
func Main(m *testing.M, modes Modes) {
	os.Exit(run(m, modes))
}

// prepare makes the test binary independent of what has started it, and quick.
func prepare() error {
	// The programs do not forward what they have inherited as ignored (under nohup).
	// What is caught here is not ignored there.
	for _, sig := range []os.Signal{syscall.SIGHUP, syscall.SIGINT} {
		if signal.Ignored(sig) {
			signal.Notify(make(chan os.Signal, 1), sig)
		}
	}
	// Under the race detector a mode would sleep for a second at its end. And most of
	// the tests wait most of the time: more at once than there are processors.
	flag.Parse()
	return errors.Join(
		os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE")),
		flag.Set("test.parallel", "10"))
}

func run(m *testing.M, modes Modes) int {
	if len(os.Args) > 2 && os.Args[1] == modeArg {
		mode, ok := modes[os.Args[2]]
		if !ok {
			fmt.Fprintf(os.Stderr, "no mode %q\n", os.Args[2])
			return 100
		}
		return mode(os.Args[3:])
	}
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
	if err := os.Chmod(directory, 0o755); err != nil { // tests may run them as other users
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := build(directory); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// build builds the programs as they are released: without the race detector, which
// would make them slow and large. The packages' own tests run under it.
func build(into string, tags ...string) error {
	_, here, _, _ := runtime.Caller(0)
	tags = append(tags, "urfave_cli_no_docs")
	args := []string{"build", "-trimpath", "-buildvcs=false", "-tags", strings.Join(tags, ",")}
	// As in the Makefile.
	args = append(args, "-gcflags", "all=-l")
	for _, urgent := range []string{"runtime", "internal", "sync", "syscall", "github.com/fsnotify/fsnotify", "github.com/sentinel-shim/sentinel-shim"} {
		args = append(args, "-gcflags", urgent+"/...=")
	}
	cmd := exec.Command("go", append(args, "-ldflags", "-s -w", "-o", into+"/", "./cmd/sentinel", "./cmd/shim")...)
	cmd.Dir = filepath.Join(filepath.Dir(here), "../../..")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// Tagged builds the programs with another build tag, for the time of a test, and returns
// the directory that they are in.
func Tagged(t testing.TB, tag string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := build(dir, tag); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Program is the path of a built program, "sentinel" or "shim".
func Program(name string) string { return filepath.Join(directory, name) }

// Command is the command line of one of the test binary's modes.
func Command(mode string, args ...string) []string {
	return append([]string{os.Args[0], modeArg, mode}, args...)
}

// Wrap is the command line that wraps a command in a program with some flags.
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
	more   chan struct{} // closed, and made anew, whenever there is more output
	ended  bool          // no more output will come

	exited chan struct{} // closed when the process has ended and its output has been read
}

// Start starts a command line, and kills it at the end of the test at the latest.
// Changes may complete the command before it is started.
func Start(t testing.TB, argv []string, changes ...func(*exec.Cmd)) *Process {
	t.Helper()
	p := &Process{t: t, cmd: exec.Command(argv[0], argv[1:]...), more: make(chan struct{}), exited: make(chan struct{})}
	for _, change := range changes {
		change(p.cmd)
	}
	// A pipe of our own and not the exec package's, whose Wait would hang on
	// grandchildren.
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
		_ = r.SetReadDeadline(time.Now()) // wakes read
	}()
	go p.read(r, waited)
	t.Cleanup(func() {
		p.Kill()
		<-p.exited
		r.Close()
	})
	return p
}

// read reads the output until nobody can write any more. Those that the process has started may be
// left when it has ended; what it wrote itself has been read when exited is closed.
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

// drain reads what is in the pipe now.
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

// add adds whole lines to the output; and what is left, too, if the process has written all of it.
// ended: nobody else can write more.
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

// Output is all that the process, and those that it has started, have written so far.
func (p *Process) Output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.String()
}

// Await waits until the output holds text.
func (p *Process) Await(text string) {
	p.t.Helper()
	p.AwaitCount(text, 1)
}

// AwaitCount waits until the output holds text n times.
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
			p.t.Fatalf("%s ended without writing %q %d times:\n%s", p, text, n, p.Output())
		}
		select {
		case <-more:
		case <-deadline:
			p.t.Fatalf("%s has not written %q %d times within %s:\n%s", p, text, n, Patience, p.Output())
		}
	}
}

// AwaitAll waits until no more output can come: the process, and those that it has started,
// have ended.
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
			p.t.Fatalf("%s, or what it has started, has not ended within %s:\n%s", p, Patience, p.Output())
		}
	}
}

// Exited is closed when the process has ended, and all that it has written is in Output.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Code waits for the end of the process and returns its exit code, 128+n for a signal. All that it
// has written is in Output then.
func (p *Process) Code() int {
	p.t.Helper()
	select {
	case <-p.exited:
	case <-time.After(Patience):
		p.t.Fatalf("%s has not ended within %s:\n%s", p, Patience, p.Output())
	}
	ws := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}

// Want fails the test unless the process ends with the code.
func (p *Process) Want(code int) {
	p.t.Helper()
	if got := p.Code(); got != code {
		p.t.Fatalf("%s ended with %d, not %d:\n%s", p, got, code, p.Output())
	}
}

// PID is the process id.
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
