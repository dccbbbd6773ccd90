package sentinel

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sentinel-shim/sentinel-shim/sentinel/exitcode"
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// The steps of a session with a command.

// wantKilledBySIGUSR1 starts a command, runs received, and checks that the command dies of SIGUSR1 then.
func wantKilledBySIGUSR1(t *testing.T, s *trial, received func()) {
	t.Helper()
	s.Command = []string{"/bin/sleep", "1000"}
	if err := s.launch(); err != nil {
		t.Fatal(err)
	}
	s.wantLog(t, "sleep started", true)
	received()
	if code, want := s.supervise(), exitcode.OfSignal(syscall.SIGUSR1); code != want {
		t.Errorf("the exit code is %d, want %d", code, want)
	}
	after, ok := strings.CutPrefix(s.message, "sleep was killed by SIGUSR1 after ")
	if took, err := time.ParseDuration(after); !ok || err != nil || took > patience {
		t.Errorf("the message is %q, want that SIGUSR1 killed it, and a plausible time", s.message)
	}
}

// TestSignalAfterTheLaunch: a signal reaches the command.
func TestSignalAfterTheLaunch(t *testing.T) {
	t.Parallel()
	if testenv.Alone(t, patience) {
		s := newTrial(t.TempDir())
		wantKilledBySIGUSR1(t, s, func() { s.signals <- syscall.SIGUSR1 })
	}
}
