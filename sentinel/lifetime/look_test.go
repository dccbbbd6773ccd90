package lifetime

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// broken is a file of which some calls fail.
type broken struct {
	File
	stat, read, write error
}

func (f broken) Stat() (Info, error) {
	if f.stat != nil {
		return Info{}, f.stat
	}
	return f.File.Stat()
}

func (f broken) Read(p []byte) (int, error) {
	if f.read != nil {
		return 0, f.read
	}
	return f.File.Read(p)
}

func (f broken) WriteAt(p []byte, off int64) (int, error) {
	if f.write != nil {
		return 0, f.write
	}
	return f.File.WriteAt(p, off)
}

// A snapshot is consistent unless a file was taken away or replaced during the look, or none is left of a run
// that was running.
func TestSnapshot(t *testing.T) {
	const ended, running = "main-terminated", "main-running"
	type call struct{ name, file string }
	lstat, open := call{"lstat", running}, call{"open", running}
	for _, c := range []struct {
		name       string
		files      []string // with a code in them
		live       bool     // NAME-running is locked
		before     call     // before the first such call
		does       func(dir string) error
		fails      error // the call's result, if it is not the usual one
		wasRunning bool
		pending    bool
		want       string
		consistent bool
	}{
		{name: "nothing", consistent: true},
		{name: "nothing of a run that was running", wasRunning: true},
		{name: "an end", files: []string{ended}, wasRunning: true, want: "terminated", consistent: true},
		{name: "a live run", live: true, want: "running locked", consistent: true},
		{name: "a live run that was not running", live: true, pending: true, want: "running locked", consistent: true},
		{name: "a live run with a pending wait: nothing is read", live: true, wasRunning: true, pending: true,
			consistent: true},
		{name: "an end with a pending wait", files: []string{ended}, wasRunning: true, pending: true,
			want: "terminated", consistent: true},
		{name: "a dead run", files: []string{running}, wasRunning: true, want: "running", consistent: true},
		{name: "a dead run that was not running", files: []string{running}, want: "running", consistent: true},
		{name: "the run ends during the look", files: []string{running}, before: lstat, wasRunning: true,
			does: func(dir string) error { return os.Rename(dir+"/"+running, dir+"/"+ended) },
			want: "terminated", consistent: true},
		{name: "its file is removed during the look", files: []string{running}, before: open,
			does: func(dir string) error { return os.Remove(dir + "/" + running) }},
		{name: "its file cannot be opened", files: []string{running}, before: open, fails: unix.EACCES,
			want: "running", consistent: true},
		{name: "its file cannot be seen", files: []string{running}, before: lstat, fails: unix.EACCES,
			consistent: true},
		{name: "the end cannot be seen", files: []string{ended}, before: call{"lstat", ended}, fails: unix.EACCES,
			consistent: true},
		{name: "the end cannot be opened", files: []string{ended}, before: call{"open", ended}, fails: unix.EACCES,
			want: "terminated", consistent: true},
		{name: "the end is removed during the look", files: []string{ended}, before: call{"open", ended},
			does: func(dir string) error { return os.Remove(dir + "/" + ended) }, consistent: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := testenv.Volume(t)
			for _, file := range c.files {
				testenv.Plant(t, dir+"/"+file, "3\n")
			}
			if c.live {
				mustBegin(t, dir, "main")
			}
			happen := func(now call) error {
				if c.before != now {
					return nil
				}
				if c.does != nil {
					c.before = call{} // once
					if err := c.does(dir); err != nil {
						t.Fatal(err)
					}
				}
				return c.fails
			}
			v := hooked{Dir: Dir(dir)}
			v.lstat = func(name string) (Info, error) {
				if err := happen(call{"lstat", name}); err != nil {
					return Info{}, err
				}
				return v.Dir.Lstat(name)
			}
			v.open = func(name string, write bool) (File, error) {
				if err := happen(call{"open", name}); err != nil {
					return nil, err
				}
				return v.Dir.Open(name, write)
			}
			s, locked, consistent := snapshot(v, "main", c.wasRunning, c.pending)
			var got []string
			for word, is := range map[string]bool{
				"terminated": s.terminated.exists, "running": s.running.exists && !s.terminated.exists,
			} {
				if is {
					got = append(got, word)
				}
			}
			if locked != nil {
				got = append(got, "locked")
				locked.Close()
			}
			if strings.Join(got, " ") != c.want || consistent != c.consistent {
				t.Errorf("there is %q, consistent %t; want %q, %t", got, consistent, c.want, c.consistent)
			}
		})
	}
}

