package lifetime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// RunStatus is a run for whoever looks at a volume once: see [Status].
type RunStatus struct {
	Entry
	// Stopping: a run that is Running has announced its end.
	Stopping bool
	// Since is when a run that is Running has begun, or one that has Ended has ended. Of a run that is lost
	// or Unverified it is the last sign of life. It is zero where the file system does not record when a
	// file was created.
	Since time.Time
}

// Word is the state in one word (design, 5.6).
func (s *RunStatus) Word() string {
	switch {
	case s.Stopping:
		return "stopping"
	case s.Phase == Running:
		return "running"
	case s.Phase == Unverified:
		return "unverified"
	case s.Phase == Unsettled:
		return "unsettled"
	case s.Cause == Lost:
		return "lost"
	}
	return "ended"
}

// Status returns at most 100 of the runs on the volume, sorted by name; more reports whether there are more.
// lostAfter is as for [Watch]. It does not wait, it changes nothing, and it takes no lock. It fails if the
// volume cannot be read.
func Status(dir Dir, lostAfter time.Duration) (runs []RunStatus, more bool, err error) {
	if err := CheckVolume(string(dir)); err != nil {
		return nil, false, err
	}
	if err := checkReadable(string(dir)); err != nil {
		return nil, false, fmt.Errorf("the volume: %w: run it as a user who may read the directory", err)
	}
	runs, more = statuses(dir, lostAfter)
	return runs, more, nil
}

// checkReadable returns an error if the files of a directory cannot be listed, or not be reached.
func checkReadable(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	if _, err := dir.Readdirnames(1); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	_, err = os.Stat(path + "/.")
	return err
}

func statuses(v Volume, lostAfter time.Duration) (runs []RunStatus, more bool) {
	// A file that is renamed during a listing may be missing from it. It is not missing twice: a run ends once.
	var names []string
	for range 2 {
		names, more = runNames(context.Background(), v, names)
	}
	slices.Sort(names)
	for _, name := range names {
		if s := statusOf(v, name, lostAfter); s.Phase != NotStarted { // else its files were removed meanwhile
			runs = append(runs, s)
		}
	}
	return runs, more
}

// statusOf looks at a run of which the listing has shown a file.
func statusOf(v Volume, name string, lostAfter time.Duration) RunStatus {
	var s Snapshot
	var locked File
	consistent := false
	for n := 0; n < MaxAttempts && !consistent; n++ {
		s, locked, consistent = snapshot(v, name, true, false)
	}
	status := RunStatus{Entry: Entry{Name: name}}
	if locked != nil {
		status.Since = created(locked)
		content, _ := readContent(locked)
		status.Stopping = content == contentStopping
		locked.Close()
	}
	// What a watcher learns by looks over a time, the modification time tells at once: since then, a look has
	// found the file as it is now. A watcher does not trust it, because the clock may jump (design, 2.3). But
	// nothing is stopped because of a status.
	file := s.running
	if s.terminated.exists {
		file = s.terminated
	}
	modified := time.Unix(file.id.Sec, file.id.Nanos)
	o := NewObserver(v, name, lostAfter)
	for _, elapsed := range []time.Duration{0, max(0, v.Now().Sub(modified))} {
		status.State = o.Update(s, false, elapsed)
	}
	if status.Phase != Running {
		status.Since = modified
	}
	return status
}

// created returns when a file was created, or zero if the file system does not record that (statx(2)). A run's
// file is created by its Begin.
func created(f File) time.Time {
	file, ok := f.(*descriptor)
	if !ok {
		return time.Time{}
	}
	var st unix.Statx_t
	err := unix.Statx(file.fd, "", unix.AT_EMPTY_PATH, unix.STATX_BTIME, &st)
	if err != nil || st.Mask&unix.STATX_BTIME == 0 {
		return time.Time{}
	}
	return time.Unix(st.Btime.Sec, int64(st.Btime.Nsec))
}
