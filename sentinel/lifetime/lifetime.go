// Package lifetime is the contract on the shared volume (design, 2): a run of a wrapped command is one
// file that changes its name when the run ends.
//
//	NAME-running      the run has begun; its owner holds a write lock on the file
//	NAME-terminated   the run has ended; the file holds the exit code, e.g. "3\n"
//
// [Begin] and [Run.End] write these files, [Watch] and [Watcher.Look] read them. No other package knows
// the names of the files, the locks and inotify. [Volume] is what the package needs from a file system.
//
// The lock is an open file description lock (fcntl(2), F_OFD_SETLK). The kernel drops it when its owner
// dies, whatever kills it. Unlike with flock(2), a process that can only read the file can neither take
// nor block the lock. Where locks are not shared between containers (gVisor), a heartbeat on the file's
// modification time replaces the lock.
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

	contentRunning  = "running\n"
	contentStopping = "stopping\n"
)

// Heartbeat is how often the owner of a run rewrites its file. The file's modification time shows that
// the owner is alive (design, 2.3).
const Heartbeat = 15 * time.Second

// MinLostAfter is the shortest time without a heartbeat after which a run can safely count as lost: two
// heartbeats may be late and one missed.
const MinLostAfter = 3 * Heartbeat

// maxName is how many bytes the name of a run may have. The private file's name is the longest of its
// file names, each of which may have 255 bytes.
const maxName = 255 - len(".-") - 2*privateBytes

// CheckName returns an error if name cannot be the name of a run. A name becomes part of file names and
// of lists that are separated by spaces.
func CheckName(name string) error {
	switch {
	case name == "":
		return errors.New("the name of a run is empty")
	case len(name) > maxName:
		return fmt.Errorf("the name of a run may have at most %d bytes, %.20q… has %d", maxName, name, len(name))
	case strings.HasPrefix(name, "."):
		return fmt.Errorf("the name of a run may not begin with a dot: %q", name)
	case !utf8.ValidString(name), strings.ContainsFunc(name, func(r rune) bool {
		return r == '/' || unicode.IsSpace(r) || !unicode.IsPrint(r)
	}):
		return fmt.Errorf("the name of a run is a plain word, not a path: %q", name)
	}
	return nil
}

// CheckVolume returns an error if dir cannot be the shared volume. It never creates the directory: one
// that does not exist is nearly always a forgotten volumeMounts.
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

// TerminatedPath returns the path of the file that records the end of the run named name.
func TerminatedPath(dir, name string) string { return Dir(dir).Path(name + terminatedSuffix) }
