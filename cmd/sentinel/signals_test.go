package main_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/cmd/internal/ptrace"
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// notForwarded are the signals that sentinel does not forward, and why.
var notForwarded = map[syscall.Signal]string{
	syscall.SIGKILL: "cannot be caught", syscall.SIGSTOP: "cannot be caught",
	syscall.SIGCHLD: "about sentinel's own child",
	syscall.SIGURG:  "Go's runtime raises it",
	syscall.SIGPIPE: "about sentinel's own log",
	syscall.SIGXFSZ: "about sentinel's own limits", syscall.SIGXCPU: "about sentinel's own limits",
	syscall.SIGSEGV: "a fault", syscall.SIGBUS: "a fault", syscall.SIGFPE: "a fault", syscall.SIGILL: "a fault",
	syscall.SIGABRT: "a fault", syscall.SIGTRAP: "a fault", syscall.SIGSYS: "a fault",
	syscall.SIGPROF: "Go's runtime keeps it",
	32:              "Go's runtime keeps it", 33: "Go's runtime keeps it", 34: "Go's runtime keeps it",
}

// inherited reports whether this test was started with the signal ignored (as under nohup): sentinel then ignores it
// as well.
func inherited(sig syscall.Signal) bool { return signal.Ignored(sig) }

// listener is a command that prints every signal that it gets. On SIGTERM it exits with 15.
const listener = `
	trap 'echo "got 15."; trap - CHLD; kill $child; exit 15' TERM
	for n in $(seq 1 64); do
		case $n in 9|15|19|32|33) ;; *) trap "echo got $n." $n ;; esac
	done
	sleep 1000 & child=$!
	echo ready
	while :; do wait $child; done`

// TestForwarding: every signal that is forwarded arrives once, with its number, and no other arrives.
func TestForwarding(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := sentinel(t, dir, nil, shell(listener)...)
	p.Await("ready")
	p.Await("sh started") // now all signals are caught
	var sent []syscall.Signal
	for sig := syscall.Signal(1); sig <= 64; sig++ {
		if _, kept := notForwarded[sig]; !kept && !inherited(sig) && sig != syscall.SIGTERM {
			sent = append(sent, sig)
		}
	}

	// All at once, except SIGCONT: it discards pending signals that stop a process, and they discard it (signal(7)).
	for _, sig := range sent {
		if sig != syscall.SIGCONT {
			p.Signal(sig)
		}
	}
	for _, sig := range []syscall.Signal{
		syscall.SIGCHLD, syscall.SIGURG, syscall.SIGPIPE, syscall.SIGPROF, syscall.SIGXFSZ, syscall.SIGXCPU,
	} {
		p.Signal(sig)
	}
	for _, sig := range sent {
		if sig != syscall.SIGCONT {
			p.Await(got(sig))
		}
	}
	p.Signal(syscall.SIGCONT)
	p.Await(got(syscall.SIGCONT))

	// Then one after the other.
	for _, sig := range sent {
		p.Signal(sig)
		p.AwaitCount(got(sig), 2)
	}

	p.Signal(syscall.SIGTERM)
	p.Await(got(syscall.SIGTERM))
	p.Want(15)
	wantRecord(t, dir, 15)
	if got, want := strings.Count(p.Output(), "got "), 2*len(sent)+1; got != want {
		t.Errorf("%d signals arrived, want %d:\n%s", got, want, p.Output())
	}
}

// got is what listener prints of a signal.
func got(sig syscall.Signal) string { return fmt.Sprintf("got %d.\n", sig) }

// TestFaults: a signal that reports a fault of sentinel itself ends it, and its command, and no end is recorded.
func TestFaults(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGABRT, syscall.SIGSEGV} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			p := sentinel(t, dir, nil, shell("echo ready; exec sleep 1000")...)
			p.Await("ready\n")
			p.Signal(sig)
			p.AwaitAll() // its command has ended, too
			if names := testenv.Names(t, dir); names != "main-running" {
				t.Errorf("the volume holds %q, want only main-running", names)
			}
		})
	}
}

// checkEarly checks how a sentinel ended that got sig soon after its start. Only sig can end its command. caught:
// sentinel had already looked at its volume, and so must have caught the signal.
func checkEarly(
	t *testing.T, sig syscall.Signal, caught bool, dir string, diedOf syscall.Signal, code int, output string,
) {
	t.Helper()
	names, want := testenv.Names(t, dir), 128+int(sig)
	switch {
	case !caught && diedOf == sig && names == "":
		// The signal came before sentinel could catch it.
	case !caught && sig == syscall.SIGQUIT && code == 2 && names == "" && strings.Contains(output, "SIGQUIT: quit"):
		// The same, but Go's runtime had already started.
	case code == want && names == "main-terminated" && recorded(t, dir, "main") == strconv.Itoa(want)+"\n":
	default:
		t.Errorf("%s: died of signal %d, exit code %d, the volume holds %q:\n%s", sig, diedOf, code, names, output)
	}
}

// TestEarlySignals: a signal at a random instant of the first 50 ms is never lost, and leaves no process behind.
func TestEarlySignals(t *testing.T) {
	t.Parallel()
	const instants, span, seed = 200, 50 * time.Millisecond, 1
	random := rand.New(rand.NewPCG(seed, seed))
	signals := []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT}
	for i := range instants {
		sig := signals[i%len(signals)]
		instant := time.Duration(random.Int64N(int64(span)))
		if i/len(signals)%2 == 0 { // sentinel does most in the first tenth
			instant /= 10
		}
		t.Run(fmt.Sprintf("%s after %s", unix.SignalName(sig), instant), func(t *testing.T) {
			t.Parallel()
			if inherited(sig) {
				t.Skip("the parent of this test ignores the signal")
			}
			dir := t.TempDir()
			p := sentinel(t, dir, nil, "sleep", "1000")
			time.Sleep(instant)
			p.Signal(sig)
			p.AwaitAll()
			status := p.Status()
			checkEarly(t, sig, false, dir, status.Signal(), status.ExitStatus(), p.Output())
		})
	}
}

