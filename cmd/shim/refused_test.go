package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// These tests are about system calls and signals that the kernel or a seccomp profile refuses.

// TestCallsRefused: if a profile refuses a call, both programs still learn the exit code if that is possible. If not,
// both end and say why.
func TestCallsRefused(t *testing.T) {
	t.Parallel()
	const unknown = "the exit code of sh is unknown: "
	for _, c := range []struct {
		refused string
		code    int
		says    string
	}{
		{"waitid", 3, ""},
		{"wait4", 125,
			unknown + "wait4: operation not permitted: allow waitid and wait4 in the container's seccomp profile"},
		{"waitid,wait4", 125,
			unknown + "waitid: operation not permitted, wait4: operation not permitted: allow waitid"},
		{"prctl", 3, ""},
		{"prctl,waitid", 3, ""},
		{"prctl-unknown", 3, ""},
	} {
		for _, program := range []string{"sentinel", "shim"} {
			t.Run(program+" without "+c.refused, func(t *testing.T) {
				t.Parallel()
				p := newPod(t)
				flags := []string{"--dir", p.dir, "--name", "own"}
				s := p.without(c.refused, drive.Wrap(program, flags, []string{"sh", "-c", "echo ready; exit 3"}))
				s.Want(c.code)
				if c.says != "" && program == "shim" {
					s.Await(`"message":"before main had ended: ` + c.says)
				}
				s.Await(c.says)
				if strings.Contains(s.Output(), "chmod") {
					t.Errorf("the log blames the mode of the file:\n%s", s.Output())
				}
				p.want("own-terminated", map[int]string{3: "3\n", 125: "125\n"}[c.code])
			})
		}
	}
	t.Run("a stop without prctl", func(t *testing.T) {
		t.Parallel()
		p := newPod(t)
		run := p.begin("main")
		s := p.shimWithout("prctl", "--grace-period 1h", drive.Command("server", "TERM=0")...)
		s.Await("ready")
		p.end(run, 4)
		s.Want(4)
		s.Await("stopped by SIGTERM in ")
	})
	t.Run("a stop without prctl, of orphans that another process reaps", func(t *testing.T) {
		t.Parallel()
		p := newPod(t)
		run := p.begin("main")
		s := p.shimWithout("prctl", "--grace-period 1h",
			"sh", "-c", `sleep 1000 & trap "exit 0" TERM; echo ready; while :; do sleep 0.02; done`)
		s.Await("ready")
		p.end(run, 4)
		s.Want(4)
		s.Await("stopped by SIGTERM in ")
		s.AwaitAll() // the orphan has ended, too
	})
	for _, refused := range []string{"waitid", "wait4"} {
		t.Run("a stop without "+refused, func(t *testing.T) {
			t.Parallel()
			p := newPod(t)
			run := p.begin("main")
			s := p.shimWithout(refused, "--grace-period 1h", drive.Command("server", "TERM=0")...)
			s.Await("ready")
			p.end(run, 4)
			s.Want(4)
			s.AwaitAll()
		})
	}
}

// TestStopWithoutCapKill: a shim does not wait for a sidecar that it may not signal, and says what to do.
func TestStopWithoutCapKill(t *testing.T) {
	testenv.NeedRoot(t, "to drop a capability and become another user")
	t.Parallel()
	const refused = " was not stopped: SIGTERM could not be sent to "
	const remedy = ": it runs as another user than its wrapper: " +
		"give the container the capability KILL (securityContext.capabilities.add)"
	start := func(p pod, command ...string) *drive.Process {
		argv := drive.Wrap("shim", p.flags("--grace-period 1h"), command)
		return drive.Start(t, drive.Command("without-kill", argv...))
	}
	sidecar := drive.Command("as-somebody", `echo ready; exec sleep 1000`)
	t.Run("the sidecar", func(t *testing.T) {
		t.Parallel()
		p := newPod(t)
		run := p.begin("main")
		s := start(p, sidecar...)
		s.Await("ready")
		p.end(run, 3)
		s.Want(3)
		name := filepath.Base(sidecar[0])
		s.Await("main exited 3; " + name + refused + name + remedy)
	})
	t.Run("signals for the sidecar", func(t *testing.T) {
		t.Parallel()
		s := start(newPod(t), sidecar...)
		s.Await("ready")
		name := filepath.Base(sidecar[0])
		s.Signal(syscall.SIGUSR1)
		s.Await("SIGUSR1 could not be sent to " + name + remedy)
		s.Signal(syscall.SIGUSR2) // received before the next one
		s.Signal(stopNow)
		s.Want(137)
		s.Await("asked to stop; " + name + refused + name + remedy)
		if n := strings.Count(s.Output(), "SIGUSR"); n != 1 {
			t.Errorf("a refused signal is logged %d times, want once:\n%s", n, s.Output())
		}
	})
	t.Run("what a shell has left", func(t *testing.T) {
		t.Parallel()
		p := newPod(t)
		run := p.begin("main")
		left := drive.Command("as-somebody", `exec tail -f /proc/self/comm`) // says its own name, once it has it
		s := start(p, append([]string{"sh", "-c", `"$@"; echo next`, "sh"}, left...)...)
		s.Await("tail\n")
		p.end(run, 3)
		s.Want(3)
		s.Await("main exited 3; sh" + refused + "tail" + remedy)
	})
}

