package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/sentinel/process"
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// stopNow stops a shim at once if it knows of no live main.
const stopNow = syscall.SIGTERM

func TestHold(t *testing.T) {
	t.Parallel()
	t.Run("the sidecar is kept until main has ended", func(t *testing.T) {
		t.Parallel()
		p, run, s := withRacedServer(t, "--hold 1h", "TERM=0")
		s.Signal(syscall.SIGTERM)
		s.Await("is kept until main has ended")
		wantNot(t, s, "got SIGTERM")
		p.end(run, 3)
		s.Want(3)
		s.Await("got SIGTERM")
		s.Await("asked to stop, main exited 3")
	})
	t.Run("both get SIGTERM, main works through the sidecar to its end", func(t *testing.T) {
		t.Parallel()
		p := newPod(t)
		socket := p.path("s")
		s := p.shim("", drive.Command("server", "TERM=0", "socket="+socket)...)
		s.Await("ready")
		m := p.sentinel("", drive.Command("server", "TERM=0:300ms")...)
		m.Await("ready")
		s.Await("main is running")
		s.Signal(syscall.SIGTERM)
		m.Signal(syscall.SIGTERM)
		m.Want(0)
		s.Want(0)
		later := time.Duration(number(t, s, "got SIGTERM at ") - number(t, m, "got SIGTERM at "))
		if later < 300*time.Millisecond {
			t.Errorf("the sidecar was stopped %s after the pod's SIGTERM, main took 300ms", later)
		}
	})
	t.Run("at most for --hold", func(t *testing.T) {
		t.Parallel()
		_, _, s := withServer(t, "--hold 500ms", "TERM=9")
		sent := now()
		s.Signal(syscall.SIGTERM)
		s.Want(9)
		if got := number(t, s, "got SIGTERM at "); got-sent < int64(500*time.Millisecond) {
			t.Errorf("the sidecar was stopped after %s, before --hold 500ms", time.Duration(got-sent))
		}
	})
	t.Run("a --drain included", func(t *testing.T) {
		t.Parallel()
		p, run, s := withServer(t, "--hold 700ms --drain 1h", "TERM=9")
		s.Signal(syscall.SIGTERM)
		s.Await("is kept until main has ended")
		p.end(run, 0)
		s.Await("the rest of --hold 700ms (--drain is 1h0m0s)")
		s.Want(0)
		s.Await("got SIGTERM")
	})
	t.Run("not after a second SIGTERM", func(t *testing.T) {
		t.Parallel()
		_, _, s := withServer(t, "--hold 1h", "TERM=9")
		s.Signal(syscall.SIGTERM)
		s.Await("is kept until main has ended")
		s.Signal(syscall.SIGTERM)
		s.Want(9)
	})
	t.Run("not with --hold 0s", func(t *testing.T) {
		t.Parallel()
		_, _, s := withServer(t, "--hold 0s --drain 1h", "TERM=9")
		s.Signal(syscall.SIGTERM)
		s.Want(9)
	})
	t.Run("not where no main has begun", func(t *testing.T) {
		t.Parallel()
		p := newPod(t)
		s := p.shim("--hold 1h", drive.Command("server", "TERM=9")...)
		s.Await("ready")
		s.Signal(syscall.SIGTERM)
		s.Want(9)
		p.want("proxy-terminated", "9\n")
	})
	t.Run("also while main is only taken for running", func(t *testing.T) {
		t.Parallel()
		p := newPod(t)
		p.record("main-running", "running\n") // without a lock, as in gVisor
		s := p.shim("--hold 1h", drive.Command("server", "TERM=9")...)
		s.Await("ready")
		s.Signal(syscall.SIGTERM)
		s.Await("is kept until main has ended")
		wantNot(t, s, "got SIGTERM")
		p.record("main-terminated", "3\n")
		s.Want(3)
		s.Await("got SIGTERM")
	})
	t.Run("the shim's own --stop-signal means the same as SIGTERM", func(t *testing.T) {
		t.Parallel()
		p, run, s := withServer(t, "--stop-signal USR1 --hold 1h", "USR1=9")
		s.Signal(syscall.SIGUSR1)
		s.Await("is kept until main has ended")
		wantNot(t, s, "got")
		p.end(run, 0)
		s.Want(0)
		s.Await("got SIGUSR1")
	})
	t.Run("SIGTERM stops with --stop-signal", func(t *testing.T) {
		t.Parallel()
		p := newPod(t)
		s := p.shim("--stop-signal SIGQUIT", drive.Command("server", "QUIT=9", "TERM=1")...)
		s.Await("ready")
		s.Signal(syscall.SIGTERM)
		s.Want(9)
	})
}

