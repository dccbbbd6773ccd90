//go:build linux && (amd64 || arm64)

package cmd_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// A storm is a neighbour that changes the volume all the time. These tests measure what the built programs use in one:
// see also hostile_test.go.

const (
	// most is the share of a processor that a program may use in a storm, or while it waits.
	most = 0.12
	// mostOfStorm is what a shim may use in any case, as a part of what the storm itself uses: on a slow processor, the
	// same number of looks is a larger share. Without a limit on its looks, a shim would use as much as the storm.
	mostOfStorm = 0.3
	// mebibytes is how much memory a program may ever use.
	mebibytes = 14
	// rate is how often a second a storm changes the volume, if it can.
	rate = 50_000
	// warmUp is how often it does so until a shim has used up the looks that it may take at once.
	warmUp = 10_000
)

// rage calls act again and again, for a time span and at least least times. It returns how often a second, and the
// processor time that this took.
func rage(t testing.TB, span time.Duration, least int, act func(i int) error) (perSecond float64, cpu time.Duration) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := threadTime(t)
	began, i := time.Now(), 0
	for now := began; now.Sub(began) < span || i < least; now = time.Now() {
		for ; float64(i) < now.Sub(began).Seconds()*rate; i++ {
			if err := act(i); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Millisecond) // until there is more to do
	}
	return float64(i) / time.Since(began).Seconds(), threadTime(t) - before
}

// threadTime returns the processor time that this thread has used.
func threadTime(t testing.TB) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// storms are what a neighbour does to a volume, over and over.
var storms = []struct {
	name string
	live bool // main runs meanwhile; else the shim ignores its failures
	act  func(dir string) func(i int) error
}{
	{"a live main's file is rewritten", true, func(dir string) func(int) error {
		return func(int) error { return os.WriteFile(filepath.Join(dir, "main-running"), []byte("stopping\n"), 0o644) }
	}},
	{"a live main's file gets another mode", true, func(dir string) func(int) error {
		return func(i int) error { return os.Chmod(filepath.Join(dir, "main-running"), 0o644+fs.FileMode(i%2)) }
	}},
	{"main's end is rewritten in place", false, func(dir string) func(int) error {
		return func(i int) error {
			return os.WriteFile(filepath.Join(dir, "main-terminated"), []byte(fmt.Sprint(1+i%255)), 0o644)
		}
	}},
	{"an end of main is renamed into its place", false, func(dir string) func(int) error {
		return func(int) error {
			next := filepath.Join(dir, ".next")
			return errors.Join(os.WriteFile(next, []byte("3\n"), 0o644),
				os.Rename(next, filepath.Join(dir, "main-terminated")))
		}
	}},
	{"a file of main comes and goes", false, func(dir string) func(int) error {
		return func(int) error {
			path := filepath.Join(dir, "main-running")
			return errors.Join(os.WriteFile(path, []byte("running\n"), 0o644), os.Remove(path))
		}
	}},
	{"a file of main is locked and unlocked", false, func(dir string) func(int) error {
		return func(int) error {
			f, err := os.OpenFile(filepath.Join(dir, "main-running"), os.O_RDWR|os.O_CREATE, 0o644)
			if err != nil {
				return err
			}
			// The kernel refuses it while a shim that has waited for the lock has it.
			if err = fcntl(int(f.Fd()), unix.F_OFD_SETLK, unix.F_WRLCK); err == unix.EAGAIN {
				err = nil
			}
			return errors.Join(err, f.Close())
		}
	}},
	{"50,000 other files come, are renamed, and go", false, func(dir string) func(int) error {
		const files = 50_000
		return func(i int) error {
			// A third of them look like private files, a third like runs.
			name := func(i int) string {
				return filepath.Join(dir, []string{"file-%d", ".main-%016x", "x%d-running"}[i%3])
			}
			path := fmt.Sprintf(name(i), i%files)
			err := errors.Join(os.WriteFile(path, []byte("stopping\n"), 0o644),
				os.Rename(path, path+"-"), os.Rename(path+"-", path))
			if i < files {
				return err
			}
			return errors.Join(err, os.Remove(path))
		}
	}},
}

