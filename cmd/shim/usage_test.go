package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// TestUsage: the error of an invalid command line names the flag and says what to do. The sidecar is not started, and
// nothing is left on the volume.
func TestUsage(t *testing.T) {
	t.Parallel()
	sidecar := drive.Command("exit", "0")
	withSpace := filepath.Join(t.TempDir(), "with space")
	if err := os.WriteFile(withSpace, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		flags []string
		env   []string
		argv  []string
		says  []string
	}{
		{name: "no sidecar", argv: []string{}, says: []string{"SIDECAR", "after --"}},
		{name: "unknown flag", flags: []string{"--mains", "a"}, says: []string{"--mains", "--help"}},
		{name: "exclusive", flags: []string{"--keep-on-failure", "--restart-policy", "Never"},
			says: []string{"--keep-on-failure", "--restart-policy Never", "exclude"}},
		{name: "exclusive, by variable", flags: []string{"--restart-policy", "Never"},
			env:  []string{"SHIM_KEEP_ON_FAILURE=true"},
			says: []string{"--keep-on-failure", "--restart-policy Never"}},
		{name: "follows itself", flags: []string{"--name", "main"},
			says: []string{"--name main", "--main", "another --name"}},
		{name: "follows itself by its base name", flags: []string{"--main", filepath.Base(sidecar[0])},
			says: []string{"--main", "another --name"}},
		{name: "no name in the command", argv: []string{"/"}, says: []string{"--name"}},
		{name: "a command line in one argument", argv: []string{"nginx -g daemon off;"},
			says: []string{"nginx -g daemon off;: it is one argument with a space: " +
				"give each word as an item of its own, or run sh -c"}},
		{name: "a path and its flags in one argument", argv: []string{"./my proxy --x"},
			says: []string{"./my proxy --x: it is one argument with a space: "}},
		{name: "a script in one argument", argv: []string{"cd /srv && nginx -g 'daemon off;'"},
			says: []string{"this takes a shell: sh -c"}},
		{name: "a file with a space in its name", argv: []string{withSpace},
			says: []string{"with space", "give this sidecar a --name"}},
		{name: "a path for a name", flags: []string{"--name", "a/b"}, says: []string{"--name", "not a path"}},
		{name: "a path for a main", flags: []string{"--main", "../main"}, says: []string{"--main", "dot"}},
		{name: "an empty main", flags: []string{"--main", ""}, says: []string{"--main", "empty"}},
		{name: "a hidden main", flags: []string{"--main", ".main"}, says: []string{"--main", "dot"}},
		{name: "signal", flags: []string{"--stop-signal", "SIGNONE"}, says: []string{"--stop-signal", "TERM"}},
		{name: "signal number", flags: []string{"--stop-signal", "65"}, says: []string{"--stop-signal", "64"}},
		{name: "no unit", flags: []string{"--grace-period", "10"}, says: []string{"--grace-period", "unit", "10s"}},
		{name: "negative", flags: []string{"--drain", "-1s"}, says: []string{"--drain", "negative"}},
		{name: "hold", flags: []string{"--hold", "soon"}, says: []string{"--hold", "unit"}},
		{name: "lost-after", flags: []string{"--lost-after", "x"}, says: []string{"--lost-after", "unit"}},
		{name: "start-timeout", flags: []string{"--start-timeout", "1"}, says: []string{"--start-timeout", "unit"}},
		{name: "policy", flags: []string{"--restart-policy", "Always"},
			says: []string{"--restart-policy", "OnFailure", "Never"}},
		{name: "policy by variable", env: []string{"SHIM_RESTART_POLICY=never"},
			says: []string{"SHIM_RESTART_POLICY", "OnFailure", "Never"}},
		{name: "keep by variable", env: []string{"SHIM_KEEP_ON_FAILURE=perhaps"},
			says: []string{"SHIM_KEEP_ON_FAILURE"}},
		{name: "log level", flags: []string{"--log-level", "loud"}, says: []string{"--log-level", "warn"}},
		{name: "log format", flags: []string{"--log-format", "xml"}, says: []string{"--log-format", "json"}},
		{name: "no volume", flags: []string{"--dir", "/nowhere"}, says: []string{"/nowhere", "volumeMounts", "--dir"}},
		{name: "the volume is a file", flags: []string{"--dir", os.DevNull}, says: []string{os.DevNull, "--dir"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPod(t)
			argv := c.argv
			if argv == nil {
				argv = sidecar
			}
			argv = drive.Wrap("shim", append([]string{"--dir", p.dir}, c.flags...), argv)
			s := drive.Start(t, argv, func(cmd *exec.Cmd) { cmd.Env = append(os.Environ(), c.env...) })
			s.Want(125)
			for _, word := range c.says {
				s.Await(word)
			}
			wantNot(t, s, "launched")
			p.wantFiles()
		})
	}
}

