package main

import (
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
)

// killedSentinel leaves on the volume what a killed sentinel leaves.
func killedSentinel(t *testing.T, p pod) {
	t.Helper()
	m := p.sentinel("", drive.Command("server")...)
	m.Await("ready")
	m.Kill()
	m.Want(137)
	p.want("main-running", "running\n")
}

// TestKilledSentinel kills a sentinel at random instants, during its start or after the shim has seen it run. If the
// shim has seen it run, the lock wakes the shim, which ends with 137. The command is dead.
func TestKilledSentinel(t *testing.T) {
	t.Parallel()
	const seed = 20240607
	rng := rand.New(rand.NewPCG(seed, 0))
	var took []time.Duration
	for i := range 120 {
		p := newPod(t)
		s := p.shim("--lost-after 1h", "sleep", "1000")
		s.Await("sleep started")

		// The command has the pipe as well: at its end both are dead.
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		argv := drive.Wrap("sentinel", []string{"--dir", p.dir}, []string{"sleep", "1000"})
		m := drive.Start(t, argv, func(c *exec.Cmd) { c.Stdout = w })
		w.Close()
		instant := time.Duration(rng.Int64N(int64(10 * time.Millisecond)))
		if i%2 == 0 {
			s.Await("main is running")
		}
		time.Sleep(instant)
		killed := time.Now()
		m.Kill()
		m.Want(137)
		_ = r.SetReadDeadline(time.Now().Add(drive.Patience))
		if _, err := io.ReadAll(r); err != nil {
			t.Fatalf("seed %d, run %d, killed after %s: the command outlives its sentinel: %v", seed, i, instant, err)
		}
		r.Close()

		if _, err := os.Lstat(p.path("main-running")); err != nil {
			// The run had not begun yet. The shim has nothing to react to.
			s.Signal(stopNow)
			s.Want(143)
			s.Await("asked to stop") // the last line
			wantNot(t, s, "main is running")
			continue
		}
		if !s.AwaitUnlessExited("main is taken for running") {
			took = append(took, time.Since(killed))
			s.Want(137)
			s.Await("main was killed before it could record an exit code")
			p.want("proxy-terminated", "137\n")
			continue
		}
		// The sentinel was dead before the shim could look.
		s.Signal(stopNow)
		s.Want(143)
		s.Await("asked to stop")
		wantNot(t, s, "main is running")
	}
	if m := median(took); m > tick/4 {
		t.Errorf("seed %d: the shims took %s to end (median): the lock does not wake them", seed, m)
	}
	t.Logf("%d sentinels were seen running; the shims ended after %s (median)", len(took), median(took))
}

// TestSentinelKilledUnseen: a dead file cannot be told from a live run whose locks are not shared, so the shim waits
// for --lost-after.
func TestSentinelKilledUnseen(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	killedSentinel(t, p)
	start := time.Now()
	s := p.racedShim("--lost-after 2s", drive.Command("server", "TERM=0")...)
	s.Await("ready")
	s.Want(137)
	if took := time.Since(start); took < 2*time.Second {
		t.Errorf("main was given up after %s, before --lost-after 2s:\n%s", took, s.Output())
	}
	s.Await("main is taken for running")
	s.Await("got SIGTERM")
	p.want("proxy-terminated", "137\n")
}

// TestHeartbeat simulates a volume on which locks are not shared: the owner of the run has no lock, and updates the
// modification time of its file.
func TestHeartbeat(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	p.record("main-running", "running\n")
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		beat := time.NewTicker(50 * time.Millisecond)
		defer beat.Stop()
		for {
			select {
			case <-stop:
				return
			case now := <-beat.C:
				if err := os.Chtimes(p.path("main-running"), now, now); err != nil {
					t.Error(err)
					return
				}
			}
		}
	}()
	s := p.shim("--lost-after 2s", drive.Command("server", "TERM=0")...)
	s.Await("main is taken for running")
	select {
	case <-s.Exited():
		t.Errorf("a live main was taken for dead:\n%s", s.Output())
	case <-time.After(3 * 2 * time.Second): // not a wait for anything: nothing may happen
	}
	close(stop)
	<-stopped
	s.Want(137)
	s.Await("got SIGTERM")
}