// TestStorms: while a neighbour changes the volume as often as it can, up to 50,000 times a second, a shim uses a small
// part of one processor, or of what the storm uses, and no more files, threads and memory than before. After the storm
// it sees main's end.
func TestStorms(t *testing.T) {
	t.Parallel()
	for _, storm := range storms {
		t.Run(storm.name, func(t *testing.T) {
			dir := testenv.FastVolume(t)
			flags := []string{"--keep-on-failure", "--log-level", "warn"}
			var main *drive.Process
			if storm.live {
				main = drive.Start(t, sentinel(dir, neverEnding))
				w := watch(t, dir, time.Hour)
				awaitState(t, w, "running")
				w.Close()
				flags = nil
			}
			s := drive.Start(t, shimAround(dir, []string{"/bin/sh", "-c", "echo launched; exec sleep 1000"}, flags...))
			s.Await("launched")

			act := storm.act(dir)
			rage(t, 0, warmUp, act)
			before := drive.UsageOf(t, s.PID())
			perSecond, cpu := rage(t, time.Second, 0, act)
			after := drive.UsageOf(t, s.PID())
			ratio := float64(after.CPU-before.CPU) / float64(cpu)
			t.Logf("%.0f times a second: %.1f%% of a processor, %.3f of what the storm uses; %+v, before: %+v",
				perSecond, 100*after.Share(before), ratio, after, before)
			if share := after.Share(before); share > most && ratio > mostOfStorm {
				t.Errorf("the shim used %.1f%% of a processor, %.2f of what the storm used", 100*share, ratio)
			}
			// A look has a file open.
			if after.Files > before.Files+2 || after.Threads > before.Threads+3 || after.Peak > mebibytes<<10 {
				t.Errorf("the shim has grown from %+v to %+v", before, after)
			}

			want := 0
			began := time.Now()
			if storm.live {
				want = 143
				main.Signal(syscall.SIGTERM)
				main.Want(want)
			} else if err := lifetime.Record(lifetime.Dir(dir), "main", want); err != nil {
				t.Fatal(err)
			}
			s.Want(want)
			t.Logf("main's end and the shim's took %s", time.Since(began))
		})
	}
}

// TestStormInLittleMemory: the kernel counts the events that it queues for a shim as the shim's memory. 16 MiB are
// enough.
func TestStormInLittleMemory(t *testing.T) {
	t.Parallel()
	g := newCgroup(t, "memory")
	g.set("memory.limit_in_bytes", "memory.max", 16<<20)
	dir := testenv.FastVolume(t)
	s := drive.Start(t, confine(shim(dir), g.limit()))
	s.Await("sleep started")
	long := strings.Repeat("x", 245)
	perSecond, _ := rage(t, 1500*time.Millisecond, 0, func(i int) error {
		path := filepath.Join(dir, fmt.Sprintf("%s-%09d", long, i))
		return errors.Join(os.WriteFile(path, nil, 0o644), os.Remove(path))
	})
	t.Logf("%.0f files a second came and went; the shim's group used at most %s bytes",
		perSecond, g.get("memory.max_usage_in_bytes", "memory.peak"))
	if err := lifetime.Record(lifetime.Dir(dir), "main", 3); err != nil {
		t.Fatal(err)
	}
	s.Want(3)
}

// TestManyFiles: 50,000 files on the volume do not delay a sentinel that restarts, and cost little while it waits for a
// sidecar that stops.
func TestManyFiles(t *testing.T) {
	t.Parallel()
	const each = 25_000
	dir := testenv.FastVolume(t)
	longAgo := time.Now().Add(-time.Hour)
	long := strings.Repeat("x", 200)
	for i := range each {
		testenv.Plant(t, filepath.Join(dir, fmt.Sprintf("%s-%d-running", long, i)), "stopping\n")
		private := filepath.Join(dir, fmt.Sprintf(".main-%016x", i))
		testenv.Plant(t, private, "")
		if err := os.Chtimes(private, longAgo, longAgo); err != nil {
			t.Fatal(err)
		}
	}
	testenv.Plant(t, filepath.Join(dir, "main-terminated"), "1\n")
	sidecar, _, err := lifetime.Begin(context.Background(), lifetime.Dir(dir), "sidecar", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := sidecar.AnnounceStopping(); err != nil {
		t.Fatal(err)
	}

	main := drive.Start(t, sentinel(dir, []string{"/bin/sh", "-c", "echo launched; exit 3"}))
	main.Await(`"sidecars":["sidecar"]`)
	before := drive.UsageOf(t, main.PID())
	time.Sleep(2 * time.Second) // not a wait for anything: the cost of that time is measured
	after := drive.UsageOf(t, main.PID())
	t.Logf("waiting for a sidecar: %.1f%% of a processor; %+v, before: %+v", 100*after.Share(before), after, before)
	if share := after.Share(before); share > most {
		t.Errorf("while it waits, the sentinel uses %.1f%% of a processor, at most %.1f%% are allowed",
			100*share, 100*most)
	}
	if after.Peak > mebibytes<<10 {
		t.Errorf("the sentinel needed %d KiB, at most %d are allowed", after.Peak, mebibytes<<10)
	}
	if strings.Contains(main.Output(), "launched") {
		t.Error("the command was launched while a sidecar was stopping")
	}
	if err := sidecar.End(0); err != nil {
		t.Fatal(err)
	}
	main.Want(3)
	left, err := filepath.Glob(filepath.Join(dir, ".main-*"))
	if err != nil {
		t.Fatal(err)
	}
	if gone := each - len(left); gone == 0 || gone > 1000 {
		t.Errorf("of %d leftovers of killed runs, %d were removed before the command was launched, want 1 to 1000",
			each, gone)
	}
}