// TestVariables: every flag has a variable, and an empty variable means the default.
func TestVariables(t *testing.T) {
	t.Parallel()
	start := func(p pod, env string, sidecar ...string) *drive.Process {
		return drive.Start(p.t, drive.Wrap("shim", nil, sidecar), func(cmd *exec.Cmd) {
			cmd.Env = append(os.Environ(), "SHIM_DIR="+p.dir)
			cmd.Env = append(cmd.Env, strings.Fields(env)...)
		})
	}
	t.Run("set", func(t *testing.T) {
		t.Parallel()
		p := newPod(t)
		run := p.begin("job")
		s := start(p, "SHIM_MAIN=job SHIM_NAME=side SHIM_STOP_SIGNAL=USR1 SHIM_GRACE_PERIOD=300ms SHIM_DRAIN=100ms "+
			"SHIM_LOST_AFTER=50s SHIM_LOG_FORMAT=console", drive.Command("server")...)
		s.Await("ready")
		p.end(run, 3)
		s.Want(3)
		s.Await("(--drain)")
		s.Await("got SIGUSR1")
		s.Await("did not stop within ")
		wantNot(t, s, `{"level"`)
		p.want("side-terminated", "3\n")
	})
	t.Run("set: what bounds the wait", func(t *testing.T) {
		t.Parallel()
		p := newPod(t)
		s := start(p, "SHIM_START_TIMEOUT=100ms", "sleep", "1000")
		s.Want(124)
	})
	t.Run("set: hold", func(t *testing.T) {
		t.Parallel()
		p := newPod(t)
		p.begin("main")
		s := start(p, "SHIM_HOLD=0s", drive.Command("server", "TERM=9")...)
		s.Await("ready")
		s.Signal(syscall.SIGTERM)
		s.Want(9)
	})
	t.Run("set: keep on failure", func(t *testing.T) {
		t.Parallel()
		p := newPod(t)
		p.record("main-terminated", "3\n")
		s := start(p, "SHIM_KEEP_ON_FAILURE=true", "sleep", "1000")
		s.Await("sleep started")
		p.record("main-terminated", "4\n")
		s.Await("main exited 4")
		p.record("main-terminated", "0\n")
		s.Want(0)
	})
	t.Run("set: policy", func(t *testing.T) {
		t.Parallel()
		p := newPod(t)
		p.record("main-terminated", "3\n")
		s := start(p, "SHIM_RESTART_POLICY=OnFailure", "sleep", "1000")
		s.Await("sleep started")
		p.record("main-terminated", "0\n")
		s.Want(0)
	})
	t.Run("empty", func(t *testing.T) {
		t.Parallel()
		p := newPod(t)
		run := p.begin("main")
		s := start(p, "SHIM_MAIN= SHIM_NAME= SHIM_STOP_SIGNAL= SHIM_GRACE_PERIOD= SHIM_DRAIN= SHIM_HOLD= "+
			"SHIM_LOST_AFTER= SHIM_START_TIMEOUT= SHIM_RESTART_POLICY= SHIM_KEEP_ON_FAILURE= SHIM_LOG_LEVEL= "+
			"SHIM_LOG_FORMAT=", "sleep", "1000")
		s.Await("sleep started")
		p.end(run, 3)
		s.Want(3)
		p.want("sleep-terminated", "3\n")
	})
}

// TestArguments: everything after the flags reaches the sidecar unchanged.
func TestArguments(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	s := p.shim("--log-level disabled",
		"sh", "-c", `for a; do echo "[$a]"; done`, "sh", "help", "--help", "", "a b", "--", "--main")
	s.Want(0)
	s.Await("[--main]\n")
	if got, want := s.Output(), "[help]\n[--help]\n[]\n[a b]\n[--]\n[--main]\n"; got != want {
		t.Errorf("the sidecar has written %q, not %q", got, want)
	}
}