// TestTermAtEveryCall: the same at every system call (with a file or a process) until sentinel waits for its command.
func TestTermAtEveryCall(t *testing.T) {
	t.Parallel()
	const most = 1000
	for n, last := 1, false; !last; n++ {
		if n > most {
			t.Fatalf("sentinel makes more than %d calls before it waits for its command", most)
		}
		last = termAtCall(t, n)
		if last {
			t.Logf("sent at %d calls", n)
		}
	}
}

// termAtCall sends SIGTERM at the nth call. If sentinel waits for its command before that, it sends the signal then,
// and returns true.
func termAtCall(t *testing.T, n int) (last bool) {
	t.Helper()
	dir := t.TempDir()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if err := r.SetReadDeadline(time.Now().Add(drive.Patience)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), drive.Patience)
	defer cancel()
	touching := ptrace.Touching(dir)
	touched, caught, when := false, false, ""
	argv := drive.Wrap("sentinel", []string{"--dir", dir}, []string{"sleep", "1000"})
	result, err := ptrace.Run(ctx,
		ptrace.Spec{Args: argv, Stdout: w, Stderr: w},
		func(c ptrace.Call) bool {
			touched = touched || touching(c)
			return c.Name != "rt_sigaction" // Go's runtime makes 130 of these at the start
		},
		func(p *ptrace.Tracee, c ptrace.Call) {
			if when == "" && (c.N == n || c.Name == "waitid") {
				caught, when, last = touched, "at "+c.String(), c.Name == "waitid"
				if err := p.Signal(syscall.SIGTERM); err != nil {
					t.Errorf("%s: %v", when, err)
				}
			}
		})
	if errors.Is(err, ptrace.ErrRefused) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	w.Close()
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("%s: a process is left behind: %v:\n%s", when, err, out)
	}
	checkEarly(t, syscall.SIGTERM, caught, dir, result.Signal, result.ExitCode, string(out))
	if t.Failed() {
		t.Fatalf("the signal came %s", when)
	}
	return last
}

// unready returns the URL of a server that answers with 503 until ready is called. asked delivers a value for each
// request until then.
func unready(t *testing.T) (url string, asked <-chan struct{}, ready func()) {
	t.Helper()
	ask, answer := make(chan struct{}), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		select {
		case <-answer:
		case ask <- struct{}{}:
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	var once sync.Once
	ready = func() { once.Do(func() { close(answer) }) }
	t.Cleanup(server.Close)
	t.Cleanup(ready)
	return server.URL, ask, ready
}

// TestSignalsWhileWaiting: before the command is started, TERM, INT, HUP and QUIT end sentinel, and it drops other
// signals.
func TestSignalsWhileWaiting(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT} {
		t.Run(unix.SignalName(sig), func(t *testing.T) {
			t.Parallel()
			if inherited(sig) {
				t.Skip("the parent of this test ignores the signal")
			}
			dir := t.TempDir()
			url, asked, _ := unready(t)
			p := sentinel(t, dir, []string{"--wait-for", url}, "echo", "launched")
			<-asked
			p.Signal(sig)
			p.Want(128 + int(sig))
			p.Await("echo was not started: " + unix.SignalName(sig) + " came before")
			wantRecord(t, dir, 128+int(sig))
			if strings.Contains(p.Output(), "launched\n") {
				t.Errorf("the command was launched:\n%s", p.Output())
			}
		})
	}
	t.Run("others", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		url, asked, ready := unready(t)
		p := sentinel(t, dir, []string{"--wait-for", url}, "echo", "launched")
		<-asked
		for sig := syscall.Signal(1); sig <= 64; sig++ {
			switch sig {
			case syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT:
				continue
			}
			if _, kept := notForwarded[sig]; !kept {
				p.Signal(sig)
			}
		}
		for range 5 { // by then, sentinel has read the signals
			<-asked
		}
		ready()
		p.Await("launched\n")
		p.Want(0)
		wantRecord(t, dir, 0)
	})
}

// TestClosedStderr: a closed stderr neither ends sentinel nor changes the code. The command gets SIGPIPE as usual.
func TestClosedStderr(t *testing.T) {
	t.Parallel()
	for script, code := range map[string]int{
		"exit 3":                         3,
		"kill -USR1 $$":                  138, // which sentinel logs
		"while :; do echo x >&2; done":   141,
		"kill -PIPE $PPID; exec sleep 0": 0,
	} {
		dir := t.TempDir()
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		p := drive.Start(t, drive.Wrap("sentinel", []string{"--dir", dir, "--log-level", "trace"}, shell(script)),
			func(cmd *exec.Cmd) { cmd.Stderr = w })
		w.Close()
		p.Want(code)
		wantRecord(t, dir, code)
	}
}

// TestIgnoredSignals: sentinel does not forward a signal that it inherits as ignored, and the command ignores it as
// well.
func TestIgnoredSignals(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	argv := drive.Wrap("sentinel", []string{"--dir", dir}, shell(`echo ready; read line <"$1"; exit 5`, fifo))
	p := drive.Start(t, drive.Command("prepared", argv...))
	p.Await("ready")
	p.Signal(syscall.SIGHUP)
	p.Signal(syscall.SIGINT)
	if err := os.WriteFile(fifo, []byte("go\n"), 0); err != nil {
		t.Fatal(err)
	}
	p.Want(5)
	wantRecord(t, dir, 5)
}
