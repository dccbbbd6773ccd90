package lifetime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// The files on the volume during a run, and during the next.
func TestRun(t *testing.T) {
	dir := testenv.Volume(t)
	wantState(t, dir, "main", "not started")

	run, earlier, err := Begin(context.Background(), Dir(dir), "main", nil)
	if err != nil || earlier {
		t.Fatalf("Begin: %v, earlier %t; want neither", err, earlier)
	}
	testenv.WantListing(t, dir, `main-running="running\n"`)
	wantState(t, dir, "main", "running")

	if err := run.AnnounceStopping(); err != nil {
		t.Error(err)
	}
	testenv.WantListing(t, dir, `main-running="stopping\n"`)
	wantState(t, dir, "main", "running")
	if err := run.RetractStopping(); err != nil {
		t.Error(err)
	}
	testenv.WantListing(t, dir, `main-running="running\n"`)

	mustEnd(t, run, 137)
	testenv.WantListing(t, dir, `main-terminated="137\n"`)
	wantState(t, dir, "main", "ended: 137")
	if err := run.AnnounceStopping(); err == nil {
		t.Error("AnnounceStopping succeeded after End")
	}
	testenv.WantListing(t, dir, `main-terminated="137\n"`)

	run, earlier, err = Begin(context.Background(), Dir(dir), "main", nil)
	if err != nil || !earlier {
		t.Fatalf("Begin after an end: %v, earlier %t; want no error, and an earlier run", err, earlier)
	}
	testenv.WantListing(t, dir, `main-running="running\n"`)
	mustEnd(t, run, 0)
	testenv.WantListing(t, dir, `main-terminated="0\n"`)
	wantState(t, dir, "main", "ended: 0")
}

// The run's file has mode 0644 whatever the umask: other users can follow the run, and cannot change it.
func TestModes(t *testing.T) {
	dir, h := testenv.Volume(t), newHelper(t)
	h.do("umask", "077")
	h.do("begin", dir, "main")
	wantMode := func(path string) {
		t.Helper()
		if info, err := os.Lstat(path); err != nil || info.Mode() != 0o644 {
			t.Errorf("%s has mode %v, %v; want 0644", path, info.Mode(), err)
		}
	}
	wantMode(runningPath(dir, "main"))
	h.do("end", "3")
	wantMode(TerminatedPath(dir, "main"))

	// End creates a new file.
	h.do("begin", dir, "main")
	if err := os.Remove(runningPath(dir, "main")); err != nil {
		t.Fatal(err)
	}
	h.do("end", "4")
	wantMode(TerminatedPath(dir, "main"))
	testenv.WantListing(t, dir, `main-terminated="4\n"`)
}

// End creates a new NAME-terminated if the run's file was removed, renamed or replaced.
func TestEndOfAStolenFile(t *testing.T) {
	for _, c := range []struct {
		name  string
		steal func(path string) error
		left  []string
	}{
		{"removed", os.Remove, nil},
		{"renamed", func(path string) error { return os.Rename(path, path+"-away") },
			[]string{`main-running-away="3\n"`}},
		{"replaced", func(path string) error {
			if err := os.Remove(path); err != nil {
				return err
			}
			return os.WriteFile(path, []byte("mine"), 0o600)
		}, []string{`main-running="mine"`}},
		{"replaced by a link", func(path string) error {
			if err := os.Remove(path); err != nil {
				return err
			}
			return os.Symlink("/dev/null", path)
		}, []string{"main-running(Lrwxrwxrwx)"}},
		{"replaced by a directory", func(path string) error {
			if err := os.Remove(path); err != nil {
				return err
			}
			return os.Mkdir(path, 0o755)
		}, []string{"main-running(drwxr-xr-x)"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := testenv.Volume(t)
			run := mustBegin(t, dir, "main")
			if err := c.steal(runningPath(dir, "main")); err != nil {
				t.Fatal(err)
			}
			mustEnd(t, run, 3)
			testenv.WantListing(t, dir, append(c.left, `main-terminated="3\n"`)...)
			wantState(t, dir, "main", "ended: 3")
		})
	}
}

