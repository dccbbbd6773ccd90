package cmd_test

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/internal/testenv"
)

// These tests have two containers of one pod use the same name.

const (
	waitingFor = "is locked): waiting up to 5s for it to end: give one of them another --name"
	ofScripts  = " (a shim's default is the base name of its program, sh for every script)"
)

// TestTwoSidecarsOfOneName: the second says at once that it waits. If main fails meanwhile, the
// first one's end is not taken for an earlier run of the second: nobody waits for a main that
// does not come back.
func TestTwoSidecarsOfOneName(t *testing.T) {
	t.Parallel()
	dir := testenv.FastVolume(t)
	command, open := gated(t, 3)
	main := drive.Start(t, sentinel(dir, command))
	main.Await("ready")
	sidecar := func() *drive.Process {
		return drive.Start(t, drive.Wrap("shim", []string{"--dir", dir, "--log-format", "console"}, []string{"/bin/sh", "-c", "echo up; exec sleep 1000"}))
	}
	first := sidecar()
	first.Await("up")
	first.Await("main is running")
	second := sidecar()
	second.Await("another sentinel or shim named sh is running on this volume (" + filepath.Join(dir, "sh-running") + " " + waitingFor + ofScripts)
	open()
	main.Want(3)
	first.Want(3)
	second.Want(3)
	second.Await("sh was not started")
	if n := strings.Count(second.Output(), waitingFor); n != 1 {
		t.Errorf("that it waits is said %d times:\n%s", n, second.Output())
	}
}

// TestTwoSidecarsOfOneNameForLong: it gives up in the end, and says the same.
func TestTwoSidecarsOfOneNameForLong(t *testing.T) {
	t.Parallel()
	dir := testenv.FastVolume(t)
	first := drive.Start(t, shim(dir))
	first.Await("sleep started")
	second := drive.Start(t, shim(dir))
	second.Await(waitingFor)
	second.Want(125)
	second.Await("sidecar-running is locked): give one of them another --name")
	if strings.Contains(second.Output(), "base name") {
		t.Errorf("what the default is, is of no use here:\n%s", second.Output())
	}
}

// TestTwoMainsOfOneName: the second says at once that it waits, and then lets the sidecars go
// that the first one's end stops, as if that had been its own earlier run.
func TestTwoMainsOfOneName(t *testing.T) {
	t.Parallel()
	dir := testenv.FastVolume(t)
	command, open := gated(t, 3)
	first := drive.Start(t, sentinel(dir, command))
	first.Await("ready")
	// A sidecar that takes its time to stop.
	sidecar := drive.Start(t, drive.Wrap("shim", []string{"--dir", dir, "--name", "sidecar", "--log-format", "console", "--grace-period", "1s"},
		[]string{"/bin/sh", "-c", `trap "" TERM; echo up; exec sleep 1000`}))
	sidecar.Await("up")
	sidecar.Await("main is running")
	second := drive.Start(t, sentinel(dir, []string{"/bin/sh", "-c", "echo second started; exit 4"}))
	second.Await("another sentinel or shim named main is running")
	second.Await(waitingFor)
	open()
	first.Want(3)
	second.Want(4)
	sidecar.Want(3)
	story := second.Output()
	if !strings.Contains(story, "waiting for the sidecars of the earlier run to end") || !strings.Contains(story, "second started") {
		t.Errorf("the second main did not wait for the sidecar:\n%s", story)
	}
}

// TestTermWhileWaitingForAName: a sentinel that waits for another's run heeds TERM.
func TestTermWhileWaitingForAName(t *testing.T) {
	t.Parallel()
	dir := testenv.FastVolume(t)
	first := drive.Start(t, sentinel(dir, neverEnding))
	first.Await("sleep started")
	second := drive.Start(t, sentinel(dir, []string{"/bin/sh", "-c", "echo second started"}))
	second.Await(waitingFor)
	second.Signal(syscall.SIGTERM)
	second.Want(143)
	first.Signal(syscall.SIGTERM)
	first.Want(143)
}
