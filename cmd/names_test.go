package cmd_test

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// In these tests two containers of one pod use the same name.

const (
	waitingFor = "is locked): waiting up to 5s for it to end: give one of them another --name"
	ofScripts  = " (a shim's default is the base name of its program, sh for every script)"
)

// TestTwoSidecarsOfOneName: the second shim says at once that it waits. If main fails meanwhile, the second does not
// take the end of the first for its own earlier run: else it would wait for a main that does not come back.
func TestTwoSidecarsOfOneName(t *testing.T) {
	t.Parallel()
	dir := testenv.FastVolume(t)
	command, open := gated(t, 3)
	main := drive.Start(t, sentinel(dir, command))
	main.Await("ready")
	sidecar := func() *drive.Process {
		script := []string{"/bin/sh", "-c", "echo up; exec sleep 1000"}
		return drive.Start(t, drive.Wrap("shim", []string{"--dir", dir, "--log-format", "console"}, script))
	}
	first := sidecar()
	first.Await("up")
	first.Await("main is running")
	second := sidecar()
	second.Await("another sentinel or shim named sh is running on this volume (" + filepath.Join(dir, "sh-running") +
		" " + waitingFor + ofScripts)
	open()
	main.Want(3)
	first.Want(3)
	second.Want(3)
	second.Await("sh was not started")
	if n := strings.Count(second.Output(), waitingFor); n != 1 {
		t.Errorf("the second shim says %d times that it waits, not once:\n%s", n, second.Output())
	}
}

// TestTwoSidecarsOfOneNameForLong: if the first does not end, the second gives up, and says the same.
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
		t.Errorf("it explains the default of --name, which was given:\n%s", second.Output())
	}
}

// TestTwoMainsOfOneName: the second sentinel says at once that it waits. Then it waits for the sidecars that the end of
// the first stops, as after an earlier run of its own.
func TestTwoMainsOfOneName(t *testing.T) {
	t.Parallel()
	dir := testenv.FastVolume(t)
	command, open := gated(t, 3)
	first := drive.Start(t, sentinel(dir, command))
	first.Await("ready")
	slow := []string{"/bin/sh", "-c", `trap "" TERM; echo up; exec sleep 1000`}
	sidecar := drive.Start(t, shimAround(dir, slow, "--grace-period", "1s"))
	sidecar.Await("up")
	sidecar.Await("main is running")
	second := drive.Start(t, sentinel(dir, []string{"/bin/sh", "-c", "echo second started; exit 4"}))
	second.Await("another sentinel or shim named main is running")
	second.Await(waitingFor)
	second.Signal(syscall.SIGSTOP) // if it began at once, the shim would follow it instead of stopping the sidecar
	open()
	first.Want(3)
	sidecar.Await("stopping sh")
	second.Signal(syscall.SIGCONT)
	second.Want(4)
	sidecar.Want(3)
	second.Await("waiting for the sidecars of the earlier run to end")
	second.Await("second started")
}

// TestTermWhileWaitingForAName: SIGTERM ends a sentinel that waits for another run of its name.
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