func TestDrain(t *testing.T) {
	t.Parallel()
	t.Run("keeps the sidecar", func(t *testing.T) {
		t.Parallel()
		p, run, s := withServer(t, "--drain 500ms", "TERM=0")
		ended := now()
		p.end(run, 3)
		s.Want(3)
		if got := number(t, s, "got SIGTERM at "); got-ended < int64(500*time.Millisecond) {
			t.Errorf("the sidecar was stopped after %s, before --drain 500ms", time.Duration(got-ended))
		}
	})
	t.Run("SIGTERM cuts it off", func(t *testing.T) {
		t.Parallel()
		p, run, s := withRacedServer(t, "--drain 1h", "TERM=0")
		p.end(run, 3)
		s.Await("(--drain)")
		p.want("proxy-running", "stopping\n")
		s.Signal(syscall.SIGTERM)
		s.Want(3)
		s.Await("--drain was cut off by SIGTERM after ")
		s.Await("of 1h0m0s: if this is a native sidecar, delay the SIGTERM (lifecycle.preStop.sleep)")
	})
	for range 8 { // the shim may see either first
		t.Run("SIGTERM comes with main's end", func(t *testing.T) {
			t.Parallel()
			p, run, s := withServer(t, "--drain 1h", "TERM=0")
			s.Signal(syscall.SIGSTOP)
			p.end(run, 3)
			s.Signal(syscall.SIGTERM)
			s.Signal(syscall.SIGCONT)
			s.Want(3)
			s.Await("--drain was cut off by SIGTERM after ")
		})
	}
	t.Run("a main that begins again waits for the next sidecar, and not this one for it", func(t *testing.T) {
		t.Parallel()
		p, run, s := withServer(t, "--drain 1h", "TERM=0")
		s.Await("main is running")
		p.end(run, 3)
		s.Await("(--drain)")
		run = p.begin("main")
		s.AwaitCount("main is running", 2)
		s.Signal(syscall.SIGTERM)
		s.Want(3)
		p.end(run, 0)
		wantNot(t, s, "is kept: main has begun")
	})
	t.Run("the sidecar ends within it", func(t *testing.T) {
		t.Parallel()
		p, run, s := withServer(t, "--drain 1h", "USR1=9")
		p.end(run, 3)
		s.Await("(--drain)")
		s.Signal(syscall.SIGUSR1)
		s.Want(3)
	})
}

func TestStop(t *testing.T) {
	t.Parallel()
	t.Run("the sidecar ends in its own time, its code is not used", func(t *testing.T) {
		t.Parallel()
		p, run, s := withServer(t, "--grace-period 1h", "TERM=143:300ms")
		p.end(run, 3)
		s.Want(3)
		s.Await(`"sidecar_code":143`)
		s.Await("stopped by SIGTERM in ")
		if n := strings.Count(s.Output(), "got "); n != 1 {
			t.Errorf("the sidecar got %d signals, not one:\n%s", n, s.Output())
		}
	})
	t.Run("one that ignores SIGTERM is killed after --grace-period", func(t *testing.T) {
		t.Parallel()
		p, run, s := withServer(t, "--grace-period 600ms")
		ended := time.Now()
		p.end(run, 0)
		s.Want(0)
		if took := time.Since(ended); took < 600*time.Millisecond {
			t.Errorf("the sidecar was killed after %s, before --grace-period 600ms", took)
		}
		s.Await("did not stop within ")
		// Once to the process, once to its group.
		if n := strings.Count(s.Output(), "got SIGTERM"); n != 2 {
			t.Errorf("the sidecar got SIGTERM %d times, not twice:\n%s", n, s.Output())
		}
	})
	t.Run("a shell that runs a server in the foreground", func(t *testing.T) {
		t.Parallel()
		p := newPod(t)
		run := p.begin("main")
		server := strings.Join(drive.Command("server", "TERM=0"), " ")
		script := "trap 'echo cleaned up; exit 0' TERM; " + server + "; echo not reached"
		s := p.shim("--grace-period 1s", "sh", "-c", script)
		s.Await("ready")
		p.end(run, 3)
		s.Want(3)
		s.Await("got SIGTERM")
		s.Await("cleaned up")
		s.Await("stopped by SIGTERM")
		wantNot(t, s, "not reached")
	})
	t.Run("what it leaves in its group is killed with it", func(t *testing.T) {
		t.Parallel()
		p, run, s := withServer(t, "--grace-period 500ms", "child", "TERM=0")
		child := number(t, s, "child ")
		p.end(run, 3)
		s.Want(3)
		wantDead(t, int(child))
	})
	t.Run("a sidecar that ends first leaves nothing either", func(t *testing.T) {
		t.Parallel()
		_, _, s := withRacedServer(t, "--grace-period 500ms", "child", "USR1=9")
		child := number(t, s, "child ")
		s.Signal(syscall.SIGUSR1)
		s.Want(9)
		wantDead(t, int(child))
		s.Await("exited 9 by itself before main had ended")
	})
	t.Run("with --grace-period 0s at once", func(t *testing.T) {
		t.Parallel()
		p, run, s := withServer(t, "--grace-period 0s")
		p.end(run, 4)
		s.Want(4)
	})
	t.Run("a stopped (SIGSTOP) sidecar is killed", func(t *testing.T) {
		t.Parallel()
		p, run, s := withServer(t, "--grace-period 300ms", "TERM=0")
		if err := unix.Kill(int(number(t, s, `"pid":`)), unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		p.end(run, 4)
		s.Want(4)
	})
	t.Run("the sidecar dies with its shim", func(t *testing.T) {
		t.Parallel()
		p := newPod(t)
		s := p.shim("", drive.Command("server")...)
		s.Await("ready")
		sidecar := number(t, s, `"pid":`)
		s.Kill()
		s.Want(137)
		awaitDead(t, int(sidecar))
		p.want("proxy-running", "running\n")
	})
}

// awaitDead waits for a process that was sent SIGKILL.
func awaitDead(t *testing.T, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // it has ended
	}
	defer unix.Close(fd)
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(drive.Patience.Milliseconds()))
	if err != nil && err != unix.EINTR || err == nil && n != 1 {
		t.Fatalf("process %d is alive after %s: %v", pid, drive.Patience, err)
	}
}

