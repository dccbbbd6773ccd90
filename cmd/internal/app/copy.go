package app

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const copyTo = "copy-to"

// programs are what --copy-to copies, from the directory of the running executable.
var programs = []string{"sentinel", "shim"}

func copyFlag(dst *string) *Flag {
	f := String(About{copyTo, "DIR", "copy sentinel and shim into this directory, and exit", other}, dst, nil)
	f.noVariable = true
	return f
}

// copyPrograms copies both programs into an existing directory. It replaces earlier copies, even running
// ones.
func copyPrograms(directory string, command []string) error {
	if len(command) > 0 {
		return fmt.Errorf("--%s %s runs no command: remove %q", copyTo, directory, command[0])
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
		return fmt.Errorf("--%s %s: the volume is mounted noexec, nothing on it can be run: take another volume",
			copyTo, directory)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("--%s: %w", copyTo, err)
	}
	for _, program := range programs {
		from, to := filepath.Join(filepath.Dir(self), program), filepath.Join(directory, program)
		if err := copyFile(from, to); err != nil {
			return fmt.Errorf("--%s %s: %w: both programs must be in one directory, "+
				"and %s must be writable for this user and have room", copyTo, directory, err, directory)
		}
	}
	return nil
}

// copyFile replaces to by a copy of from, atomically. It never writes to the old file: a program that
// runs keeps it.
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
	// Not left to the umask: containers with other UIDs run the copy.
	if err = target.Chmod(0o755); err != nil {
		return err
	}
	// A file that is open for writing cannot be executed (ETXTBSY).
	if err = target.Close(); err != nil {
		return err
	}
	return os.Rename(target.Name(), to)
}
