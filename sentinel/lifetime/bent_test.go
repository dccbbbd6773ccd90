package lifetime

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// bent is a volume of which a test has changed how some calls work; nil is as usual. What no
// schedule brings about for sure is had in this way.
type bent struct {
	Dir
	lstat     func(name string) (Info, error)
	open      func(name string, write bool) (File, error)
	create    func(prefix string) (string, File, error)
	rename    func(from, to string) error
	noReplace func(from, to string) error
	clock     *time.Time // which Sleep moves on
}

func (v bent) Lstat(name string) (Info, error) {
	if v.lstat != nil {
		return v.lstat(name)
	}
	return v.Dir.Lstat(name)
}

func (v bent) Open(name string, write bool) (File, error) {
	if v.open != nil {
		return v.open(name, write)
	}
	return v.Dir.Open(name, write)
}

func (v bent) Create(prefix string) (string, File, error) {
	if v.create != nil {
		return v.create(prefix)
	}
	return v.Dir.Create(prefix)
}

func (v bent) Rename(from, to string) error {
	if v.rename != nil {
		return v.rename(from, to)
	}
	return v.Dir.Rename(from, to)
}

func (v bent) RenameNoReplace(from, to string) error {
	if v.noReplace != nil {
		return v.noReplace(from, to)
	}
	return v.Dir.RenameNoReplace(from, to)
}

func (v bent) Now() time.Time {
	if v.clock != nil {
		return *v.clock
	}
	return v.Dir.Now()
}

func (v bent) Sleep(ctx context.Context, d time.Duration) error {
	if v.clock == nil {
		return v.Dir.Sleep(ctx, d)
	}
	*v.clock = v.clock.Add(d)
	return ctx.Err()
}

// bentFile is a file of a bent volume.
type bentFile struct {
	File
	writeLocked func() bool
	chmod       func(mode fs.FileMode) error
}

func (f bentFile) WriteLocked() bool {
	if f.writeLocked != nil {
		return f.writeLocked()
	}
	return f.File.WriteLocked()
}

func (f bentFile) Chmod(mode fs.FileMode) error {
	if f.chmod != nil {
		return f.chmod(mode)
	}
	return f.File.Chmod(mode)
}

// A volume that changes at every look is given up after six seconds.
func TestBeginOverARestlessVolume(t *testing.T) {
	for name, replaced := range map[string]func(v *bent){
		"another file comes and goes": func(v *bent) {
			v.noReplace = func(from, to string) error { return &os.LinkError{Op: "rename", Old: from, New: to, Err: unix.EEXIST} }
		},
		"another file each time": func(v *bent) {
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
			dir := newVolume(t)
			start := time.Unix(1, 0)
			clock := start
			v := &bent{Dir: Dir(dir), clock: &clock}
			replaced(v)
			if strings.HasSuffix(name, "time") {
				plant(t, runningPath(dir, "main"), contentRunning)
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			run, _, err := Begin(ctx, v, "main", func(live *LiveError) { t.Errorf("it says %s", live.Waiting()) })
			if run != nil || err == nil || !strings.Contains(err.Error(), "another program keeps replacing it") || !strings.Contains(err.Error(), runningPath(dir, "main")) {
				t.Errorf("Begin says %v", err)
			}
			if took := clock.Sub(start); took < liveWait+time.Second || took > liveWait+2*time.Second {
				t.Errorf("it has taken %s", took)
			}
			if got := listing(dir); strings.Contains(got, ".main-") {
				t.Errorf("Begin has left %s", got)
			}
		})
	}
}

// What Begin cannot look at it does not replace.
func TestBeginOverWhatCannotBeSeen(t *testing.T) {
	dir := newVolume(t)
	v := bent{Dir: Dir(dir), lstat: func(name string) (Info, error) {
		return Info{}, &fs.PathError{Op: "lstat", Path: Dir(dir).Path(name), Err: unix.EIO}
	}}
	clock := time.Unix(1, 0)
	v.clock = &clock
	run, _, err := Begin(t.Context(), v, "main", nil)
	if run != nil || !errors.Is(err, unix.EIO) || !strings.Contains(err.Error(), runningPath(dir, "main")) {
		t.Errorf("Begin says %v", err)
	}
	wantListing(t, dir)
}

// The private file is locked before anybody else may open it: nobody's read lock can come
// before, and a live run's file is never seen unlocked.
func TestPrivateFileIsLockedFirst(t *testing.T) {
	dir := newVolume(t)
	opened := 0
	v := bent{Dir: Dir(dir)}
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
		return private, bentFile{File: f, chmod: chmod}, err
	}
	run, _, err := Begin(t.Context(), v, "main", nil)
	if err != nil || opened != 1 {
		t.Fatalf("Begin: %v, opened to others %d times", err, opened)
	}
	if err := run.End(3); err != nil {
		t.Error(err)
	}
}

