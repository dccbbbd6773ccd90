package lifetime

import (
	"errors"
	"io/fs"
	"os"
)

// Sync makes the recorded end of the run named name survive a crash of the node. It syncs the file that
// holds the code, and the directory that holds the file's name. The volume may be mounted read-only.
//
// Sync blocks for as long as the disk takes, possibly seconds, and cannot be interrupted. So a sentinel
// does not call it: if it were killed between the recorded end and its exit, the kubelet would run a
// successful command again. A shim that has acted on the end has the time (design, 2.4).
func Sync(dir Dir, name string) error {
	err := syncFile(dir, name+terminatedSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		err = syncFile(dir, name+runningSuffix) // the volume had no room for the rename
	}
	d, openErr := os.Open(string(dir))
	if openErr != nil {
		return errors.Join(err, openErr)
	}
	defer d.Close()
	return errors.Join(err, d.Sync())
}

func syncFile(dir Dir, file string) error {
	f, err := openRegular(dir, file)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.(*descriptor).sync()
}
