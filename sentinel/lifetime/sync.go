package lifetime

import (
	"errors"
	"io/fs"
	"os"
)

// Sync makes the end of the run named name outlive a crash of the node, as it is recorded
// now: the file that holds the code, and the directory that holds the file's name. A volume
// that is mounted read-only is fine.
//
// It blocks for as long as the disk takes, which may be seconds, and cannot be interrupted.
// So the owner of a run does not call it: between the recorded end and the exit of a
// sentinel a kill would make the kubelet run a command again that has succeeded. A shim
// that has acted on the end has the time.
func Sync(dir Dir, name string) error {
	err := syncFile(dir, name+terminatedSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		err = syncFile(dir, name+runningSuffix) // there was no room for a rename
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
	return f.(osFile).f.Sync()
}