// A file that has been replaced by something else since it was looked at is not read.
func TestOpenOfWhatWasReplaced(t *testing.T) {
	dir := newVolume(t)
	plant(t, dir+"/file", "0\n")
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
		if f, err := openSeen(Dir(dir), "file", seen, false); f != nil || !errors.Is(err, errIrregular) || !strings.Contains(err.Error(), dir+"/file") {
			t.Errorf("%s: %v, %v", name, f, err)
		}
	}
}

// An end that cannot be renamed stands in the unlocked file. One that comes while the watcher
// looks is a code, and no death: what an unlocked file holds is final.
func TestEndInPlaceWhileLooking(t *testing.T) {
	dir := newVolume(t)
	refuses := bent{Dir: Dir(dir), rename: func(from, to string) error {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: unix.ENOSPC}
	}}
	run, _, err := Begin(t.Context(), refuses, "main", nil)
	if err != nil {
		t.Fatal(err)
	}
	ended := false
	v := bent{Dir: Dir(dir)}
	v.open = func(name string, write bool) (File, error) {
		f, err := v.Dir.Open(name, write)
		if err != nil {
			return nil, err
		}
		return bentFile{File: f, writeLocked: func() bool {
			if !ended {
				ended = true
				if err := run.End(3); err == nil || !strings.Contains(err.Error(), "the exit code is in "+runningPath(dir, "main")) {
					t.Errorf("End says %v", err)
				}
			}
			return f.WriteLocked()
		}}, nil
	}
	o := NewObserver(v, "main", time.Minute)
	o.judge.last.Phase = Running // it was seen to live
	if state, _ := o.Look(false, 0); !ended || describe(state) != "ended: 3" {
		t.Errorf("it is seen as %q", describe(state))
	}
}

// A command that never begins leaves its outcome also where no run could begin: but never over
// a live run, nor where nobody can report whether there is one.
func TestRecordWithoutARun(t *testing.T) {
	fails := func(errno error) func(string) (string, File, error) {
		return func(prefix string) (string, File, error) {
			return "", nil, &fs.PathError{Op: "open", Path: prefix, Err: errno}
		}
	}
	for _, c := range []struct {
		name   string
		live   bool
		create error
		open   error
		want   string
		left   []string
	}{
		{"full", false, unix.ENOSPC, nil, "recorded as a failure (125) without its code", []string{`main-running="running\n"`, "main-terminated(Lrwxrwxrwx)"}},
		{"over quota", false, unix.EDQUOT, nil, "recorded as a failure (125) without its code", []string{`main-running="running\n"`, "main-terminated(Lrwxrwxrwx)"}},
		{"full, and a live run", true, unix.ENOSPC, nil, "another sentinel or shim named main is running", []string{`main-running="running\n"`}},
		{"no descriptor", false, unix.EMFILE, unix.EMFILE, "too many open files", []string{`main-running="running\n"`}},
		{"no descriptor in the system, and a live run", true, unix.ENFILE, unix.ENFILE, "too many open files in system", []string{`main-running="running\n"`}},
		{"one descriptor", false, unix.EMFILE, nil, "recorded as a failure (125) without its code", []string{`main-running="running\n"`, "main-terminated(Lrwxrwxrwx)"}},
		{"read-only", false, unix.EROFS, nil, "read-only file system", []string{`main-running="running\n"`}},
		{"not permitted", false, unix.EACCES, nil, "permission denied", []string{`main-running="running\n"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := newVolume(t)
			if c.live {
				mustBegin(t, dir, "main") // and it does not end
			} else {
				plant(t, runningPath(dir, "main"), contentRunning)
			}
			v := bent{Dir: Dir(dir), create: fails(c.create)}
			if c.open != nil {
				v.open = func(name string, _ bool) (File, error) {
					return nil, &fs.PathError{Op: "open", Path: Dir(dir).Path(name), Err: c.open}
				}
			}
			if err := Record(v, "main", 3); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Record says %v, not %q", err, c.want)
			}
			wantListing(t, dir, c.left...)
		})
	}
}

// Where no run could begin, but a file can be made, the code is recorded.
func TestRecordBesideADirectory(t *testing.T) {
	dir := newVolume(t)
	if err := os.Mkdir(runningPath(dir, "main"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := Record(Dir(dir), "main", 3); err != nil {
		t.Error(err)
	}
	wantListing(t, dir, "main-running(drwxr-xr-x)", `main-terminated="3\n"`)
}
