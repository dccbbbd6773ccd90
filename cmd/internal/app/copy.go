package app

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const copyTo = "copy-to"

// programs are what --copy-to copies, from the directory that we are in.
var programs = []string{"sentinel", "shim"}

func copyFlag(dst *string) *Flag {
	f := String(About{copyTo, "DIR", "copy sentinel and shim into this directory, and exit", other}, dst, nil)
	f.noVariable = true
	return f
}

// copyPrograms copies both programs into a directory that is there already. It may be
// done again at any time, also while they run.
func copyPrograms(directory string, command []string) error {
	if len(command) > 0 {
		return fmt.Errorf("--%s %s: no command goes with it, %q is one", copyTo, directory, command[0])
	}
	info, err := os.Stat(directory)
	if err != nil {
		return fmt.Errorf("--%s: %w: mount the shared volume there (volumeMounts)", copyTo, err)
	}
	if !info.IsDir() {
		return fmt.Errorf("--%s %s: it is not a directory", copyTo, directory)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(directory, &fs); err == nil && fs.Flags&unix.ST_NOEXEC != 0 {
		return fmt.Errorf("--%s %s: the volume is mounted noexec, nothing on it can be run: take another volume", copyTo, directory)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("--%s: %w", copyTo, err)
	}
	for _, program := range programs {
		from, to := filepath.Join(filepath.Dir(self), program), filepath.Join(directory, program)
		if err := copyFile(from, to); err != nil {
			return fmt.Errorf("--%s %s: %w: it takes both programs in one directory to copy from, and one to copy to that is writable for this user and has room", copyTo, directory, err)
		}
	}
	return nil
}

// copyFile makes to a copy of from in one step. A program that runs is never
// written to: it keeps its old file.
func copyFile(from, to string) (err error) {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.CreateTemp(filepath.Dir(to), "."+filepath.Base(to)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		target.Close()
		if err != nil {
			os.Remove(target.Name())
		}
	}()
	if _, err = io.Copy(target, source); err != nil {
		return err
	}
	// Whatever the umask: containers of other UIDs run it.
	if err = target.Chmod(0o755); err != nil {
		return err
	}
	// A file that is open for writing cannot be executed (ETXTBSY).
	if err = target.Close(); err != nil {
		return err
	}
	return os.Rename(target.Name(), to)
}