// A file that was replaced while its content was read makes a snapshot inconsistent.
func TestSnapshotOfAReplacedFile(t *testing.T) {
	dir := testenv.Volume(t)
	path := runningPath(dir, "main")
	testenv.Plant(t, path, contentRunning)
	v := hooked{Dir: Dir(dir)}
	v.open = func(name string, write bool) (File, error) {
		f, err := v.Dir.Open(name, write)
		testenv.Plant(t, path+"-new", contentRunning)
		return f, errors.Join(err, os.Rename(path+"-new", path))
	}
	if s, _, consistent := snapshot(v, "main", false, false); !s.running.exists || consistent {
		t.Errorf("the snapshot is %+v, consistent %t", s, consistent)
	}
}

// What cannot be read has no content and keeps its identity.
func TestReadFails(t *testing.T) {
	dir := testenv.Volume(t)
	testenv.Plant(t, dir+"/file", "3\n")
	f, err := Dir(dir).Open("file", false)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	state := fileState{exists: true, id: file(1, 1)}
	before := state
	if state.setContent(broken{File: f, read: unix.EIO}, Info{}); state != before {
		t.Errorf("what cannot be read is %+v", state)
	}
}

// One Look takes a single snapshot of a volume that does not change, and at most MaxAttempts. It does
// not look at the file of a run whose lock it waits for.
func TestAttempts(t *testing.T) {
	for _, c := range []struct {
		name       string
		wasRunning bool
		pending    bool
		want       int
	}{
		{"nothing", false, false, 1},
		{"a wait is pending", true, true, 0},
		{"the files of a run are away", true, false, MaxAttempts},
	} {
		looks := 0
		v := hooked{Dir: Dir(testenv.Volume(t))}
		v.lstat = func(name string) (Info, error) {
			if name == "main-running" {
				looks++
			}
			return v.Dir.Lstat(name)
		}
		o := NewObserver(v, "main", time.Minute)
		if c.wasRunning {
			o.judge.last.Phase = Running
		}
		o.Look(c.pending, 0)
		if looks != c.want {
			t.Errorf("%s: one Look has taken %d snapshots, not %d", c.name, looks, c.want)
		}
	}
}

// A file is told from one with the same number on another device.
func TestSameFile(t *testing.T) {
	id := Identity{Dev: 1, Ino: 5, Sec: 7}
	for other, want := range map[Identity]bool{
		{Dev: 1, Ino: 5}: true, {Dev: 2, Ino: 5}: false, {Dev: 1, Ino: 6}: false,
	} {
		if got := id.sameFile(other); got != want {
			t.Errorf("%+v is the same file as %+v: %t", other, id, got)
		}
	}
}

// If the run's own file cannot be written to, or is taken away at the last moment, End creates another.
func TestEndAfresh(t *testing.T) {
	t.Run("not writable", func(t *testing.T) {
		dir := testenv.Volume(t)
		run := mustBegin(t, dir, "main")
		run.file = broken{File: run.file, write: unix.EIO}
		if err := run.End(3); !errors.Is(err, unix.EIO) {
			t.Errorf("End: %v", err)
		}
		wantState(t, dir, "main", "ended: 3")
	})
	t.Run("taken away", func(t *testing.T) {
		dir := testenv.Volume(t)
		run := mustBegin(t, dir, "main")
		run.volume = hooked{Dir: Dir(dir), rename: func(from, to string) error {
			if from == "main-running" {
				_ = os.Remove(runningPath(dir, "main"))
			}
			return Dir(dir).Rename(from, to)
		}}
		if err := run.End(3); err != nil {
			t.Error(err)
		}
		testenv.WantListing(t, dir, `main-terminated="3\n"`)
	})
}
