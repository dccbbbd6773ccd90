package lifetime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// hooked is a volume of which a test has replaced some calls; nil means the usual call. It produces
// situations that no schedule produces reliably.
type hooked struct {
	Dir
	lstat     func(name string) (Info, error)
	open      func(name string, write bool) (File, error)
	create    func(prefix string) (string, File, error)
	rename    func(from, to string) error
	noReplace func(from, to string) error
	tick      func(d time.Duration, f func()) (stop func())
	clock     *time.Time // Sleep advances it
}

func (v hooked) Lstat(name string) (Info, error) {
	if v.lstat != nil {
		return v.lstat(name)
	}
	return v.Dir.Lstat(name)
}

func (v hooked) Open(name string, write bool) (File, error) {
	if v.open != nil {
		return v.open(name, write)
	}
	return v.Dir.Open(name, write)
}

func (v hooked) Create(prefix string) (string, File, error) {
	if v.create != nil {
		return v.create(prefix)
	}
	return v.Dir.Create(prefix)
}

func (v hooked) Rename(from, to string) error {
	if v.rename != nil {
		return v.rename(from, to)
	}
	return v.Dir.Rename(from, to)
}

func (v hooked) RenameNoReplace(from, to string) error {
	if v.noReplace != nil {
		return v.noReplace(from, to)
	}
	return v.Dir.RenameNoReplace(from, to)
}

func (v hooked) Tick(d time.Duration, f func()) (stop func()) {
	if v.tick != nil {
		return v.tick(d, f)
	}
	return v.Dir.Tick(d, f)
}

func (v hooked) Now() time.Time {
	if v.clock != nil {
		return *v.clock
	}
	return v.Dir.Now()
}

func (v hooked) Sleep(ctx context.Context, d time.Duration) error {
	if v.clock == nil {
		return v.Dir.Sleep(ctx, d)
	}
	*v.clock = v.clock.Add(d)
	return ctx.Err()
}

// hookedFile is a file of a hooked volume.
type hookedFile struct {
	File
	writeLocked func() bool
	chmod       func(mode fs.FileMode) error
	truncate    func(size int64) error
}

func (f hookedFile) WriteLocked() bool {
	if f.writeLocked != nil {
		return f.writeLocked()
	}
	return f.File.WriteLocked()
}

func (f hookedFile) Truncate(size int64) error {
	if f.truncate != nil {
		return f.truncate(size)
	}
	return f.File.Truncate(size)
}

func (f hookedFile) Chmod(mode fs.FileMode) error {
	if f.chmod != nil {
		return f.chmod(mode)
	}
	return f.File.Chmod(mode)
}

// Begin gives up after six seconds on a volume that changes at every look.
func TestBeginOverARestlessVolume(t *testing.T) {
	for name, replaced := range map[string]func(v *hooked){
		"another file comes and goes": func(v *hooked) {
			v.noReplace = func(from, to string) error {
				return &os.LinkError{Op: "rename", Old: from, New: to, Err: unix.EEXIST}
			}
		},
		"another file each time": func(v *hooked) {
			inode := uint64(0)
			v.lstat = func(name string) (Info, error) {
				if name != "main-running" {
					return v.Dir.Lstat(name)
				}
				inode++
				return Info{Identity: Identity{Dev: 1, Ino: inode}}, nil
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := testenv.Volume(t)
			start := time.Unix(1, 0)
			clock := start
			v := &hooked{Dir: Dir(dir), clock: &clock}
			replaced(v)
			if strings.HasSuffix(name, "time") {
				testenv.Plant(t, runningPath(dir, "main"), contentRunning)
			}
			ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
			defer cancel()
			run, _, err := Begin(ctx, v, "main", func(live *LiveError) {
				t.Errorf("Begin called waiting: %s", live.Waiting())
			})
			if run != nil || err == nil || !strings.Contains(err.Error(), "another program keeps replacing it") ||
				!strings.Contains(err.Error(), runningPath(dir, "main")) {
				t.Errorf("Begin returned %v", err)
			}
			if took := clock.Sub(start); took < liveWait+time.Second || took > liveWait+2*time.Second {
				t.Errorf("Begin took %s", took)
			}
			if got := testenv.Listing(dir); strings.Contains(got, ".main-") {
				t.Errorf("Begin has left %s", got)
			}
		})
	}
}

