package main_test

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/internal/testenv"
)

// A command that dies of a signal may leave others in its process group: a shell that does
// not exec leaves what it was waiting for. These tests are about what becomes of them.

// work is a script that cleans up on SIGTERM, which takes it a while, and says each signal.
const work = `trap "echo work got USR1" USR1; trap "echo work cleans up; sleep 0.3; echo work is done; exit 0" TERM
	echo ready; while :; do sleep 0.02; done`

// TestGroupOfAShell: what a shell was waiting for gets the signal that the shell has died of,
// and those that come later, and sentinel ends when it is done.
func TestGroupOfAShell(t *testing.T) {
	t.Parallel()
	script := filepath.Join(t.TempDir(), "work")
	testenv.Plant(t, script, work)
	// Not the last command, or the shell would become it.
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
			t.Errorf("the work was not done, or the shell went on:\n%s", out)
		}
		p.Await("sh was killed by SIGTERM after ")
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
			t.Errorf("the work was not done:\n%s", out)
		}
		wantRecord(t, dir, 128+int(syscall.SIGUSR1))
	})
	t.Run("a signal that was not passed on", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		gate := filepath.Join(t.TempDir(), "open")
		p := sentinel(t, dir, nil, shell(`sh "$1" & until [ -e "$2" ]; do sleep 0.01; done; kill -TERM $$`, script, gate)...)
		p.Await("ready")
		testenv.Plant(t, gate, "")
		p.Want(143)
		if out := p.Output(); strings.Contains(out, "work cleans up") {
			t.Errorf("what the shell has left was signalled, though nobody had asked for that:\n%s", out)
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

// TestWithoutCapKill: root without CAP_KILL may not signal another user's process. That is
// said once, with what to do, and changes nothing else.
func TestWithoutCapKill(t *testing.T) {
	testenv.NeedRoot(t, "it drops a capability and becomes another user")
	t.Parallel()
	start := func(dir string, command ...string) *drive.Process {
		return drive.Start(t, drive.Command("without-kill", drive.Wrap("sentinel", []string{"--dir", dir}, command)...))
	}
	const refused = "it runs as another user than its wrapper: give the container the capability KILL (securityContext.capabilities.add)"

	t.Run("the command", func(t *testing.T) {
		t.Parallel()
		dir, gate := testenv.Volume(t), filepath.Join(testenv.Volume(t), "open")
		command := drive.Command("as-somebody", `trap "echo got TERM" TERM; echo ready; until [ -e `+gate+` ]; do sleep 0.02; done; exit 3`)
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
			t.Errorf("it is said %d times:\n%s", n, p.Output())
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
