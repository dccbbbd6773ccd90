package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/sentinel/process"
)

// tick is how often a shim looks if nothing wakes it. A shim that is woken reacts much faster.
const tick = time.Second

func TestEveryCodeThatStandsBeforeTheStart(t *testing.T) {
	t.Parallel()
	var took []time.Duration
	for code := range 256 {
		p := newPod(t)
		p.record("main-terminated", fmt.Sprintln(code))
		start := time.Now()
		s := p.shim("", drive.Command("exit", "99")...)
		s.Want(code)
		took = append(took, time.Since(start))
		wantNotLaunched(t, s)
		p.want("proxy-terminated", fmt.Sprintln(code))
		p.wantFiles("main-terminated", "proxy-terminated")
	}
	if m := median(took); m > tick/2 {
		t.Errorf("the shims took %s to end (median): not at once", m)
	}
}

func TestEveryCodeWhileTheSidecarRuns(t *testing.T) {
	t.Parallel()
	var took []time.Duration
	for code := range 256 {
		p := newPod(t)
		s := p.shim("", "sleep", "1000")
		s.Await("sleep started")
		start := time.Now()
		p.record("main-terminated", fmt.Sprintln(code))
		s.Want(code)
		took = append(took, time.Since(start))
		p.want("proxy-terminated", fmt.Sprintln(code))
	}
	if m := median(took); m > tick/2 {
		t.Errorf("the shims took %s to end (median): nothing wakes them", m)
	}
}

func TestEveryCodeOfTheSidecar(t *testing.T) {
	t.Parallel()
	for code := range 256 {
		p := newPod(t)
		s := p.shim("--log-level disabled", "sh", "-c", fmt.Sprint("exit ", code))
		s.Want(code)
		p.want("proxy-terminated", fmt.Sprintln(code))
		p.wantFiles("proxy-terminated")
	}
}

func TestSidecarThatDiesOfASignal(t *testing.T) {
	t.Parallel()
	for sig := syscall.Signal(1); sig <= 64; sig++ {
		switch sig {
		case unix.SIGCHLD, unix.SIGCONT, unix.SIGURG, unix.SIGWINCH, // ignored by default
			unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, // stop a process
			32, 33: // used by the C library
			continue
		}
		p := newPod(t)
		s := p.shim("", "sh", "-c", fmt.Sprintf("ulimit -c 0; kill -%d $$; sleep 1000", sig))
		s.Want(128 + int(sig))
		p.want("proxy-terminated", fmt.Sprintln(128+int(sig)))
		s.Await("sh died of " + process.SignalName(sig) + " before main had ended")
	}
}

func TestSidecarThatCannotBeStarted(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		sidecar string
		code    int
	}{
		{"/nowhere/proxy", 127},
		{"no-such-proxy", 127},
		{os.DevNull, 126},
		{"/", 126},
	} {
		p := newPod(t)
		s := p.shim("", c.sidecar)
		s.Want(c.code)
		s.Await(c.sidecar)
		p.want("proxy-terminated", fmt.Sprintln(c.code))
	}
}

// TestEndBeforeTheStart is about ends of all kinds, recorded before the first start of the shim or later.
func TestEndBeforeTheStart(t *testing.T) {
	t.Parallel()
	file := func(content string) func(path string) error {
		return func(path string) error { return os.WriteFile(path, []byte(content), 0o644) }
	}
	for _, c := range []struct {
		name string
		make func(path string) error
		code int
	}{
		{"0", file("0\n"), 0},
		{"3", file("3\n"), 3},
		{"no newline", file("3"), 3},
		{"empty", file(""), 0},
		{"garbage", file("killed\n"), 125},
		{"too large a code", file("256\n"), 125},
		{"negative", file("-1\n"), 125},
		{"spaces", file(" 0\n"), 125},
		{"two newlines", file("0\n\n"), 125},
		{"a NUL", file("0\x00"), 125},
		{"long", file(strings.Repeat("0", 5000)), 125},
		{"1 GiB", func(path string) error {
			if err := os.WriteFile(path, nil, 0o644); err != nil {
				return err
			}
			return os.Truncate(path, 1<<30)
		}, 125},
		{"directory", func(path string) error { return os.Mkdir(path, 0o755) }, 125},
		{"FIFO", func(path string) error { return unix.Mkfifo(path, 0o666) }, 125},
		{"link to a code", func(path string) error {
			if err := os.WriteFile(path+"-0", []byte("0\n"), 0o644); err != nil {
				return err
			}
			return os.Symlink(path+"-0", path)
		}, 125},
		{"link to nothing", func(path string) error { return os.Symlink("nothing", path) }, 125},
		{"link to /dev/zero", func(path string) error { return os.Symlink("/dev/zero", path) }, 125},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPod(t)
			if err := c.make(p.path("main-terminated")); err != nil {
				t.Fatal(err)
			}
			s := p.shim("", drive.Command("exit", "99")...)
			s.Want(c.code)
			wantNotLaunched(t, s)
			p.want("proxy-terminated", fmt.Sprintln(c.code))
		})
		t.Run(c.name+" while the sidecar runs", func(t *testing.T) {
			t.Parallel()
			p := newPod(t)
			s := p.shim("", "sleep", "1000")
			s.Await("sleep started")
			if err := c.make(p.path("main-terminated")); err != nil {
				t.Fatal(err)
			}
			s.Want(c.code)
		})
	}
}

