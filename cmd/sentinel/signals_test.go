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
	"github.com/sentinel-shim/sentinel-shim/internal/testenv"
)

// notForwarded are the signals that sentinel keeps to itself, and why.
var notForwarded = map[syscall.Signal]string{
	syscall.SIGKILL: "nobody catches it", syscall.SIGSTOP: "nobody catches it",
	syscall.SIGCHLD: "about sentinel's own child",
	syscall.SIGURG:  "Go raises it by itself",
	syscall.SIGPIPE: "about sentinel's own log",
	syscall.SIGXFSZ: "about sentinel's own limits", syscall.SIGXCPU: "about sentinel's own limits",
	syscall.SIGSEGV: "a fault", syscall.SIGBUS: "a fault", syscall.SIGFPE: "a fault", syscall.SIGILL: "a fault",
	syscall.SIGABRT: "a fault", syscall.SIGTRAP: "a fault", syscall.SIGSYS: "a fault",
	syscall.SIGPROF: "Go keeps it", 32: "Go keeps it", 33: "Go keeps it", 34: "Go keeps it",
}

// inherited reports whether this test was started with the signal ignored (under nohup,
// say): sentinel then rightly leaves it so.
func inherited(sig syscall.Signal) bool { return signal.Ignored(sig) }

// listener is a command that says of every signal that it gets. SIGTERM ends it, with 15.
const listener = `
	trap 'echo "got 15."; trap - CHLD; kill $child; exit 15' TERM
	for n in $(seq 1 64); do
		case $n in 9|15|19|32|33) ;; *) trap "echo got $n." $n ;; esac
	done
	sleep 1000 & child=$!
	echo ready
	while :; do wait $child; done`

// TestForwarding: every signal that can be forwarded arrives once, with its number, and
// no other arrives at all.
func TestForwarding(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := sentinel(t, dir, nil, shell(listener)...)
	p.Await("ready")
	var sent []syscall.Signal
	for sig := syscall.Signal(1); sig <= 64; sig++ {
		if _, kept := notForwarded[sig]; !kept && !inherited(sig) && sig != syscall.SIGTERM {
			sent = append(sent, sig)
		}
	}

	// All at once, but for SIGCONT: the signals that stop a process take a pending
	// one away, and it them (signal(7)).
	for _, sig := range sent {
		if sig != syscall.SIGCONT {
			p.Signal(sig)
		}
	}
	for _, sig := range []syscall.Signal{syscall.SIGCHLD, syscall.SIGURG, syscall.SIGPIPE, syscall.SIGPROF, syscall.SIGXFSZ, syscall.SIGXCPU} {
		p.Signal(sig)
	}
	for _, sig := range sent {
		if sig != syscall.SIGCONT {
			p.Await(got(sig))
		}
	}
	p.Signal(syscall.SIGCONT)
	p.Await(got(syscall.SIGCONT))

	// And one after the other.
	for _, sig := range sent {
		p.Signal(sig)
		p.AwaitCount(got(sig), 2)
	}

	p.Signal(syscall.SIGTERM)
	p.Await(got(syscall.SIGTERM))
	p.Want(15)
	wantRecord(t, dir, 15)
	if got, want := strings.Count(p.Output(), "got "), 2*len(sent)+1; got != want {
		t.Errorf("%d signals have arrived, want %d:\n%s", got, want, p.Output())
	}
}

func got(sig syscall.Signal) string { return fmt.Sprintf("got %d.\n", sig) }

// TestFaults: a signal that speaks of a fault of sentinel's own ends it, and its command
// with it, and what is recorded is that nobody has recorded anything.
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
				t.Errorf("on the volume is %q, want main-running alone", names)
			}
		})
	}
}

// checkEarly checks how a sentinel has ended that got sig at some instant of its first
// moments, and whose command, were it ever started, dies of sig: nothing else ends it.
// caught: it was looking at its volume already, and so must have caught the signal.
func checkEarly(t *testing.T, sig syscall.Signal, caught bool, dir string, diedOf syscall.Signal, code int, output string) {
	t.Helper()
	names, want := testenv.Names(t, dir), 128+int(sig)
	switch {
	case !caught && diedOf == sig && names == "":
		// It came before it could be caught.
	case !caught && sig == syscall.SIGQUIT && code == 2 && names == "" && strings.Contains(output, "SIGQUIT: quit"):
		// The same, but Go's runtime was up.
	case code == want && names == "main-terminated" && recorded(t, dir, "main") == strconv.Itoa(want)+"\n":
	default:
		t.Errorf("%s: died of signal %d, exit code %d, on the volume %q:\n%s", sig, diedOf, code, names, output)
	}
}

