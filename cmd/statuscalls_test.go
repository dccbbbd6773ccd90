//go:build linux && (amd64 || arm64)

package cmd_test

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/cmd/internal/ptrace"
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// looking are the calls on a volume that neither change it nor hold up anybody.
var looking = []string{"newfstatat", "fstat", "statx", "statfs", "getdents64", "read", "close"}

// TestStatusOnlyReads: of all calls of --status on the volume, each only reads. It asks for locks, and takes none.
func TestStatusOnlyReads(t *testing.T) {
	t.Parallel()
	dir := testenv.FastVolume(t)
	main := drive.Start(t, sentinel(dir, neverEnding))
	main.Await("sleep started")
	for name, content := range map[string]string{
		"ended-terminated": "3\n", "empty-terminated": "", "killed-running": "running\n", "place-running": "7\n",
		"content-terminated": "garbage", ".main-0123456789abcdef": "running\n", "other": "",
	} {
		testenv.Plant(t, filepath.Join(dir, name), content)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "fifo-running"), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{"sentinel", "shim"} {
		asked := 0
		argv := []string{drive.Program(program), "--status=json", "--dir", dir}
		result := trace(t, argv, ptrace.Touching(dir), func(_ *ptrace.Tracee, c ptrace.Call) {
			reads := false
			switch c.Name {
			case "openat":
				const writes = unix.O_WRONLY | unix.O_RDWR | unix.O_CREAT | unix.O_TRUNC | unix.O_APPEND
				reads = c.Args[2]&writes == 0 && filepath.Base(c.Path) != "fifo-running"
			case "fcntl":
				reads = c.Args[1] == unix.F_OFD_GETLK || c.Args[1] == unix.F_GETFL || c.Args[1] == unix.F_SETFL
				if c.Args[1] == unix.F_OFD_GETLK {
					asked++
				}
			default:
				for _, name := range looking {
					reads = reads || c.Name == name
				}
			}
			if !reads {
				t.Errorf("%s --status makes the call %s with %x", program, c, c.Args)
			}
		})
		// main, killed and place
		if result.ExitCode != 0 || asked != 3 {
			t.Errorf("%s --status ended with %d after %d of %d calls that ask for a lock", program,
				result.ExitCode, asked, result.Calls)
		}
	}
}