// TestStopOfAll: a shim stops everything that its sidecar has started, in its process group and outside, and lets each
// process clean up.
func TestStopOfAll(t *testing.T) {
	t.Parallel()
	// outside runs a script in a session of its own.
	outside := func(script string) string {
		return strings.Join(drive.Command("session"), " ") + ` '` + script + `'`
	}
	for _, c := range []struct {
		name, flags, script string
		says, not           string
	}{
		{"a daemon outside of the group cleans up", "--grace-period 1h",
			outside(`trap "sleep 0.3; echo cleaned up; exit 0" TERM; echo ready; while :; do sleep 0.02; done`) +
				`; sleep 1000`,
			"cleaned up\n", "killed"},
		// A shell makes a command that it starts with & ignore SIGINT.
		{"a helper that ignores the stop signal", "--grace-period 1h --stop-signal INT",
			`sleep 1000 & trap "exit 0" INT; echo ready; while :; do sleep 0.02; done`,
			"sh stopped by SIGINT in ", "killed"},
		{"a daemon that ignores SIGTERM is named", "--grace-period 500ms",
			outside(`trap "" TERM; echo ready; while :; do sleep 0.02; done`) + `; sleep 1000`,
			"main exited 3; sh ended, but sh", ""},
		{"only a zombie is left of the group", "--grace-period 1h",
			strings.Join(drive.Command("negligent"), " "), "stopped by SIGTERM in ", "killed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPod(t)
			run := p.begin("main")
			s := p.shim(c.flags, "sh", "-c", c.script)
			s.Await("ready")
			p.end(run, 3)
			s.Want(3)
			s.AwaitAll() // no process is left that could write
			if out := s.Output(); !strings.Contains(out, c.says) || c.not != "" && strings.Contains(out, c.not) {
				t.Errorf("want %q in the output, and not %q:\n%s", c.says, c.not, out)
			}
		})
	}
}

// TestListingsRefused: what /proc does not show may be there, and is waited for.
func TestListingsRefused(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	argv := drive.Wrap("sentinel", []string{"--dir", p.dir}, []string{"sh", "-c", `
		sh -c 'trap "sleep 0.3; echo cleaned up; exit" TERM; echo ready; while :; do sleep 0.02; done'
		echo not reached`})
	s := drive.Start(t, drive.Command("refused", append([]string{"listings"}, argv...)...))
	s.Await("ready")
	s.Signal(syscall.SIGTERM)
	s.Want(143)
	if out := s.Output(); !strings.Contains(out, "cleaned up\n") || strings.Contains(out, "not reached") {
		t.Errorf("the group was not ended in its own time:\n%s", out)
	}
}

// TestWaitidRefusedCostsNothing: without waitid, too, a wrapper waits without a processor.
func TestWaitidRefusedCostsNothing(t *testing.T) {
	t.Parallel()
	const busy = "i=0; while [ $i -lt 500000 ]; do i=$((i+1)); done; times"
	argv := drive.Wrap("sentinel", []string{"--dir", t.TempDir()}, []string{"sh", "-c", busy})
	argv = drive.Command("refused", append([]string{"waitid"}, argv...)...)
	cmd := exec.Command(argv[0], argv[1:]...)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var theirs time.Duration // of the shell: user, system
	for _, word := range strings.Fields(string(out))[:2] {
		d, err := time.ParseDuration(word)
		if err != nil {
			t.Fatalf("times prints %q", out)
		}
		theirs += d
	}
	if ours := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime() - theirs; ours > theirs*6/10 {
		t.Errorf("the sentinel took %s of a processor, its command %s", ours, theirs)
	}
}