// TestEarlySignals: a signal that comes at a random instant of the first 50 ms is never
// lost, and leaves nothing behind.
func TestEarlySignals(t *testing.T) {
	t.Parallel()
	const instants, span, seed = 200, 50 * time.Millisecond, 1
	random := rand.New(rand.NewPCG(seed, seed))
	signals := []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT}
	for i := range instants {
		sig := signals[i%len(signals)]
		instant := time.Duration(random.Int64N(int64(span)))
		if i/len(signals)%2 == 0 { // most of it happens in the first tenth
			instant /= 10
		}
		t.Run(fmt.Sprintf("%s after %s", unix.SignalName(sig), instant), func(t *testing.T) {
			t.Parallel()
			if inherited(sig) {
				t.Skip("the signal is ignored in this test, and so in what it starts")
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

// TestSignalsAtEveryCall: the same at every system call (with a file or a process) that
// sentinel makes until it waits for its command. A signal that would not have ended it
// before it could be caught is not lost, either, from the first look at the volume on.
func TestSignalsAtEveryCall(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		signal    syscall.Signal
		fromStart bool
	}{{syscall.SIGTERM, true}, {syscall.SIGUSR1, false}} {
		t.Run(unix.SignalName(c.signal), func(t *testing.T) {
			t.Parallel()
			const most = 1000
			for n, last := 1, false; !last; n++ {
				if n > most {
					t.Fatalf("it makes more than %d calls before it waits for its command", most)
				}
				last = signalAtCall(t, c.signal, c.fromStart, n)
				if last {
					t.Logf("at %d calls", n)
				}
			}
		})
	}
}

// signalAtCall sends a signal at the nth call, counted from the start or from the first
// look at the volume, or when sentinel waits for its command: then it is the last.
func signalAtCall(t *testing.T, sig syscall.Signal, fromStart bool, n int) (last bool) {
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
	result, err := ptrace.Run(ctx,
		ptrace.Spec{Args: drive.Wrap("sentinel", []string{"--dir", dir}, []string{"sleep", "1000"}), Stdout: w, Stderr: w},
		func(c ptrace.Call) bool {
			touched = touched || touching(c)
			// Go's runtime makes 130 of these before anything else.
			return (fromStart || touched) && c.Name != "rt_sigaction"
		},
		func(p *ptrace.Tracee, c ptrace.Call) {
			if when == "" && (c.N == n || c.Name == "waitid") {
				caught, when, last = touched, "at "+c.String(), c.Name == "waitid"
				if err := p.Signal(sig); err != nil {
					t.Errorf("%s: %v", when, err)
				}
			}
		})
	if errors.Is(err, ptrace.ErrRefused) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatalf("%s %s: %v", when, sig, err)
	}
	w.Close()
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("%s %s: something is left behind: %v:\n%s", when, sig, err, out)
	}
	checkEarly(t, sig, caught, dir, result.Signal, result.ExitCode, string(out))
	if t.Failed() {
		t.Fatalf("that was %s", when)
	}
	return last
}

// unready is an http target that answers 503 until it is told otherwise, and delivers a
// value each time that it is asked.
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

// TestSignalsWhileWaiting: before the command is there, TERM, INT, HUP and QUIT end the
// matter, and other signals are nobody's.
func TestSignalsWhileWaiting(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT} {
		t.Run(unix.SignalName(sig), func(t *testing.T) {
			t.Parallel()
			if inherited(sig) {
				t.Skip("the signal is ignored in this test, and so in what it starts")
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
		for range 5 { // it is awake and has read them
			<-asked
		}
		ready()
		p.Await("launched\n")
		p.Want(0)
		wantRecord(t, dir, 0)
	})
}

// TestClosedStderr: that nobody reads what sentinel says, neither ends it nor changes the
// code; the command gets SIGPIPE as ever.
func TestClosedStderr(t *testing.T) {
	t.Parallel()
	for script, code := range map[string]int{
		"exit 3":                         3,
		"kill -USR1 $$":                  138, // about which more is said
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

// TestIgnoredSignals: what is inherited as ignored is not forwarded, and ignored by the
// command, too.
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
