package shim

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sentinel-shim/sentinel-shim/sentinel/exitcode"
	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
	"github.com/sentinel-shim/sentinel-shim/sentinel/process"
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// What the loop knows of a sidecar's process.

// TestSignalsForTheSidecar: what was received before the launch reaches the sidecar.
func TestSignalsForTheSidecar(t *testing.T) {
	t.Parallel()
	if !testenv.Alone(t, patience) {
		return
	}
	signals := make(chan os.Signal, 2)
	signals <- syscall.SIGWINCH // ignored by default
	signals <- syscall.SIGUSR1
	code := Run(Config{
		Dir: t.TempDir(), Name: "proxy", Mains: []string{"main"}, Command: []string{"/bin/sleep", "1000"},
		StopSignal: syscall.SIGTERM, LostAfter: time.Hour,
		Signals: signals, Log: zerolog.New(zerolog.NewTestWriter(t)),
	})
	if want := exitcode.OfSignal(syscall.SIGUSR1); code != want {
		t.Errorf("the exit code is %d, want %d", code, want)
	}
}

// TestSidecarOfTheLoop: the end of the sidecar wakes the loop by itself. A sidecar that is being stopped is
// gone when process.Stop has returned, one that is not when nothing is left of it.
func TestSidecarOfTheLoop(t *testing.T) {
	t.Parallel()
	if !testenv.Alone(t, patience) {
		return
	}
	sidecar, err := process.Start([]string{"/bin/sh", "-c", "exit 9"})
	if err != nil {
		t.Fatal(err)
	}
	l := &loop{watcher: new(lifetime.Watcher), process: sidecar} // such a watcher gives no hints
	l.wait(nil)                                                  // or the process ends at its -test.timeout
	for _, c := range []struct {
		name string
		stop chan process.Stopped
		done *process.Stopped
		gone bool
	}{
		{"it ended by itself", nil, nil, true},
		{"Stop has not returned", make(chan process.Stopped), nil, false},
		{"Stop has returned", make(chan process.Stopped), &process.Stopped{Exited: true}, true},
	} {
		l.stopResult, l.stopped = c.stop, c.done
		if exited, gone, code := l.sidecar(); !exited || gone != c.gone || code != 9 {
			t.Errorf("%s: exited %v, gone %v, code %d; want true, %v, 9", c.name, exited, gone, code, c.gone)
		}
	}
}

// TestSidecarThatIsLeft: a process that is left when Stop has returned counts as gone, and as killed.
func TestSidecarThatIsLeft(t *testing.T) {
	l := &loop{process: new(process.Process), stopResult: make(chan process.Stopped), stopped: new(process.Stopped)}
	if exited, gone, code := l.sidecar(); exited || !gone || code != exitcode.Lost {
		t.Errorf("exited %v, gone %v, code %d; want false, true, %d", exited, gone, code, exitcode.Lost)
	}
}

// notOnDisk is what the log says of an end that could not be synced.
const notOnDisk = "the end of main may be lost if the node crashes"

// TestSyncOfTheEnds: a stop syncs the ends that the exit code comes from.
func TestSyncOfTheEnds(t *testing.T) {
	t.Parallel()
	t.Run("main has ended", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		main := begin(t, dir, "main")
		p := start(t, dir, `, "Drain": 3600000000000`, server)
		p.await("ready")
		end(t, main, 3)
		p.await("(--drain)")
		if err := os.Remove(lifetime.TerminatedPath(dir, "main")); err != nil { // so that the sync fails
			t.Fatal(err)
		}
		p.signal(syscall.SIGTERM)
		p.await(notOnDisk)
		p.ends(3, "main exited 3; sh stopped by SIGTERM in ")
	})
	t.Run("main has not", func(t *testing.T) {
		t.Parallel()
		p := start(t, t.TempDir(), "", server)
		p.await("ready")
		p.signal(syscall.SIGTERM)
		p.ends(5, "asked to stop; sh stopped by SIGTERM in ")
		if strings.Contains(p.seen.String(), notOnDisk) {
			t.Errorf("it syncs an end that there is not:\n%s", &p.seen)
		}
	})
}