// TestTerminationMessage: the termination message says why the shim ended, for kubectl describe pod.
func TestTerminationMessage(t *testing.T) {
	t.Parallel()
	message := func(t *testing.T, p pod, before string, sidecar ...string) (s *drive.Process, file string) {
		file = filepath.Join(t.TempDir(), "termination-log")
		testenv.Plant(t, file, before)
		return drive.Start(t, drive.Command("message", append([]string{p.dir, file}, sidecar...)...)), file
	}
	want := func(t *testing.T, file, begin, end string) {
		t.Helper()
		got, err := os.ReadFile(file)
		if err != nil || !strings.HasPrefix(string(got), begin) || !strings.HasSuffix(string(got), end) {
			t.Errorf("the message is %q (%v), not %q … %q", got, err, begin, end)
		}
	}
	server := filepath.Base(drive.Command("")[0])
	t.Run("main ended", func(t *testing.T) {
		t.Parallel()
		p := newPod(t)
		run := p.begin("main")
		s, file := message(t, p, "", drive.Command("server", "TERM=0")...)
		s.Await("ready")
		p.end(run, 3)
		s.Want(3)
		want(t, file, "main exited 3; "+server+" stopped by SIGTERM in ", "s\n")
	})
	t.Run("main has begun again before the sidecar ended", func(t *testing.T) {
		t.Parallel()
		p := newPod(t)
		run := p.begin("main")
		s, file := message(t, p, "", drive.Command("server", "USR1=0")...)
		s.Await("ready")
		p.end(run, 3)
		s.Await("got SIGTERM")
		p.begin("main")
		s.Signal(syscall.SIGUSR1)
		s.Want(3)
		want(t, file, "main exited 3; "+server+" stopped by SIGTERM in ", "s\n")
	})
	t.Run("main was killed", func(t *testing.T) {
		t.Parallel()
		p := newPod(t)
		m := p.sentinel("", drive.Command("server")...)
		m.Await("ready")
		s, file := message(t, p, "", drive.Command("server", "TERM=0")...)
		s.Await("ready")
		m.Kill()
		s.Want(137)
		want(t, file, "main was killed (137); ", "s\n")
	})
	t.Run("the sidecar ended first", func(t *testing.T) {
		t.Parallel()
		p := newPod(t)
		s, file := message(t, p, "", "sh", "-c", "kill -9 $$")
		s.Want(137)
		want(t, file, "sh died of SIGKILL before main had ended\n", "\n")
	})
	t.Run("not launched", func(t *testing.T) {
		t.Parallel()
		p := newPod(t)
		p.record("main-terminated", "3\n")
		s, file := message(t, p, "", "sleep", "1000")
		s.Want(3)
		want(t, file, "main exited 3; sleep was not started\n", "\n")
	})
	t.Run("could not be launched", func(t *testing.T) {
		t.Parallel()
		p := newPod(t)
		s, file := message(t, p, "", "/nowhere/proxy")
		s.Want(127)
		want(t, file, "proxy was not started: /nowhere/proxy: ", "\n")
	})
	t.Run("no volume", func(t *testing.T) {
		t.Parallel()
		p := pod{t, "/nowhere"}
		s, file := message(t, p, "", "sleep", "1000")
		s.Want(125)
		want(t, file, "sleep was not started: the volume /nowhere does not exist: mount the shared volume", "\n")
	})
	t.Run("another run of that name", func(t *testing.T) {
		t.Parallel()
		p := newPod(t)
		p.begin("proxy")
		s, file := message(t, p, "", "sleep", "1000")
		s.Want(125)
		want(t, file,
			"sleep was not started: another sentinel or shim named proxy is running on this volume", "--name\n")
	})
	t.Run("what the sidecar has written stays", func(t *testing.T) {
		t.Parallel()
		p := newPod(t)
		p.record("main-terminated", "3\n")
		s, file := message(t, p, "mine\n", "sleep", "1000")
		s.Want(3)
		want(t, file, "mine\n", "mine\n")
	})
}