// TestStaleEnd is about ends of an earlier attempt that a shim finds after a restart.
func TestStaleEnd(t *testing.T) {
	t.Parallel()
	// restarted returns a pod in which main has failed with 3, and so has the shim.
	restarted := func(t *testing.T) pod {
		p := newPod(t)
		p.record("main-terminated", "3\n")
		s := p.shim("", drive.Command("exit", "99")...)
		s.Want(3)
		return p
	}
	t.Run("does not stop the new sidecar, the next run does", func(t *testing.T) {
		t.Parallel()
		p := restarted(t)
		s := p.racedShim("", drive.Command("server", "TERM=0")...)
		s.Await("in an earlier attempt")
		s.Await("ready")
		run := p.begin("main")
		s.Await("main is running")
		p.end(run, 4)
		s.Want(4)
		p.want("proxy-terminated", "4\n")
	})
	t.Run("the next run was not seen, its end is", func(t *testing.T) {
		t.Parallel()
		p := restarted(t)
		s := p.shim("", "sleep", "1000")
		s.Await("sleep started")
		p.record("main-terminated", "3\n")
		s.Want(3)
	})
	t.Run("attempt after attempt", func(t *testing.T) {
		t.Parallel()
		p := restarted(t)
		for attempt := range 4 {
			code := (3 - attempt) % 4 // 3, 2, 1, 0
			s := p.shim("", "sleep", "1000")
			s.Await("in an earlier attempt")
			s.Await("sleep started")
			m := p.sentinel("", drive.Command("exit", fmt.Sprint(code))...)
			m.Want(code)
			s.Want(code)
		}
	})
	t.Run("a success is never stale", func(t *testing.T) {
		t.Parallel()
		p := restarted(t)
		p.record("main-terminated", "0\n")
		s := p.shim("", drive.Command("exit", "99")...)
		s.Want(0)
		wantNotLaunched(t, s)
	})
	t.Run("under OnFailure, at the first start", func(t *testing.T) {
		t.Parallel()
		p := newPod(t)
		p.record("main-terminated", "3\n")
		s := p.shim("--restart-policy OnFailure", "sleep", "1000")
		s.Await("in an earlier attempt")
		s.Await("sleep started")
		p.record("main-terminated", "0\n")
		s.Want(0)
	})
	t.Run("under --keep-on-failure, at the first start", func(t *testing.T) {
		t.Parallel()
		p := newPod(t)
		p.record("main-terminated", "3\n")
		s := p.shim("--keep-on-failure", drive.Command("server", "TERM=143")...)
		s.Await("in an earlier attempt")
		s.Await("ready")
		s.Signal(syscall.SIGTERM)
		s.Want(143) // not main's 3
	})
	t.Run("under Never there is none", func(t *testing.T) {
		t.Parallel()
		p := restarted(t)
		s := p.shim("--restart-policy Never", drive.Command("exit", "99")...)
		s.Want(3)
		wantNotLaunched(t, s)
	})
	t.Run("an unreadable one", func(t *testing.T) {
		t.Parallel()
		p := restarted(t)
		p.record("main-terminated", "garbage\n")
		s := p.shim("", "sleep", "1000")
		s.Await("sleep started")
		p.record("main-terminated", "5\n")
		s.Want(5)
	})
	t.Run("with --start-timeout it is no beginning", func(t *testing.T) {
		t.Parallel()
		p := restarted(t)
		s := p.shim("--start-timeout 300ms", "sleep", "1000")
		s.Await("sleep started")
		s.Want(124)
		s.Await("--start-timeout")
	})
	t.Run("its sentinel was killed before this shim began", func(t *testing.T) {
		t.Parallel()
		p := restarted(t)
		killedSentinel(t, p)
		s := p.shim("--lost-after 1s", "sleep", "1000")
		s.Await("main is taken for running")
		s.Await("in an earlier attempt")
		m := p.sentinel("", drive.Command("exit", "6")...)
		m.Want(6)
		s.Want(6)
	})
}

