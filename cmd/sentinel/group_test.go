package main_test

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// A command that dies of a signal may leave other processes in its process group: a shell leaves the command that it
// waits for. These tests are about such processes.

// work is a script that prints each signal. On SIGTERM it cleans up, which takes a while. One that gets no SIGTERM ends
// with the test, which removes the script.
const work = `trap "echo work got USR1" USR1; trap "echo work cleans up; sleep 0.3; echo work is done; exit 0" TERM
	echo ready; while [ -e "$0" ]; do sleep 0.02; done`

// TestGroupOfAShell: the command that a shell waits for gets the signal that killed the shell, and later ones, and
// sentinel ends after it.
func TestGroupOfAShell(t *testing.T) {
	t.Parallel()
	script := filepath.Join(t.TempDir(), "work")
	testenv.Plant(t, script, work)
	// Not the last command, which the shell would execute without a fork.
	const inForeground = `sh "$1"; echo next`

	t.Run("TERM", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		p := sentinel(t, dir, nil, shell(inForeground, script)...)
		p.Await("ready")
		p.Signal(syscall.SIGTERM)
		p.Want(143)
		wantRecord(t, dir, 143)
		if out := p.Output(); !strings.Contains(out, "work is done\n") || strings.Contains(out, "next\n") {
			t.Errorf("the work did not clean up, or the shell went on:\n%s", out)
		}
		p.Await("sh was killed by SIGTERM after ")
	})
	t.Run("TERM, and nobody is left", func(t *testing.T) {
		t.Parallel()
		p := sentinel(t, t.TempDir(), nil, "sh", "-c", "echo ready; exec sleep 1000")
		p.Await("ready")
		p.Signal(syscall.SIGTERM)
		p.Want(143)
		if out := p.Output(); strings.Contains(out, "waiting for the rest") {
			t.Errorf("it has waited for somebody:\n%s", out)
		}
	})
	t.Run("another signal, and then TERM", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		p := sentinel(t, dir, nil, shell(inForeground, script)...)
		p.Await("ready")
		p.Signal(syscall.SIGUSR1)
		p.Await("work got USR1\n")
		p.Await("sh was killed by SIGUSR1: waiting for the rest of its process group")
		if record := recorded(t, dir, "main"); record != "" {
			t.Errorf("the end is recorded as %q while the work goes on", record)
		}
		p.Signal(syscall.SIGTERM)
		p.Await("work cleans up\n")
		p.Want(128 + int(syscall.SIGUSR1))
		if out := p.Output(); !strings.Contains(out, "work is done\n") {
			t.Errorf("the work did not clean up:\n%s", out)
		}
		wantRecord(t, dir, 128+int(syscall.SIGUSR1))
	})
	t.Run("a signal that sentinel did not forward", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		gate := filepath.Join(t.TempDir(), "open")
		const inBackground = `sh "$1" & until [ -e "$2" ]; do sleep 0.01; done; kill -TERM $$`
		p := sentinel(t, dir, nil, shell(inBackground, script, gate)...)
		p.Await("ready")
		testenv.Plant(t, gate, "")
		p.Want(143)
		if out := p.Output(); strings.Contains(out, "work cleans up") {
			t.Errorf("the rest of the group got a signal that sentinel did not get:\n%s", out)
		}
	})
	t.Run("only a zombie is left", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		p := sentinel(t, dir, nil, shell(strings.Join(drive.Command("negligent"), " ")+"; echo next")...)
		p.Await("ready")
		p.Signal(syscall.SIGTERM)
		p.Want(143)
		wantRecord(t, dir, 143)
	})
}

// TestWithoutCapKill: root without CAP_KILL may not signal another user's process. The log says once what to do, and
// nothing else changes.
func TestWithoutCapKill(t *testing.T) {
	testenv.NeedRoot(t, "to drop a capability and become another user")
	t.Parallel()
	start := func(dir string, command ...string) *drive.Process {
		return drive.Start(t, drive.Command("without-kill", drive.Wrap("sentinel", []string{"--dir", dir}, command)...))
	}
	const refused = "it runs as another user than its wrapper: " +
		"give the container the capability KILL (securityContext.capabilities.add)"

	t.Run("the command", func(t *testing.T) {
		t.Parallel()
		dir, gate := testenv.Volume(t), filepath.Join(testenv.Volume(t), "open")
		command := drive.Command("as-somebody",
			`trap "echo got TERM" TERM; echo ready; until [ -e `+gate+` ]; do sleep 0.02; done; exit 3`)
		p := start(dir, command...)
		p.Await("ready")
		p.Signal(syscall.SIGTERM)
		p.Await("SIGTERM could not be sent to " + filepath.Base(command[0]) + ": " + refused)
		p.Signal(syscall.SIGTERM)
		p.Signal(syscall.SIGUSR1)
		testenv.Plant(t, gate, "")
		p.Want(3)
		wantRecord(t, dir, 3)
		if n := strings.Count(p.Output(), refused); n != 1 {
			t.Errorf("the log says it %d times, not once:\n%s", n, p.Output())
		}
	})
	t.Run("what a shell has left", func(t *testing.T) {
		t.Parallel()
		dir := testenv.Volume(t)
		left := drive.Command("as-somebody", `echo ready; exec sleep 1000`)
		p := start(dir, shell(`"$@"; echo next`, left...)...)
		p.Await("ready")
		p.Signal(syscall.SIGTERM)
		p.Want(143)
		p.Await("SIGTERM could not be sent to what sh has started: " + refused)
		wantRecord(t, dir, 143)
	})
}
