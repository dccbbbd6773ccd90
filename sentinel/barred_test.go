package sentinel

import (
	"syscall"
	"testing"
	"time"

	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
	"github.com/sentinel-shim/sentinel-shim/sentinel/probe"
)

// The two waits before the command starts.

const (
	barred      = "waiting for the sidecars of the earlier run to end, at most "
	noLonger    = "the sidecars of the earlier run are no longer stopping: waited "
	goingOn     = "have not ended within --wait-timeout 100ms: going on without waiting"
	waitTimeout = 100 * time.Millisecond // where it is to be over
)

// stopping begins the run of a sidecar that says that it is about to end.
func stopping(t *testing.T, dir, name string) *lifetime.Run {
	t.Helper()
	run := begin(t, dir, name)
	if err := run.AnnounceStopping(); err != nil {
		t.Error(err)
	}
	return run
}

// wantDone checks that the barrier is open, and lets the start go on.
func wantDone(t *testing.T, s *trial) {
	t.Helper()
	if done, err := s.awaitSidecars(); !done || err != nil {
		t.Errorf("done: %v (%v), want true:\n%s", done, err, &s.log)
	}
}

// TestNotBarred: where no sidecar is stopping, nothing is waited for.
func TestNotBarred(t *testing.T) {
	s := newTrial(t.TempDir())
	begin(t, s.Dir, "proxy")
	wantDone(t, s)
	s.wantLog(t, barred, false)
}

// TestBarred: a sidecar that is stopping is waited for.
func TestBarred(t *testing.T) {
	s := newTrial(t.TempDir())
	proxy := stopping(t, s.Dir, "proxy")
	s.when(barred, func() { end(t, proxy) })
	wantDone(t, s)
	s.wantLog(t, noLonger, true)
}

// TestBarredTimeout: after --wait-timeout it goes on with a warning.
func TestBarredTimeout(t *testing.T) {
	s := newTrial(t.TempDir())
	s.WaitTimeout = waitTimeout
	stopping(t, s.Dir, "proxy")
	wantDone(t, s)
	s.wantLog(t, `"sidecars":["proxy"],"message":"the sidecars of the earlier run `+goingOn, true)
	s.wantLog(t, noLonger, false)
}

// TestBarredAgain: a sidecar that says so only while another is waited for is waited for, too.
func TestBarredAgain(t *testing.T) {
	s := newTrial(t.TempDir())
	s.WaitTimeout = waitTimeout
	proxy := stopping(t, s.Dir, "proxy")
	s.when(barred, func() {
		stopping(t, s.Dir, "other")
		end(t, proxy)
	})
	wantDone(t, s)
	s.wantLog(t, `"sidecars":["other"],"message":"the sidecars of the earlier run `+goingOn, true)
}

// TestBarredSignal: a signal aborts the start before and during the wait.
func TestBarredSignal(t *testing.T) {
	t.Run("before", func(t *testing.T) {
		s := newTrial(t.TempDir(), syscall.SIGTERM)
		stopping(t, s.Dir, "proxy")
		_, err := s.awaitSidecars()
		wantInterrupted(t, err, syscall.SIGTERM)
	})
	t.Run("during", func(t *testing.T) {
		s := newTrial(t.TempDir())
		stopping(t, s.Dir, "proxy")
		s.when(barred, func() { s.signals <- syscall.SIGTERM })
		_, err := s.awaitSidecars()
		wantInterrupted(t, err, syscall.SIGTERM)
		s.wantLog(t, "going on", false)
	})
}

// TestAwaitTargets: the addresses are named.
func TestAwaitTargets(t *testing.T) {
	here := "file://" + t.TempDir()
	target, err := probe.Parse(here)
	if err != nil {
		t.Fatal(err)
	}
	for _, targets := range [][]probe.Target{nil, {target}, {target, target}} {
		s := newTrial(t.TempDir())
		s.WaitFor = targets
		if err := s.awaitTargets(); err != nil {
			t.Errorf("%d addresses: %v", len(targets), err)
		}
		s.wantLog(t, "waiting for ", len(targets) > 0)
		s.wantLog(t, "waiting for "+here+", at most ", len(targets) == 1)
		s.wantLog(t, "waiting for "+here+", "+here+", at most ", len(targets) == 2)
	}
}

// TestEndedRuns: the runs that have ended are named, and no others.
func TestEndedRuns(t *testing.T) {
	s := newTrial(restarted(t))
	begin(t, s.Dir, "proxy")
	if got, want := s.endedRuns(t.Context()), "; main has ended with 1: see its log"; got != want {
		t.Errorf("the message ends with %q, want %q", got, want)
	}
}
