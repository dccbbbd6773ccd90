package lifetime

import (
	"fmt"
	"iter"
	"math"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// describeStatus formats what Status says of a run, without Since.
func describeStatus(run RunStatus) string {
	text := run.Name + " " + run.Word()
	if run.Phase == Ended {
		text += fmt.Sprint(" ", run.Code)
	}
	return text
}

// wantStatus fails the test unless the runs on the volume are want, separated by commas: see describeStatus. It
// returns them.
func wantStatus(t *testing.T, dir, want string) []RunStatus {
	t.Helper()
	runs, more, err := Status(Dir(dir), time.Minute)
	if err != nil || more {
		t.Errorf("Status: %v, more: %t", err, more)
	}
	var got []string
	for _, run := range runs {
		got = append(got, describeStatus(run))
	}
	if strings.Join(got, ", ") != want {
		t.Errorf("the runs are\n%s, not\n%s", strings.Join(got, ", "), want)
	}
	return runs
}

// age sets the modification time of a file to a time ago, and returns it.
func age(t *testing.T, path string, ago time.Duration) time.Time {
	t.Helper()
	modified := time.Now().Add(-ago).Truncate(time.Microsecond)
	stamp := unix.NsecToTimespec(modified.UnixNano())
	both := []unix.Timespec{stamp, stamp}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, both, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		t.Fatal(err)
	}
	return modified
}

// Status has the words of all states, and takes the age of a file for the time that a watcher would have waited.
func TestStatus(t *testing.T) {
	dir := testenv.Volume(t)
	wantStatus(t, dir, "")

	live, stopping, killed, dead := newHelper(t), newHelper(t), newHelper(t), newHelper(t)
	live.do("begin", dir, "live")
	age(t, dir+"/live-running", time.Hour) // it is locked: that counts
	stopping.do("begin", dir, "stopping")
	stopping.do("stopping")
	killed.do("begin", dir, "killed")
	killed.do("stopping")
	killed.kill()
	age(t, dir+"/killed-running", 50*time.Second)
	dead.do("begin", dir, "dead")
	dead.kill()
	age(t, dir+"/dead-running", time.Minute)

	testenv.Plant(t, dir+"/ended-terminated", "3\n")
	testenv.Plant(t, dir+"/place-running", "7\n")
	for _, name := range []string{"empty", "just-empty"} {
		testenv.Plant(t, dir+"/"+name+"-terminated", "")
	}
	for _, name := range []string{"garbage", "just-garbage"} {
		testenv.Plant(t, dir+"/"+name+"-terminated", "done\n")
	}
	if err := syscall.Mkfifo(dir+"/fifo-terminated", 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("live-running", dir+"/link-running"); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"empty-terminated", "garbage-terminated", "fifo-terminated"} {
		age(t, dir+"/"+file, time.Second)
	}
	for _, file := range []string{"just-empty-terminated", "just-garbage-terminated"} {
		age(t, dir+"/"+file, -time.Hour) // in the future, so that a slow test finds it new
	}
	for _, name := range []string{
		"-running", ".hidden-terminated", "a b-running", "\x1b[31m-terminated", "log", "live-running.new",
	} {
		testenv.Plant(t, dir+"/"+name, "0\n")
	}
	wantStatus(t, dir, "dead lost 137, empty ended 0, ended ended 3, fifo ended 125, garbage ended 125, "+
		"just-empty unsettled, just-garbage unsettled, killed unverified, link unverified, live running, "+
		"place ended 7, stopping stopping")
}

// Since is when a live run has begun, and else when the file was last written.
func TestStatusSince(t *testing.T) {
	dir := testenv.Volume(t)
	before := time.Now().Add(-time.Second) // a file system's clock may lag behind
	mustBegin(t, dir, "live")
	begun := time.Now()
	testenv.Plant(t, dir+"/ended-terminated", "3\n")
	testenv.Plant(t, dir+"/new-terminated", "")
	testenv.Plant(t, dir+"/killed-running", contentRunning)
	testenv.Plant(t, dir+"/lost-running", contentRunning)
	written := map[string]time.Time{
		"ended":  age(t, dir+"/ended-terminated", time.Hour),
		"new":    age(t, dir+"/new-terminated", -time.Hour),
		"killed": age(t, dir+"/killed-running", time.Second),
		"lost":   age(t, dir+"/lost-running", 2*time.Hour),
	}
	age(t, dir+"/live-running", 3*time.Hour)
	want := "ended ended 3, killed unverified, live running, lost lost 137, new unsettled"
	for _, run := range wantStatus(t, dir, want) {
		if run.Name == "live" {
			if run.Since.Before(before) || run.Since.After(begun) {
				t.Errorf("live runs since %s, not since a time between %s and %s", run.Since, before, begun)
			}
			continue
		}
		if want := written[run.Name]; !run.Since.Equal(want) {
			t.Errorf("%s: since %s, not %s", run.Name, run.Since, want)
		}
	}
}