// Begin does not replace a file that it cannot examine.
func TestBeginOverWhatCannotBeSeen(t *testing.T) {
	dir := testenv.Volume(t)
	v := hooked{Dir: Dir(dir), lstat: func(name string) (Info, error) {
		return Info{}, &fs.PathError{Op: "lstat", Path: Dir(dir).Path(name), Err: unix.EIO}
	}}
	clock := time.Unix(1, 0)
	v.clock = &clock
	run, _, err := Begin(t.Context(), v, "main", nil)
	if run != nil || !errors.Is(err, unix.EIO) || !strings.Contains(err.Error(), runningPath(dir, "main")) {
		t.Errorf("Begin returned %v", err)
	}
	testenv.WantListing(t, dir)
}

// Begin locks the private file before others can open it: no read lock can come first, and a live run's file
// is never seen unlocked.
func TestPrivateFileIsLockedFirst(t *testing.T) {
	dir := testenv.Volume(t)
	opened := 0
	v := hooked{Dir: Dir(dir)}
	v.create = func(prefix string) (string, File, error) {
		private, f, err := v.Dir.Create(prefix)
		chmod := func(mode fs.FileMode) error {
			opened++
			look, err := v.Dir.Open(private, false)
			if err != nil {
				t.Fatal(err)
			}
			defer look.Close()
			if !look.WriteLocked() {
				t.Errorf("the private file is opened to others (%v) before it is locked", mode)
			}
			return f.Chmod(mode)
		}
		return private, hookedFile{File: f, chmod: chmod}, err
	}
	run, _, err := Begin(t.Context(), v, "main", nil)
	if err != nil || opened != 1 {
		t.Fatalf("Begin: %v, opened to others %d times", err, opened)
	}
	if err := run.End(3); err != nil {
		t.Error(err)
	}
}

// A heart beats from the Begin of a run to its end, and not after a Begin that fails.
func TestHeartStops(t *testing.T) {
	for name, refused := range map[string]error{"a run": nil, "a Begin that fails": unix.EIO} {
		t.Run(name, func(t *testing.T) {
			beating := 0
			v := hooked{Dir: Dir(testenv.Volume(t))}
			v.tick = func(d time.Duration, _ func()) func() {
				if d != Heartbeat {
					t.Errorf("the heart beats every %s, not every %s", d, Heartbeat)
				}
				beating++
				return func() { beating-- }
			}
			if refused != nil {
				v.noReplace = func(_, _ string) error { return refused }
			}
			run, _, err := Begin(t.Context(), v, "main", nil)
			if !errors.Is(err, refused) {
				t.Fatalf("Begin: %v", err)
			}
			if run != nil {
				if beating != 1 {
					t.Errorf("%d hearts beat during a run", beating)
				}
				mustEnd(t, run, 3)
			}
			if beating != 0 {
				t.Errorf("%d hearts beat after it", beating)
			}
		})
	}
}

// A Begin compares the file that it has examined with the one that it is about to replace: another may have been there
// before, whose inode the file of a live run has now.
func TestBeginReplacesOnlyWhatItHasExamined(t *testing.T) {
	dir, clock := testenv.Volume(t), time.Unix(1, 0)
	testenv.Plant(t, runningPath(dir, "main"), contentRunning)
	v := hooked{Dir: Dir(dir), clock: &clock}
	v.lstat = func(name string) (Info, error) {
		info, err := v.Dir.Lstat(name)
		if name == "main-running" {
			info.Ino++
		}
		return info, err
	}
	v.rename = func(_, to string) error {
		t.Errorf("%s is replaced", to)
		return unix.EIO
	}
	if _, _, err := Begin(t.Context(), v, "main", nil); err == nil {
		t.Error("a run has begun")
	}
}

// A file that gets longer, or keeps its length, is not truncated: each change wakes every watcher.
func TestOverwrite(t *testing.T) {
	dir := testenv.Volume(t)
	testenv.Plant(t, dir+"/file", contentRunning)
	f := mustOpen(t, dir, "file", true)
	defer f.Close()
	truncated := false
	counted := hookedFile{File: f, truncate: func(size int64) error {
		truncated = true
		return f.Truncate(size)
	}}
	before := contentRunning
	for _, content := range []string{contentStopping, contentRunning, "3\n", "4\n"} {
		truncated = false
		if err := overwrite(counted, len(before), content); err != nil {
			t.Fatal(err)
		}
		if shorter := len(content) < len(before); truncated != shorter {
			t.Errorf("%q over %q: truncated %t, want %t", content, before, truncated, shorter)
		}
		testenv.WantListing(t, dir, fmt.Sprintf("file=%q", content))
		before = content
	}
}

