package sentinel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
	"github.com/sentinel-shim/sentinel-shim/sentinel/process"
)

// The steps of a session that need no command.

// trial is a session on a volume, whose command cannot be started.
type trial struct {
	session
	log     bytes.Buffer
	signals chan os.Signal // to send to it
}

// newTrial returns one that has received signals.
func newTrial(dir string, signals ...os.Signal) *trial {
	s := &trial{signals: make(chan os.Signal, len(signals)+1)}
	for _, sig := range signals {
		s.signals <- sig
	}
	s.Config = Config{
		Dir: dir, Name: "main", WaitTimeout: patience, Command: []string{"/no/such/job"},
		Signals: s.signals, Log: zerolog.New(&s.log),
	}
	return s
}

// when does something at each line of the log that contains a text.
func (s *trial) when(text string, do func()) {
	s.Log = s.Log.Hook(zerolog.HookFunc(func(_ *zerolog.Event, _ zerolog.Level, message string) {
		if strings.Contains(message, text) {
			do()
		}
	}))
}

// wantLog checks whether the log contains a text.
func (s *trial) wantLog(t *testing.T, text string, want bool) {
	t.Helper()
	if strings.Contains(s.log.String(), text) != want {
		t.Errorf("whether the log says %q should be %v:\n%s", text, want, &s.log)
	}
}

// wantInterrupted checks that the error is that of a start that a signal has aborted.
func wantInterrupted(t *testing.T, err error, sig syscall.Signal) {
	t.Helper()
	if got := (interrupted{}); !errors.As(err, &got) || got.signal != sig {
		t.Errorf("the error is %v, want that of a start aborted by %s", err, process.SignalName(sig))
	}
}

// TestInterruptible: a signal that aborts the start ends what is interruptible, whose result then does
// not count. Other signals are dropped.
func TestInterruptible(t *testing.T) {
	s := newTrial(t.TempDir())
	wrong := errors.New("wrong")
	if err := s.interruptible(func(context.Context) error { return wrong }); err != wrong {
		t.Errorf("the error is %v, want that of the function", err)
	}

	s = newTrial(t.TempDir(), syscall.SIGUSR1, syscall.SIGTERM)
	returned := false
	wantInterrupted(t, s.interruptible(func(ctx context.Context) error {
		select {
		case <-ctx.Done():
		case <-time.After(patience):
			t.Error("the context of the function is not canceled")
		}
		time.Sleep(20 * time.Millisecond) // so that it shows if nobody waits
		returned = true
		return nil
	}), syscall.SIGTERM)
	if !returned {
		t.Error("it does not wait for the function")
	}
}

// TestDropSignals: of the signals that nothing has received before the launch, one that aborts the start does so.
func TestDropSignals(t *testing.T) {
	s := newTrial(t.TempDir(), syscall.SIGUSR1, syscall.SIGUSR2)
	if err := s.dropSignals(); err != nil || len(s.signals) > 0 {
		t.Errorf("%d signals are left (%v), want none", len(s.signals), err)
	}
	s = newTrial(t.TempDir(), syscall.SIGUSR1, syscall.SIGTERM)
	wantInterrupted(t, s.launch(), syscall.SIGTERM)
}

// TestAborts: which signals mean that the command must not start.
func TestAborts(t *testing.T) {
	for sig, want := range map[syscall.Signal]bool{
		syscall.SIGTERM: true, syscall.SIGINT: true, syscall.SIGHUP: true, syscall.SIGQUIT: true,
		syscall.SIGUSR1: false, syscall.SIGWINCH: false, syscall.SIGCONT: false,
	} {
		if aborts(sig) != want {
			t.Errorf("%s aborts the start: %v, want %v", process.SignalName(sig), !want, want)
		}
	}
}

