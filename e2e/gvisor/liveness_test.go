package gvisor

import (
	"fmt"
	"testing"
	"time"
)

const (
	heartbeat = 15 * time.Second
	// lostAfter is the shortest --lost-after without a warning.
	lostAfter = 3 * heartbeat
	// soon is how long a shim may take that reacts at its next tick, of 1 s, on a machine with a dozen sandboxes.
	// Every other timeout that could end a shim is much longer.
	soon = heartbeat / 2
)

// main starts a main container, whose command exits with the code on SIGUSR1, and waits until the command runs.
func (p *pod) main(name, code string) *container {
	p.t.Helper()
	c := p.start(name, []string{"/sentinel", "--", "/stand-in", serveMode, "USR1=" + code})
	c.await("ready")
	return c
}

// proxy starts a sidecar container, whose command exits with 143 on SIGTERM.
func (p *pod) proxy(name string) *container {
	p.t.Helper()
	return p.start(name, []string{
		"/shim", "--name", "proxy", "--lost-after", lostAfter.String(), "--", "/stand-in", serveMode, "TERM=143",
	})
}

// running starts a main, and a proxy that sees main's file but not the lock on it.
func running(t *testing.T, code string) (p *pod, main, proxy *container) {
	t.Helper()
	p = newPod(t, false)
	main = p.main("main", code)
	proxy = p.proxy("proxy")
	proxy.await("main is taken for running")
	proxy.await("ready")
	return p, main, proxy
}

// end ends a main, and checks that both containers exit with its code, the sidecar at most soon after main.
func end(main, proxy *container, code int) {
	main.t.Helper()
	proxy.wantAlive()
	main.pod.do("kill", main.name, "USR1")
	main.pod.awaitFile("main-terminated")
	began := time.Now()
	main.want(code, patience)
	proxy.want(code, patience)
	took := proxy.at.Sub(began)
	if took > soon {
		main.t.Errorf("the sidecar's container ended %s after main-terminated was there, want at most %s:\n%s",
			took, soon, proxy.log())
	}
	main.t.Logf("the sidecar's container ended %.2f s after main-terminated was there", took.Seconds())
	proxy.never("main is running") // that would mean that it sees the lock
	proxy.never("killed before it could record")
}

func TestSuccess(t *testing.T) {
	t.Parallel()
	_, main, proxy := running(t, "0")
	end(main, proxy, 0)
}

// Both containers fail and are restarted. The recorded end of the first attempt does not end the second.
func TestFailureAndRestart(t *testing.T) {
	t.Parallel()
	p, main, proxy := running(t, "3")
	end(main, proxy, 3)
	proxy = p.proxy("proxy-again")
	proxy.await("ready")
	main = p.main("main-again", "0")
	end(main, proxy, 0)
}

func TestMainEndsBeforeTheSidecarStarts(t *testing.T) {
	t.Parallel()
	p := newPod(t, false)
	main := p.main("main", "3")
	p.do("kill", main.name, "USR1")
	main.want(3, patience)
	proxy := p.proxy("proxy")
	proxy.want(3, patience)
	proxy.await("was not started")
	proxy.never("ready")
}

// A main container is killed as a whole. The shim notices that the heartbeat has stopped.
func TestMainKilled(t *testing.T) {
	t.Parallel()
	p, main, proxy := running(t, "0")
	p.do("kill", "--all", main.name, "KILL")
	main.want(137, patience)
	beat := p.awaitFile("main-running") // the last heartbeat
	proxy.want(137, lostAfter+patience)
	took := proxy.at.Sub(beat)
	if took < lostAfter {
		t.Errorf("the sidecar's container ended %s after main's last heartbeat, want at least --lost-after %s:\n%s",
			took, lostAfter, proxy.log())
	}
	proxy.await("killed before it could record")
	t.Logf("the sidecar's container ended %.1f s after main's last heartbeat", took.Seconds())
}

// A killed main container that is restarted before --lost-after keeps its sidecar.
func TestMainKilledAndRestarted(t *testing.T) {
	t.Parallel()
	p, main, proxy := running(t, "0")
	p.do("kill", "--all", main.name, "KILL")
	main.want(137, patience)
	end(p.main("main-again", "0"), proxy, 0)
}

// A main that is stopped for less than --lost-after keeps its sidecar.
func TestMainStopped(t *testing.T) {
	t.Parallel()
	p, main, proxy := running(t, "0")
	p.do("kill", "--all", main.name, "STOP")
	stopped := p.awaitFile("main-running")
	time.Sleep(lostAfter - heartbeat/2 - time.Since(stopped)) // nothing may happen in this time
	if beat := p.awaitFile("main-running"); !beat.Equal(stopped) {
		t.Fatalf("main was not stopped: it had heartbeats at %s and %s", stopped, beat)
	}
	p.do("kill", "--all", main.name, "CONT")
	end(main, proxy, 0)
}

// The machine is suspended for longer than --lost-after. The shim does not count the time in which it slept itself.
func TestSuspended(t *testing.T) {
	t.Parallel()
	p, main, proxy := running(t, "0")
	p.do("pause", "sandbox")
	paused := p.awaitFile("main-running")
	time.Sleep(lostAfter + heartbeat/2 - time.Since(paused)) // nothing may happen in this time
	if beat := p.awaitFile("main-running"); !beat.Equal(paused) {
		t.Fatalf("the sandbox was not paused: main had heartbeats at %s and %s", paused, beat)
	}
	p.do("resume", "sandbox")
	within(t, func() error {
		if beat := p.awaitFile("main-running"); !beat.After(paused) {
			return fmt.Errorf("main has had no heartbeat since the sandbox was resumed, the last one was at %s", beat)
		}
		return nil
	})
	time.Sleep(3 * time.Second) // the shim looks a few times, and must not end
	end(main, proxy, 0)
}

// A main that works for longer than --lost-after keeps its sidecar by its heartbeat.
func TestLongRunning(t *testing.T) {
	t.Parallel()
	p, main, proxy := running(t, "0")
	began := p.awaitFile("main-running")
	time.Sleep(lostAfter + heartbeat) // nothing may happen in this time
	if beats := p.awaitFile("main-running").Sub(began); beats < lostAfter-heartbeat/2 {
		t.Fatalf("main started %s ago, but its last heartbeat was %s after its start", time.Since(began), beats)
	}
	end(main, proxy, 0)
}

// With gVisor's annotations about the volume on the sandbox (dev.gvisor.spec.mount.NAME.share, .type and .source), its
// containers share one mount and see each other's locks. So the shim notices at once that main is killed.
func TestSharedMount(t *testing.T) {
	t.Parallel()
	p := newPod(t, true)
	main := p.main("main", "0")
	proxy := p.proxy("proxy")
	proxy.await("main is running")
	p.do("kill", "--all", main.name, "KILL")
	main.want(137, patience)
	proxy.want(137, patience)
	proxy.await("killed before it could record")
}