func TestSeveralMains(t *testing.T) {
	t.Parallel()
	t.Run("the sidecar is kept for the last, the first failure in the order of the flags counts", func(t *testing.T) {
		t.Parallel()
		p := newPod(t)
		a, b, c := p.begin("a"), p.begin("b"), p.begin("c")
		s := p.racedShim("--main a --main b --main c", drive.Command("server", "TERM=0")...)
		s.Await("ready")
		p.end(c, 7)
		s.Await("c exited 7")
		p.end(b, 5)
		s.Await("b exited 5")
		wantNot(t, s, "got SIGTERM")
		p.end(a, 0)
		s.Want(5)
		s.Await("got SIGTERM")
	})
	t.Run("in a variable", func(t *testing.T) {
		t.Parallel()
		p := newPod(t)
		p.record("a-terminated", "0\n")
		p.record("b-terminated", "9\n")
		argv := drive.Wrap("shim", p.flags(""), []string{"sleep", "1000"})
		s := drive.Start(t, append([]string{"env", "SHIM_MAIN=a b"}, argv...))
		s.Want(9)
	})
	t.Run("all succeed", func(t *testing.T) {
		t.Parallel()
		p := newPod(t)
		a, b := p.begin("a"), p.begin("b")
		s := p.shim("--main a --main b", "sleep", "1000")
		s.Await("sleep started")
		p.end(a, 0)
		p.end(b, 0)
		s.Want(0)
	})
}

// TestChain: a shim may follow another shim. So the sidecar of a sidecar ends after it.
func TestChain(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	flags := []string{"--dir", p.dir, "--name", "last", "--main", "proxy"}
	last := drive.Start(t, drive.Wrap("shim", flags, drive.Command("server", "TERM=0")))
	last.Await("ready")
	proxy := p.shim("", drive.Command("server", "TERM=0:300ms")...)
	proxy.Await("ready")
	last.Await("proxy is running")
	m := p.sentinel("", drive.Command("exit", "3")...)
	m.Want(3)
	proxy.Want(3)
	last.Want(3)
	later := time.Duration(number(t, last, "got SIGTERM at ") - number(t, proxy, "got SIGTERM at "))
	if later < 300*time.Millisecond {
		t.Errorf("the last was stopped %s after the proxy, which took 300ms to end", later)
	}
	p.wantFiles("last-terminated", "main-terminated", "proxy-terminated")
}

// TestPair runs main in a sentinel, and a sidecar in a shim, as in a manifest.
func TestPair(t *testing.T) {
	t.Parallel()
	for _, code := range []int{0, 3, 255} {
		p := newPod(t)
		m := p.sentinel("", drive.Command("server", fmt.Sprintf("USR1=%d", code))...)
		s := p.shim("", drive.Command("server", "TERM=143")...)
		m.Await("ready")
		s.Await("ready")
		s.Await("main is running")
		m.Signal(syscall.SIGUSR1)
		m.Want(code)
		s.Want(code)
		p.wantFiles("main-terminated", "proxy-terminated")
	}
}

// TestMissingCommand: a sentinel with an invalid command line does not leave a shim waiting.
func TestMissingCommand(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	s := p.shim("", "sleep", "1000")
	s.Await("sleep started")
	m := drive.Start(t, []string{drive.Program("sentinel"), "--dir", p.dir})
	m.Want(125)
	s.Want(125)
}

// TestKeepOnFailure goes through several attempts of a main, with one sidecar.
func TestKeepOnFailure(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	s := p.racedShim("--keep-on-failure", drive.Command("server", "TERM=143")...)
	s.Await("ready")
	for attempt := 1; attempt <= 3; attempt++ {
		m := p.sentinel("", drive.Command("exit", "3")...)
		m.Want(3)
		s.AwaitCount("main exited 3", attempt)
	}
	seen := strings.Count(s.Output(), "main is running") // a run may be too short to be seen live
	m := p.sentinel("", drive.Command("server")...)
	m.Await("ready")
	s.AwaitCount("main is running", seen+1)
	m.Kill()
	s.Await("main was killed before it could record an exit code")
	wantNot(t, s, "got SIGTERM")
	m = p.sentinel("", drive.Command("exit", "0")...)
	m.Want(0)
	s.Want(0)
}

// TestRestartBarrier: main fails, and its next attempt begins while the sidecar is still stopping. It must use the next
// sidecar, not this one.
func TestRestartBarrier(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	socket := "/" + strings.TrimPrefix(p.path("proxy.sock"), "/")
	sidecar := drive.Command("server", "socket="+socket, "TERM=0:700ms")
	waitFor := "--wait-for unix://" + socket

	first := p.shim("", sidecar...)
	first.Await("ready")
	m := p.sentinel(waitFor, drive.Command("server", "USR1=3")...)
	m.Await("ready")
	m.Signal(syscall.SIGUSR1)
	m.Want(3)
	first.Await("got SIGTERM")

	m = p.sentinel(waitFor, drive.Command("ask", socket)...)
	m.Await("waiting for the sidecars of the earlier run to end")
	wantNot(t, m, "answered")
	first.Want(3)
	second := p.shim("", sidecar...)
	second.Await("ready")
	m.Want(0)
	second.Want(0)

	sidecars := number(t, second, `"pid":`)
	if who := number(t, m, "answered by "); who != sidecars {
		t.Errorf("process %d answered the second attempt, not the second sidecar, process %d:\n%s",
			who, sidecars, second.Output())
	}
}
