package shim

import (
	"bytes"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
)

// TestSignalsBeforeTheLaunch: SIGTERM, or the shim's own stop signal, is received before the first look. The sidecar
// is not launched. All other signals are for the sidecar.
func TestSignalsBeforeTheLaunch(t *testing.T) {
	for _, c := range []struct {
		name    string
		signals []os.Signal
		end     string // main-terminated, if any
		code    int
	}{
		{"SIGTERM", []os.Signal{syscall.SIGTERM}, "", 143},
		{"the stop signal", []os.Signal{syscall.SIGQUIT}, "", 143},
		{"SIGTERM after others", []os.Signal{syscall.SIGHUP, syscall.SIGTERM, syscall.SIGUSR1}, "", 143},
		{"SIGTERM, main's end is known", []os.Signal{syscall.SIGTERM}, "3\n", 3},
		{"others only", []os.Signal{syscall.SIGHUP, syscall.SIGUSR1}, "", 127},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if c.end != "" {
				if err := os.WriteFile(lifetime.TerminatedPath(dir, "main"), []byte(c.end), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			signals := make(chan os.Signal, len(c.signals))
			for _, sig := range c.signals {
				signals <- sig
			}
			code := Run(Config{
				Dir: dir, Name: "proxy", Mains: []string{"main"}, Command: []string{"/launched/it/would/be/127"},
				StopSignal: syscall.SIGQUIT, Hold: time.Hour, LostAfter: time.Hour,
				Signals: signals, Log: zerolog.New(zerolog.NewTestWriter(t)),
			})
			if code != c.code {
				t.Errorf("the exit code is %d, want %d", code, c.code)
			}
		})
	}
}

// TestAwaitSync: a shim does not wait once the mains' ends are on disk.
func TestAwaitSync(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(lifetime.TerminatedPath(dir, "main"), []byte("3\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	l := &loop{Config: Config{Dir: dir, Mains: []string{"main"}, Log: zerolog.New(&log)}}
	l.awaitSync() // nothing was to be synced
	l.syncEnds()
	select {
	case <-l.synced:
	case <-time.After(20 * time.Second):
		t.Fatal("the sync has not ended within 20s")
	}
	l.awaitSync()
	if log.Len() > 0 {
		t.Errorf("the log is %s, want nothing", &log)
	}
}

// TestAwaitSyncOfAStuckDisk: a disk that does not answer is waited for, and not for ever.
func TestAwaitSyncOfAStuckDisk(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	l := &loop{Config: Config{Log: zerolog.New(&log)}, synced: make(chan struct{})}
	over := make(chan struct{})
	go func() {
		defer close(over)
		l.awaitSync()
	}()
	select {
	case <-over:
	case <-time.After(patience):
		t.Fatalf("the wait has not ended after %s", patience)
	}
	if want := "the mains' ends are not on disk after 1s"; !strings.Contains(log.String(), want) {
		t.Errorf("it says %q, not %q", &log, want)
	}
}