// From Begin on, the owner of a run rewrites its file. The content stays the same.
func TestHeartbeat(t *testing.T) {
	dir := testenv.Volume(t)
	path := runningPath(dir, "main")
	synctest.Test(t, func(t *testing.T) {
		run := mustBegin(t, dir, "main")
		long := time.Unix(1, 0)
		for _, announce := range []func() error{nil, run.AnnounceStopping, nil, run.RetractStopping} {
			if announce != nil {
				if err := announce(); err != nil {
					t.Fatal(err)
				}
			}
			before := testenv.Listing(dir)
			if err := os.Chtimes(path, long, long); err != nil {
				t.Fatal(err)
			}
			time.Sleep(Heartbeat - 1) // by the bubble's fake clock
			synctest.Wait()
			if info, err := os.Lstat(path); err != nil || !info.ModTime().Equal(long) {
				t.Fatalf("a heartbeat came early: %v, %v", info.ModTime(), err)
			}
			time.Sleep(time.Nanosecond)
			synctest.Wait()
			if info, err := os.Lstat(path); err != nil || info.ModTime().Equal(long) {
				t.Fatalf("no heartbeat has come: %v, %v", info.ModTime(), err)
			}
			if after := testenv.Listing(dir); after != before {
				t.Fatalf("a heartbeat changed %s to %s", before, after)
			}
		}
		mustEnd(t, run, 3)
		end := TerminatedPath(dir, "main")
		if err := os.Chtimes(end, long, long); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * Heartbeat)
		synctest.Wait()
		if info, err := os.Lstat(end); err != nil || !info.ModTime().Equal(long) {
			t.Errorf("a heartbeat came after the end: %v, %v", info.ModTime(), err)
		}
		testenv.WantListing(t, dir, `main-terminated="3\n"`)
	})
}

// A Begin that waits has a heartbeat, too.
func TestHeartbeatWhileWaiting(t *testing.T) {
	dir := testenv.Volume(t)
	mustBegin(t, dir, "main") // never ends
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() {
			_, _, err := begin(ctx, Dir(dir), "main", time.Hour, nil)
			done <- err
		}()
		time.Sleep(Heartbeat / 2)
		private := filepath.Join(dir, onlyPrivate(t, dir))
		long := time.Unix(1, 0)
		if err := os.Chtimes(private, long, long); err != nil {
			t.Fatal(err)
		}
		time.Sleep(Heartbeat)
		if info, err := os.Lstat(private); err != nil || info.ModTime().Equal(long) {
			t.Errorf("no heartbeat has come: %v, %v", info.ModTime(), err)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("a cancelled Begin returned %v", err)
		}
	})
	testenv.WantListing(t, dir, `main-running="running\n"`)
}

// onlyPrivate returns the only private file on a volume.
func onlyPrivate(t testing.TB, dir string) (private string) {
	t.Helper()
	for file := range Dir(dir).Names() {
		if isPrivate(file, "main") {
			if private != "" {
				t.Fatalf("there is more than one private file: %s", testenv.Listing(dir))
			}
			private = file
		}
	}
	if private == "" {
		t.Fatalf("there is no private file: %s", testenv.Listing(dir))
	}
	return private
}

// A reader that polls as fast as it can never sees an incomplete end.
func TestReaderSeesWholeEnds(t *testing.T) {
	t.Parallel()
	const runs = 1000
	dir, h := testenv.FastVolume(t), newHelper(t)
	end := TerminatedPath(dir, "main")
	stop, read := make(chan struct{}), make(chan error, 1)
	seen := 0
	go func() {
		for {
			select {
			case <-stop:
				read <- nil
				return
			default:
			}
			content, err := os.ReadFile(end)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			code, ok := parseCode(string(content))
			if err != nil || !ok || code == 0 || string(content) != formatCode(code) {
				read <- fmt.Errorf("a reader saw %q, %w", content, err)
				return
			}
			seen++
		}
	}()
	h.do("runs", dir, "main", fmt.Sprint(runs))
	close(stop)
	if err := <-read; err != nil {
		t.Fatal(err)
	}
	if seen == 0 {
		t.Error("the reader saw no end")
	}
	testenv.WantListing(t, dir, fmt.Sprintf("main-terminated=%q", formatCode(codeOf(runs-1))))
}

// Record records the outcome of a command that never begins.
func TestRecord(t *testing.T) {
	for _, c := range []struct {
		name    string
		earlier map[string]string // files by name
	}{
		{"nothing there", nil},
		{"an end there", map[string]string{"main-terminated": "0\n"}},
		{"a dead run there", map[string]string{"main-running": "running\n"}},
		{"both there", map[string]string{"main-running": "running\n", "main-terminated": "0\n"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := testenv.Volume(t)
			for name, content := range c.earlier {
				testenv.Plant(t, filepath.Join(dir, name), content)
			}
			if err := Record(Dir(dir), "main", 125); err != nil {
				t.Error(err)
			}
			testenv.WantListing(t, dir, `main-terminated="125\n"`)
		})
	}
}

// Record does not change a live run, and does not wait for its end.
func TestRecordOverALiveRun(t *testing.T) {
	dir := testenv.Volume(t)
	run := mustBegin(t, dir, "main")
	began := time.Now()
	var live *LiveError
	if err := Record(Dir(dir), "main", 125); !errors.As(err, &live) {
		t.Errorf("Record over a live run: %v, not a LiveError", err)
	}
	if took := time.Since(began); took >= liveWait {
		t.Errorf("Record waited for %s", took)
	}
	testenv.WantListing(t, dir, `main-running="running\n"`)
	mustEnd(t, run, 0)
	testenv.WantListing(t, dir, `main-terminated="0\n"`)
}
