// Package lifetime is the contract on the shared volume: a run of a wrapped
// command is one file that changes its name when the run ends.
//
//	NAME-running      the run has begun; its owner holds a write lock on it
//	NAME-terminated   the run has ended; it holds the exit code, e.g. "3\n"
//
// Both ends of the contract are here. [Begin] and [Run.End] write it, [Watch]
// and [Watcher.Look] read it. This is the only place that knows the names of the
// files, the locks and inotify. What it asks of a file system is a [Volume].
//
// The lock is an open file description lock (fcntl(2), F_OFD_SETLK). The kernel
// drops it when its owner dies, whatever kills it; and unlike with flock(2), who
// can only read the file can neither take it nor be in its way. Where locks are
// not shared between containers (gVisor), a heartbeat on the file's modification
// time takes their place.
package lifetime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	runningSuffix    = "-running"
	terminatedSuffix = "-terminated"

	wordRunning  = "running\n"
	wordStopping = "stopping\n"
)

// Heartbeat is how often the owner of a run rewrites its file, so that the
// file's modification time tells that it lives.
const Heartbeat = 15 * time.Second

// MinLostAfter is the shortest time without a heartbeat that is safe to be taken
// for death: two may be late and one missed.
const MinLostAfter = 3 * Heartbeat

// maxName leaves room for the longest name that is made of a run's name, the
// private file's, in the 255 bytes that a file name may have.
const maxName = 255 - len(".-") - 2*privateBytes

// CheckName reports whether name can name a run. It becomes part of file names and
// of lists that are separated by spaces.
func CheckName(name string) error {
	switch {
	case name == "":
		return errors.New("the name of a run is empty")
	case len(name) > maxName:
		return fmt.Errorf("the name of a run may have %d bytes, %.20q… has %d", maxName, name, len(name))
	case strings.HasPrefix(name, "."):
		return fmt.Errorf("the name of a run may not begin with a dot: %q", name)
	case !utf8.ValidString(name), strings.ContainsFunc(name, func(r rune) bool {
		return r == '/' || unicode.IsSpace(r) || !unicode.IsPrint(r)
	}):
		return fmt.Errorf("the name of a run is a plain word, not a path: %q", name)
	}
	return nil
}

// CheckVolume reports whether dir can be the shared volume. A directory that does not
// exist is nearly always a forgotten volumeMounts, so it is never made.
func CheckVolume(dir string) error {
	const hint = "mount the shared volume there (volumeMounts), or name another directory with --dir"
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("the volume %s does not exist: %s", dir, hint)
	case err != nil:
		return fmt.Errorf("the volume: %w: %s", err, hint)
	case !info.IsDir():
		return fmt.Errorf("the volume %s is not a directory: %s", dir, hint)
	}
	return nil
}

// TerminatedPath is the file that the end of the run named name is recorded in.
func TerminatedPath(dir, name string) string { return Dir(dir).Path(name + terminatedSuffix) }
