//go:build linux && (amd64 || arm64)

package cmd_test

import (
	"fmt"
	"os/exec"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/cmd/internal/ptrace"
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// TestNoSync: between the end of the command and its own end the sentinel waits for no disk, however it records the
// end. If it were killed in that time, the kubelet would run a command again that has succeeded.
func TestNoSync(t *testing.T) {
	t.Parallel()
	syncs := []string{"fsync", "fdatasync", "sync_file_range", "syncfs"}
	isSync := func(c ptrace.Call) bool { return slices.Contains(syncs, c.Name) }
	for name, c := range map[string]struct {
		found   string
		command []string // $0 is the volume
		code    int
	}{
		"nothing there":      {"nothing", failing, 3},
		"an end there":       {"an end", failing, 3},
		"a dead run there":   {"a dead run", failing, 3},
		"its file is stolen": {"nothing", []string{"/bin/sh", "-c", `rm "$0/main-running"; exit 3`}, 3},
		"it never begins":    {"nothing", []string{"/no/such/command"}, 127},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := testenv.FastVolume(t)
			before[c.found](t, dir)
			argv := sentinel(dir, append(slices.Clone(c.command), dir))
			result := trace(t, argv, isSync, func(_ *ptrace.Tracee, call ptrace.Call) {
				t.Errorf("the sentinel syncs: %s", call)
			})
			if result.ExitCode != c.code {
				t.Errorf("the sentinel ended with %d, not %d", result.ExitCode, c.code)
			}
			testenv.WantListing(t, dir, fmt.Sprintf("main-terminated=%q", fmt.Sprintln(c.code)))
		})
	}
}

// TestStuckDisk: a disk that never confirms a sync delays neither of the two programs.
func TestStuckDisk(t *testing.T) {
	t.Parallel()
	try := drive.Command("stuckdisk", drive.Program("shim"), "--version")
	if out, err := exec.Command(try[0], try[1:]...).CombinedOutput(); err != nil {
		t.Skipf("needs seccomp notifications: %v: %s", err, out)
	}
	dir := testenv.FastVolume(t)
	sidecar := drive.Start(t, drive.Command("stuckdisk", shim(dir)...))
	sidecar.Await("sleep started")
	main := drive.Start(t, drive.Command("stuckdisk", sentinel(dir, failing)...))
	main.Want(3)
	sidecar.Await("the mains' ends are not on disk after 1s")
	sidecar.Want(3)
	testenv.WantListing(t, dir, `main-terminated="3\n" sidecar-terminated="3\n"`)
}

// stuckDisk runs a program for which no disk ever confirms a sync: the call does not return.
//
//	stuckdisk PROGRAM [ARG...]
func stuckDisk(args []string) int {
	return runUnder(func(int) {}, args, // no answer ever comes
		testenv.Notify(unix.SYS_FSYNC), testenv.Notify(unix.SYS_FDATASYNC), testenv.Notify(unix.SYS_SYNCFS))
}