// TestBegin: what the steps after it have to know of the beginning.
func TestBegin(t *testing.T) {
	for _, c := range []struct {
		name      string
		dir       func(*testing.T) string
		restarted bool
	}{
		{"first", (*testing.T).TempDir, false},
		{"restarted", restarted, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newTrial(c.dir(t))
			if restarted, err := s.begin(); restarted != c.restarted || err != nil {
				t.Errorf("restarted: %v (%v), want %v", restarted, err, c.restarted)
			}
			s.wantLog(t, fmt.Sprintf(`"restarted":%v,"message":"the run main has begun"`, c.restarted), true)
		})
	}
	t.Run("after another main", func(t *testing.T) {
		dir := t.TempDir()
		other := begin(t, dir, "main")
		s := newTrial(dir)
		s.when("waiting up to ", func() { end(t, other) })
		if restarted, err := s.begin(); !restarted || err != nil {
			t.Errorf("restarted: %v (%v), want true:\n%s", restarted, err, &s.log)
		}
	})
	t.Run("an obstacle", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.Mkdir(lifetime.Dir(dir).Path("main-running"), 0o755); err != nil {
			t.Fatal(err)
		}
		s := newTrial(dir)
		_, err := s.begin()
		const want = "main-running is a directory: remove it, and let nothing but sentinel and shim write such names"
		if err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("the error is %v, want one that ends with %q", err, want)
		}
		s.end(125)
		wantRecord(t, dir, "125\n")
	})
	t.Run("a signal", func(t *testing.T) {
		s := newTrial(t.TempDir(), syscall.SIGTERM)
		if _, err := s.begin(); err != nil || len(s.signals) == 0 {
			wantInterrupted(t, err, syscall.SIGTERM)
		}
	})
}

// TestUnrecordable: where the volume was missing, and beside a live run of the name, no end is recorded.
func TestUnrecordable(t *testing.T) {
	t.Parallel()
	t.Run("no volume", func(t *testing.T) {
		t.Parallel()
		dir := filepath.Join(t.TempDir(), "volume")
		s := newTrial(dir)
		if _, err := s.begin(); err == nil {
			t.Fatal("a run begins without a volume")
		}
		if err := os.Mkdir(dir, 0o755); err != nil { // too late
			t.Fatal(err)
		}
		s.end(125)
		wantRecord(t, dir, "")
	})
	t.Run("a live run", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		begin(t, dir, "main")
		s := newTrial(dir)
		_, err := s.begin()
		if live := (*lifetime.LiveError)(nil); !errors.As(err, &live) {
			t.Fatalf("the error is %v, want a LiveError", err)
		}
		s.end(125)
		wantRecord(t, dir, "")
		s.wantLog(t, "could not be recorded", false)
	})
}

// TestEnded: how a command has ended, for the termination log.
func TestEnded(t *testing.T) {
	for _, c := range []struct {
		status process.Status
		want   string
	}{
		{process.Status{Code: 3}, ""},
		{process.Status{Code: 143, Signal: syscall.SIGTERM}, "job was killed by SIGTERM after 1.5s"},
		{process.Status{Code: 137, Signal: syscall.SIGKILL}, "job was killed by SIGKILL after 1.5s (out of memory?)"},
		{process.Status{Code: 125, Err: errors.New("the kernel says nothing")}, "the kernel says nothing"},
	} {
		s := newTrial(t.TempDir())
		if code := s.ended(c.status, 1500*time.Millisecond); code != c.status.Code || s.message != c.want {
			t.Errorf("after %+v the code is %d and the message %q, want %d and %q",
				c.status, code, s.message, c.status.Code, c.want)
		}
	}
}

// TestLogRefusal: that the command may not be signalled is logged once.
func TestLogRefusal(t *testing.T) {
	s := newTrial(t.TempDir())
	for _, err := range []error{nil, errors.New("not permitted"), errors.New("not permitted")} {
		s.logRefusal(err)
	}
	if got := s.log.String(); strings.Count(got, "not permitted") != 1 || strings.Count(got, "\n") != 1 {
		t.Errorf("the log is %q, want one line", got)
	}
}

// restarted returns a volume on which main has failed before.
func restarted(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.WriteFile(lifetime.TerminatedPath(dir, "main"), []byte("1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// begin begins a run.
func begin(t *testing.T, dir, name string) *lifetime.Run {
	t.Helper()
	run, _, err := lifetime.Begin(t.Context(), lifetime.Dir(dir), name, nil)
	if err != nil {
		t.Fatal(err)
	}
	return run
}

func end(t *testing.T, run *lifetime.Run) {
	t.Helper()
	if err := run.End(0); err != nil {
		t.Error(err)
	}
}

// wantRecord checks main's recorded end; "" is none.
func wantRecord(t *testing.T, dir, want string) {
	t.Helper()
	if got := content(t, lifetime.TerminatedPath(dir, "main")); got != want {
		t.Errorf("the recorded end is %q, want %q", got, want)
	}
}