// openSeen does not open a file that was replaced by something else after Lstat.
func TestOpenOfWhatWasReplaced(t *testing.T) {
	dir := testenv.Volume(t)
	testenv.Plant(t, dir+"/file", "0\n")
	seen, err := Dir(dir).Lstat("file")
	if err != nil {
		t.Fatal(err)
	}
	for name, put := range map[string]func(path string) error{
		"a FIFO":      func(path string) error { return unix.Mkfifo(path, 0o666) },
		"a directory": func(path string) error { return os.Mkdir(path, 0o777) },
	} {
		if err := errors.Join(os.RemoveAll(dir+"/file"), put(dir+"/file")); err != nil {
			t.Fatal(err)
		}
		f, _, err := openSeen(Dir(dir), "file", seen, false)
		if f != nil || !errors.Is(err, errIrregular) || !strings.Contains(err.Error(), dir+"/file") {
			t.Errorf("%s: %v, %v", name, f, err)
		}
	}
}

// A run that cannot rename its file leaves the code in the unlocked file. If that happens while a watcher
// looks, the watcher sees the code and not a lost run: the content of an unlocked file is final.
func TestEndInPlaceWhileLooking(t *testing.T) {
	dir := testenv.Volume(t)
	refuses := hooked{Dir: Dir(dir), rename: func(from, to string) error {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: unix.ENOSPC}
	}}
	run, _, err := Begin(t.Context(), refuses, "main", nil)
	if err != nil {
		t.Fatal(err)
	}
	ended := false
	v := hooked{Dir: Dir(dir)}
	v.open = func(name string, write bool) (File, error) {
		f, err := v.Dir.Open(name, write)
		if err != nil {
			return nil, err
		}
		return hookedFile{File: f, writeLocked: func() bool {
			if !ended {
				ended = true
				err := run.End(3)
				if err == nil || !strings.Contains(err.Error(), "the exit code is in "+runningPath(dir, "main")) {
					t.Errorf("End returned %v", err)
				}
			}
			return f.WriteLocked()
		}}, nil
	}
	o := NewObserver(v, "main", time.Minute)
	o.judge.last.Phase = Running
	if state, _ := o.Look(false, 0); !ended || describe(state) != "ended: 3" {
		t.Errorf("the state is %q", describe(state))
	}
}

// Record records the outcome of a command that never begins, even if no run can begin; but never over a live
// run, nor if it cannot know whether there is one.
func TestRecordWithoutARun(t *testing.T) {
	fails := func(errno error) func(string) (string, File, error) {
		return func(prefix string) (string, File, error) {
			return "", nil, &fs.PathError{Op: "open", Path: prefix, Err: errno}
		}
	}
	const withoutCode = "recorded as a failure (125) without its code"
	running := []string{`main-running="running\n"`}
	symlink := []string{`main-running="running\n"`, "main-terminated(Lrwxrwxrwx)"}
	for _, c := range []struct {
		name   string
		live   bool
		create error
		open   error
		want   string
		left   []string
	}{
		{"full", false, unix.ENOSPC, nil, withoutCode, symlink},
		{"over quota", false, unix.EDQUOT, nil, withoutCode, symlink},
		{"full, and a live run", true, unix.ENOSPC, nil, "another sentinel or shim named main is running", running},
		{"no descriptor", false, unix.EMFILE, unix.EMFILE, "too many open files", running},
		{"no descriptor in the system, and a live run", true, unix.ENFILE, unix.ENFILE,
			"too many open files in system", running},
		{"one descriptor", false, unix.EMFILE, nil, withoutCode, symlink},
		{"read-only", false, unix.EROFS, nil, "read-only file system", running},
		{"not permitted", false, unix.EACCES, nil, "permission denied", running},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := testenv.Volume(t)
			if c.live {
				mustBegin(t, dir, "main") // never ends
			} else {
				testenv.Plant(t, runningPath(dir, "main"), contentRunning)
			}
			v := hooked{Dir: Dir(dir), create: fails(c.create)}
			if c.open != nil {
				v.open = func(name string, _ bool) (File, error) {
					return nil, &fs.PathError{Op: "open", Path: Dir(dir).Path(name), Err: c.open}
				}
			}
			if err := Record(v, "main", 3); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Record returned %v, not %q", err, c.want)
			}
			testenv.WantListing(t, dir, c.left...)
		})
	}
}

// Record records the code if no run can begin but a file can be created.
func TestRecordBesideADirectory(t *testing.T) {
	dir := testenv.Volume(t)
	if err := os.Mkdir(runningPath(dir, "main"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := Record(Dir(dir), "main", 3); err != nil {
		t.Error(err)
	}
	testenv.WantListing(t, dir, "main-running(drwxr-xr-x)", `main-terminated="3\n"`)
}
