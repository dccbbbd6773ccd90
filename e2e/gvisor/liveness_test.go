package gvisor

import (
	"os"
	"testing"
	"time"
)

const (
	heartbeat = 15 * time.Second
	// lostAfter is the shortest --lost-after that is without a warning.
	lostAfter = 3 * heartbeat
	// soon is what a reaction within a tick of 1 s takes at most, on a machine that is busy with a dozen sandboxes:
	// far from any other time that could end a shim.
	soon = heartbeat / 2
)

// main starts a main container whose command exits with the code on SIGUSR1, and waits until it has begun.
func (p *pod) main(name, code string) *container {
	p.t.Helper()
	c := p.start(name, []string{"/sentinel", "--", "/stand-in", serveMode, "USR1=" + code})
	c.await("ready")
	return c
}

// proxy starts a sidecar container, whose command exits with 143 on SIGTERM.
func (p *pod) proxy(name string) *container {
	p.t.Helper()
	return p.start(name, []string{"/shim", "--name", "proxy", "--lost-after", lostAfter.String(), "--", "/stand-in", serveMode, "TERM=143"})
}

// running starts a main, and a proxy that sees it but cannot see its lock.
func running(t *testing.T, code string) (p *pod, main, proxy *container) {
	t.Helper()
	p = newPod(t, false)
	main = p.main("main", code)
	proxy = p.proxy("proxy")
	proxy.await("main is taken for running")
	proxy.await("ready")
	return p, main, proxy
}

// end ends a main, and checks that both end with its code, the sidecar at most soon after it.
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
		main.t.Errorf("the sidecar's container has ended %s after main's record:\n%s", took, proxy.log())
	}
	main.t.Logf("the sidecar's container ended %.2f s after main's record", took.Seconds())
	proxy.never("main is running") // as it says where it can see a lock
	proxy.never("killed before it could record")
}

func TestSuccess(t *testing.T) {
	t.Parallel()
	_, main, proxy := running(t, "0")
	end(main, proxy, 0)
}

// Both containers fail, and are restarted: the second attempt is not ended by the end of the first.
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

// A main container that is killed as a whole is missed by its heartbeat.
func TestMainKilled(t *testing.T) {
	t.Parallel()
	p, main, proxy := running(t, "0")
	p.do("kill", "--all", main.name, "KILL")
	main.want(137, patience)
	beat := p.awaitFile("main-running") // the last
	proxy.want(137, lostAfter+patience)
	took := proxy.at.Sub(beat)
	if took < lostAfter {
		t.Errorf("the sidecar's container has ended %s after main's last sign of life, before --lost-after %s:\n%s", took, lostAfter, proxy.log())
	}
	proxy.await("killed before it could record")
	t.Logf("the sidecar's container ended %.1f s after main's last sign of life", took.Seconds())
}

// One that the kubelet restarts before it is missed takes its sidecar over.
func TestMainKilledAndRestarted(t *testing.T) {
	t.Parallel()
	p, main, proxy := running(t, "0")
	p.do("kill", "--all", main.name, "KILL")
	main.want(137, patience)
	end(p.main("main-again", "0"), proxy, 0)
}

// A main that stands still for less than --lost-after is not given up.
func TestMainStopped(t *testing.T) {
	t.Parallel()
	p, main, proxy := running(t, "0")
	p.do("kill", "--all", main.name, "STOP")
	stopped := p.awaitFile("main-running")
	time.Sleep(lostAfter - heartbeat/2 - time.Since(stopped)) // not a wait for anything: nothing is to happen
	if beat := p.awaitFile("main-running"); !beat.Equal(stopped) {
		t.Fatalf("main was not stopped: its heart has beaten at %s and %s", stopped, beat)
	}
	p.do("kill", "--all", main.name, "CONT")
	end(main, proxy, 0)
}

// A machine that was suspended for longer than --lost-after: what the shim has slept itself is no evidence.
func TestSuspended(t *testing.T) {
	t.Parallel()
	p, main, proxy := running(t, "0")
	p.do("pause", "sandbox")
	paused := p.awaitFile("main-running")
	time.Sleep(lostAfter + heartbeat/2 - time.Since(paused)) // not a wait for anything: nothing is to happen
	if beat := p.awaitFile("main-running"); !beat.Equal(paused) {
		t.Fatalf("the sandbox was not paused: main's heart has beaten at %s and %s", paused, beat)
	}
	p.do("resume", "sandbox")
	within(t, func() error { // main's heart beats again, for the heartbeat is long due
		if beat := p.awaitFile("main-running"); !beat.After(paused) {
			return os.ErrDeadlineExceeded
		}
		return nil
	})
	time.Sleep(3 * time.Second) // a few looks of the shim's; nothing is to happen
	end(main, proxy, 0)
}

// A main that works for longer than --lost-after lives by its heartbeat.
func TestLongRunning(t *testing.T) {
	t.Parallel()
	p, main, proxy := running(t, "0")
	began := p.awaitFile("main-running")
	time.Sleep(lostAfter + heartbeat) // not a wait for anything: nothing is to happen
	if beats := p.awaitFile("main-running").Sub(began); beats < lostAfter-heartbeat/2 {
		t.Fatalf("main's last heartbeat was %s after its start, which is %s ago", beats, time.Since(began))
	}
	end(main, proxy, 0)
}

// Where gVisor is told that the volume is the pod's (annotations dev.gvisor.spec.mount.NAME.share, .type and .source of
// the sandbox), its containers share one mount, and so see each other's locks: a killed main is noticed at once.
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