// An empty end is a failure on a full volume.
func TestStatusNoRoom(t *testing.T) {
	dir := testenv.Volume(t)
	testenv.Plant(t, dir+"/main-terminated", "")
	age(t, dir+"/main-terminated", time.Second)
	runs, _ := statuses(fullVolume{Dir(dir)}, time.Minute)
	if len(runs) != 1 || describeStatus(runs[0]) != "main ended 125" || runs[0].Cause != NoRoom {
		t.Errorf("the runs are %+v", runs)
	}
}

type fullVolume struct{ Dir }

func (fullVolume) Full() bool { return true }

// Status returns at most maxRuns and says so if there are more.
func TestStatusIsBounded(t *testing.T) {
	dir := testenv.FastVolume(t)
	var runs []RunStatus
	for i := range maxRuns + 1 {
		testenv.Plant(t, fmt.Sprintf("%s/n%d-terminated", dir, i), "0\n")
		planted := i + 1
		if planted < maxRuns {
			continue
		}
		var more bool
		var err error
		runs, more, err = Status(Dir(dir), time.Minute)
		if err != nil || len(runs) != maxRuns || more != (planted > maxRuns) {
			t.Fatalf("of %d runs there are %d, more: %t, %v", planted, len(runs), more, err)
		}
	}
	for i := range runs[1:] {
		if runs[i].Name >= runs[i+1].Name {
			t.Errorf("%s comes before %s", runs[i].Name, runs[i+1].Name)
		}
	}
}

// changingVolume is a volume that changes while it is read: listed is called before its first file is listed, and
// looked before each Lstat.
type changingVolume struct {
	Dir
	names  func() []string
	looked func(name string)
}

func (v changingVolume) Names() iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, name := range v.names() {
			if !yield(name) {
				return
			}
		}
	}
}

func (v changingVolume) Lstat(name string) (Info, error) {
	v.looked(name)
	return v.Dir.Lstat(name)
}

// A run whose file is renamed while the directory is listed, or between the looks at its two names, is not missing.
func TestStatusDuringAnEnd(t *testing.T) {
	dir := testenv.Volume(t)
	testenv.Plant(t, dir+"/main-running", "3\n")
	listings := 0
	v := changingVolume{
		Dir: Dir(dir),
		names: func() []string {
			if listings++; listings == 1 {
				return nil // the file has been renamed to a name that the listing had passed
			}
			return []string{"main-running"}
		},
		looked: func(name string) {
			if name == "main-running" {
				_ = os.Rename(dir+"/main-running", dir+"/main-terminated")
			}
		},
	}
	runs, _ := statuses(v, time.Minute)
	if len(runs) != 1 || describeStatus(runs[0]) != "main ended 3" || listings != 2 {
		t.Errorf("after %d listings the runs are %+v", listings, runs)
	}

	// Nor is a run that begins again between two looks.
	missing := 0
	v.looked = func(string) {
		switch missing++; missing {
		case 1:
			_ = os.Remove(dir + "/main-terminated")
		case 4: // the next attempt
			testenv.Plant(t, dir+"/main-running", contentRunning)
		}
	}
	runs, _ = statuses(v, math.MaxInt64)
	if len(runs) != 1 || describeStatus(runs[0]) != "main unverified" {
		t.Errorf("the runs are %+v", runs)
	}

	// A run whose files are removed is left out.
	looks := 0
	v.looked = func(string) {
		looks++
		_ = os.Remove(dir + "/main-running")
	}
	if runs, _ = statuses(v, time.Minute); len(runs) != 0 || looks != 3*MaxAttempts {
		t.Errorf("after %d looks the runs are %+v", looks, runs)
	}

	// One look is enough if nothing changes.
	testenv.Plant(t, dir+"/main-terminated", "3\n")
	looks = 0
	if runs, _ = statuses(v, time.Minute); len(runs) != 1 || looks != 1 {
		t.Errorf("after %d looks the runs are %+v", looks, runs)
	}
}

// Not every file system records when a file was created.
func TestStatusWithoutCreation(t *testing.T) {
	f, err := Dir("/proc/self").Open("stat", false)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if at := created(f); !at.IsZero() {
		t.Errorf("a file in /proc was created at %s", at)
	}
}

// What cannot be read as a volume is an error that says what to do.
func TestStatusRefused(t *testing.T) {
	dir := testenv.Volume(t)
	testenv.Plant(t, dir+"/file", "")
	for path, says := range map[string]string{
		dir + "/none": "the volume " + dir + "/none does not exist: mount",
		dir + "/file": "the volume " + dir + "/file is not a directory: mount",
	} {
		if runs, more, err := Status(Dir(path), time.Minute); err == nil || !strings.HasPrefix(err.Error(), says) ||
			runs != nil || more {
			t.Errorf("%s: %v, %t, %v; want an error: %s", path, runs, more, err, says)
		}
	}
}
