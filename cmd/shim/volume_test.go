package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// TestUnreadableVolume: a shim that may not list the volume gets no events. It says why, and follows main anyway.
func TestUnreadableVolume(t *testing.T) {
	t.Parallel()
	testenv.NeedRoot(t, "to run the shim as another user than main")
	p := pod{t, testenv.Volume(t)}
	if err := os.Chmod(p.dir, 0o733); err != nil {
		t.Fatal(err)
	}
	run := p.begin("main")
	argv := drive.Wrap("shim", p.flags(""), []string{"sleep", "1000"})
	s := drive.Start(t, argv, testenv.As(testenv.Somebody))
	s.Await("the directory is not readable for this user")
	s.Await("main is running")
	p.end(run, 4)
	s.Want(4)
	if strings.Contains(s.Output(), "max_user_") {
		t.Errorf("the log blames a limit of inotify:\n%s", s.Output())
	}
}

// wantUnrecorded checks a shim that cannot write to the volume: it says so once, and works. The runs of main are in
// this process.
func wantUnrecorded(t *testing.T, p pod, start func(flags string, sidecar ...string) *drive.Process) {
	t.Helper()
	run := p.begin("main")
	s := start("", "sleep", "1000")
	s.Await("sleep started")
	p.end(run, 4)
	s.Want(4)
	s.Await("main exited 4; sleep stopped")
	if n := strings.Count(s.Output(), "not recorded"); n != 1 {
		t.Errorf("the log says %d times that the run is not recorded, not once:\n%s", n, s.Output())
	}
	p.wantFiles("main-terminated")

	// The shim cannot know that it has run before, so a failure is final, unless a flag says otherwise.
	s = start("", drive.Command("exit", "99")...)
	s.Want(4)
	wantNotLaunched(t, s)
	s = start("--restart-policy OnFailure", "sleep", "1000")
	s.Await("sleep started")
	run = p.begin("main")
	p.end(run, 0)
	s.Want(0)

	// Nor can it announce that it is about to stop. A main that begins again during --drain does not wait for it, so
	// the shim has to keep its sidecar.
	run = p.begin("main")
	s = start("--drain 1h", "sleep", "1000")
	s.Await("sleep started")
	p.end(run, 3)
	s.Await("(--drain)")
	run = p.begin("main")
	s.Await("is kept: main has begun")
	p.end(run, 5)
	s.AwaitCount("(--drain)", 2)
	s.Signal(syscall.SIGTERM)
	s.Want(5)
}

func TestVolumeWithoutWritePermission(t *testing.T) {
	t.Parallel()
	// A user who may not write cannot record main's end either.
	testenv.NeedRoot(t, "to run the shim as another user than main")
	p := pod{t, testenv.Volume(t)}
	if err := os.Chmod(p.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	wantUnrecorded(t, p, func(flags string, sidecar ...string) *drive.Process {
		return drive.Start(t, drive.Wrap("shim", p.flags(flags), sidecar), testenv.As(testenv.Somebody))
	})
}

// TestDirectoryWithoutWritePermission is the part of it that needs no other user.
func TestDirectoryWithoutWritePermission(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("root may write everywhere")
	}
	p := newPod(t)
	run := p.begin("main")
	if err := os.Chmod(p.dir, 0o555); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(p.dir, 0o755) })
	s := p.shim("", "sleep", "1000")
	s.Await("sleep started")
	s.Await("not recorded")
	_ = run.End(4) // the rename fails: the code stays in main-running
	s.Want(4)
}

func TestReadOnlyMount(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	mount := testenv.ReadOnly(t, p.dir)
	wantUnrecorded(t, p, func(flags string, sidecar ...string) *drive.Process {
		return pod{t, mount}.shim(flags, sidecar...)
	})
}

// TestFullVolume: main has begun, then the volume is full.
func TestFullVolume(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	testenv.Tmpfs(t, p.dir, "size=64k")
	run := p.begin("main")
	testenv.FillBlocks(t, p.dir)
	s := p.shim("", "sleep", "1000")
	s.Await("sleep started")
	p.end(run, 4)
	s.Want(4)
	if n := strings.Count(s.Output(), "not recorded"); n != 1 {
		t.Errorf("the log says %d times that the run is not recorded, not once:\n%s", n, s.Output())
	}
	p.wantFiles("full", "main-terminated")
}