// TestForwarding sends every other signal. Each arrives once, and stops neither program.
func TestForwarding(t *testing.T) {
	t.Parallel()
	p, run, s := withServer(t, "", "TERM=0")
	var sent []string
	for sig := syscall.Signal(1); sig <= 64; sig++ {
		switch sig {
		case unix.SIGTERM, // asks to stop
			unix.SIGKILL, unix.SIGSTOP, // cannot be forwarded
			unix.SIGCHLD, unix.SIGURG, unix.SIGPIPE, unix.SIGXFSZ, unix.SIGXCPU,
			unix.SIGSEGV, unix.SIGBUS, unix.SIGFPE, unix.SIGILL, unix.SIGABRT, unix.SIGTRAP, unix.SIGSYS,
			unix.SIGPROF, 32, 33, 34: // used by Go's runtime
			continue
		}
		name := "got " + process.SignalName(sig) + " at "
		s.Signal(sig)
		s.Await(name)
		sent = append(sent, name)
	}
	p.end(run, 3)
	s.Want(3)
	for _, name := range sent {
		if n := strings.Count(s.Output(), name); n != 1 {
			t.Errorf("the sidecar printed %q %d times, not once", name, n)
		}
	}
	if len(sent) < 40 {
		t.Errorf("only %d signals were sent, not at least 40", len(sent))
	}
}

// TestSignalBeforeTheLaunch: a shim that waits for another run of its name has not started its sidecar yet. It forwards
// SIGINT, which comes meanwhile.
func TestSignalBeforeTheLaunch(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	other := p.begin("proxy")
	s := p.shim("", "sleep", "1000")
	drive.Eventually(t, "the shim begins", func() bool { return strings.HasPrefix(testenv.Names(t, p.dir), ".proxy-") })
	s.Signal(syscall.SIGINT)
	p.end(other, 0)
	s.Want(128 + int(syscall.SIGINT))
}

// TestTwoOfOneName: the second of two sidecars with the same name fails, and says why.
func TestTwoOfOneName(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	argv := append([]string{drive.Program("shim"), "--dir", p.dir, "--"}, "sh", "-c", "echo up; exec sleep 1000")
	first := drive.Start(t, argv)
	first.Await("up")
	second := drive.Start(t, argv)
	second.Want(125)
	second.Await("another sentinel or shim named sh is running on this volume")
	second.Await("--name")
	wantNot(t, second, "up\n")
	p.record("main-terminated", "3\n")
	first.Want(3)
	p.want("sh-terminated", "3\n")
}

// TestSlowLog: a slow reader of the log does not keep a shim from stopping its sidecar.
func TestSlowLog(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	run := p.begin("main")
	log := filepath.Join(t.TempDir(), "log")
	if err := unix.Mkfifo(log, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(log, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	// Opened again: O_NONBLOCK is a flag of the open file.
	filler, err := unix.Open(log, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(filler)

	argv := drive.Wrap("shim", p.flags(""), drive.Command("server", "TERM=0"))
	s := drive.Start(t, argv, func(c *exec.Cmd) { c.Stderr = reader })
	s.Await("ready")
	for err == nil {
		_, err = unix.Write(filler, make([]byte, 1))
	}
	p.end(run, 0)
	s.Await("got SIGTERM")
	select {
	case <-s.Exited():
		t.Fatal("the shim has ended, although its log had no room left")
	default:
	}
	go func() { _, _ = io.Copy(io.Discard, reader) }()
	s.Want(0)
}