// TestSandbox is about calls that sandboxes and exhausted nodes refuse.
func TestSandbox(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		refused  string
		warnings int
	}{
		{"inotify", 1},
		{"watches", 1},
		{"events", 0}, // the shim cannot notice it
		{"locks", 0},
		{"renames", 0},
		{"inotify,locks", 1},
		{"events,locks", 0},
	} {
		warned := func(t *testing.T, s *drive.Process) {
			t.Helper()
			if n := strings.Count(s.Output(), `"level":"warn"`); n != c.warnings {
				t.Errorf("%d warnings, not %d:\n%s", n, c.warnings, s.Output())
			}
			if c.warnings > 0 {
				s.Await("once a second")
			}
		}
		t.Run(c.refused+": the end of a foreign main", func(t *testing.T) {
			t.Parallel()
			p := newPod(t)
			s := p.shimWithout(c.refused, "", "sleep", "1000")
			s.Await("sleep started")
			p.record("main-terminated", "3\n")
			s.Want(3)
			warned(t, s)
		})
		t.Run(c.refused+": the end of a sentinel", func(t *testing.T) {
			t.Parallel()
			p := newPod(t)
			argv := drive.Wrap("sentinel", []string{"--dir", p.dir}, drive.Command("server", "USR1=3"))
			m := p.without(c.refused, argv)
			m.Await("ready")
			s := p.shimWithout(c.refused, "", "sleep", "1000")
			s.Await("sleep started")
			if strings.Contains(c.refused, "locks") {
				s.Await("main is taken for running")
			} else {
				s.Await("main is running")
			}
			m.Signal(syscall.SIGUSR1)
			m.Want(3)
			s.Want(3)
			warned(t, s)
			p.wantFiles("main-terminated", "proxy-terminated")
		})
	}
	t.Run("inotify: a killed sentinel is noticed by its lock", func(t *testing.T) {
		t.Parallel()
		p := newPod(t)
		m := p.sentinel("", "sleep", "1000")
		s := p.shimWithout("inotify", "--lost-after 1h", "sleep", "1000")
		s.Await("main is running")
		m.Kill()
		s.Want(137)
	})
}

// TestHostileVolume replaces the file of a live main, and the shim's own files, with other things.
func TestHostileVolume(t *testing.T) {
	t.Parallel()
	outside := func(t *testing.T) string {
		file := filepath.Join(t.TempDir(), "outside")
		testenv.Plant(t, file, "outside\n")
		return file
	}
	things := map[string]func(path, outside string) error{
		"FIFO":       func(path, _ string) error { return unix.Mkfifo(path, 0o666) },
		"directory":  func(path, _ string) error { return os.MkdirAll(filepath.Join(path, "full"), 0o755) },
		"link":       func(path, outside string) error { return os.Symlink(outside, path) },
		"hard link":  func(path, outside string) error { return os.Link(outside, path) },
		"dead link":  func(path, _ string) error { return os.Symlink("nothing", path) },
		"/dev/zero":  func(path, _ string) error { return os.Symlink("/dev/zero", path) },
		"endless":    func(path, _ string) error { return os.Symlink(filepath.Base(path), path) },
		"large file": func(path, _ string) error { return os.WriteFile(path, make([]byte, 1<<20), 0o644) },
		"garbage":    func(path, _ string) error { return os.WriteFile(path, []byte("stopping"), 0o000) },
	}
	for name, make := range things {
		t.Run(name+" where main runs", func(t *testing.T) {
			t.Parallel()
			p := newPod(t)
			file := outside(t)
			if err := make(p.path("main-running"), file); err != nil {
				t.Fatal(err)
			}
			s := p.shim("--lost-after 1s", "sleep", "1000")
			s.Want(137)
		})
		for _, own := range []string{"proxy-running", "proxy-terminated"} {
			t.Run(name+" at "+own, func(t *testing.T) {
				t.Parallel()
				p := newPod(t)
				file := outside(t)
				if err := make(p.path(own), file); err != nil {
					t.Fatal(err)
				}
				s := p.shim("--restart-policy Never", "sleep", "1000")
				s.Await("sleep started")
				p.record("main-terminated", "3\n")
				s.Want(3)
				if got, err := os.ReadFile(file); err != nil || string(got) != "outside\n" {
					t.Errorf("the file outside of the volume holds %q (%v), not \"outside\\n\"", got, err)
				}
			})
		}
	}
	t.Run("the volume is removed", func(t *testing.T) {
		t.Parallel()
		p := newPod(t)
		run := p.begin("main")
		s := p.shim("", "sleep", "1000")
		s.Await("main is running")
		if err := os.RemoveAll(p.dir); err != nil {
			t.Fatal(err)
		}
		if err := run.End(0); err == nil {
			t.Error("End succeeded without a volume")
		}
		s.Want(137)
	})
}
