package lifetime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// Two live runs of one name never coexist, whenever they begin, whatever dead file they find, and even if
// they cannot take its lock.
func TestTwoLiveRunsNeverCoexist(t *testing.T) {
	t.Parallel()
	const withoutNoReplace = "nothing there, on a file system without RENAME_NOREPLACE"
	dead := func(t *testing.T, dir string) { testenv.Plant(t, runningPath(dir, "main"), contentRunning) }
	for _, c := range []struct {
		name    string
		rounds  int
		helpers int
		prepare func(t *testing.T, dir string)
	}{
		{"nothing there", 150, 2, func(*testing.T, string) {}},
		{withoutNoReplace, 150, 2, func(*testing.T, string) {}},
		{"an end there", 150, 2, func(t *testing.T, dir string) {
			testenv.Plant(t, TerminatedPath(dir, "main"), "0\n")
		}},
		{"a dead run there", 150, 2, dead},
		{"many at once", 40, 5, dead},
		{"a dead run there that somebody holds a read lock on", 20, 3, func(t *testing.T, dir string) {
			dead(t, dir)
			readLock(t, runningPath(dir, "main"))
		}},
		{"a dead run there that is no file", 20, 3, func(t *testing.T, dir string) {
			if err := unix.Mkfifo(runningPath(dir, "main"), 0o666); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			root := testenv.FastVolume(t)
			var helpers []*helper
			var confined []func(*exec.Cmd)
			if c.name == withoutNoReplace {
				confined = append(confined, refusing("noreplace"))
			}
			for range c.helpers {
				helpers = append(helpers, newHelper(t, confined...))
			}
			for round := range c.rounds {
				dir := filepath.Join(root, fmt.Sprint(round))
				if err := os.Mkdir(dir, 0o777); err != nil {
					t.Fatal(err)
				}
				c.prepare(t, dir)
				at := monotonic() + time.Millisecond.Nanoseconds()
				for i, h := range helpers {
					h.send("contend", dir, "main", fmt.Sprint(at), fmt.Sprint(round*c.helpers+i))
				}
				type span struct{ from, to int64 }
				var lives []span
				for _, h := range helpers {
					var live span
					if line := h.receive(); !scan(line, "live %d %d", &live.from, &live.to) {
						t.Fatalf("round %d: %s; the volume: %s", round, line, testenv.Listing(dir))
					}
					if line := h.receive(); line != "ok" {
						t.Fatalf("round %d: End: %s; the volume: %s", round, line, testenv.Listing(dir))
					}
					lives = append(lives, live)
				}
				for i, a := range lives {
					for _, b := range lives[:i] {
						if a.from < b.to && b.from < a.to {
							t.Fatalf("round %d: two runs of one name were live together, %+v and %+v", round, a, b)
						}
					}
				}
				testenv.WantListing(t, dir, `main-terminated="3\n"`)
			}
		})
	}
}

func scan(line, format string, into ...any) bool {
	n, err := fmt.Sscanf(line, format, into...)
	return err == nil && n == len(into)
}

// A Begin over a live run waits for its end for five seconds. Then it fails, and names the run.
func TestBeginOverALiveRun(t *testing.T) {
	t.Parallel()
	dir, owner, other := testenv.Volume(t), newHelper(t), newHelper(t)
	owner.do("begin", dir, "main")
	began := time.Now()
	answer := other.ask("begin", dir, "main")
	if took := time.Since(began); took < liveWait {
		t.Errorf("Begin waited for only %s", took)
	}
	if !strings.HasPrefix(answer, "live: another sentinel or shim named main is running on this volume") ||
		!strings.Contains(answer, runningPath(dir, "main")) || !strings.Contains(answer, "--name") {
		t.Errorf("Begin returned %q; want the name, the file, and what to do", answer)
	}
	testenv.WantListing(t, dir, `main-running="running\n"`)
	wantState(t, dir, "main", "running")
	owner.do("end", "3")
	testenv.WantListing(t, dir, `main-terminated="3\n"`)
}

// Begin succeeds as soon as the live run has ended or was killed.
func TestBeginWaitsForTheEnd(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		end  func(owner *helper)
	}{
		{"ended", func(owner *helper) { owner.do("end", "0") }},
		{"killed", (*helper).kill},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, owner, next := testenv.Volume(t), newHelper(t), newHelper(t)
			owner.do("begin", dir, "main")
			next.send("begin", dir, "main")
			awaitPrivate(t, dir)
			c.end(owner)
			if answer := next.receive(); answer != "ok" {
				t.Fatalf("the next Begin: %s", answer)
			}
			testenv.WantListing(t, dir, `main-running="running\n"`)
			next.do("end", "3")
			testenv.WantListing(t, dir, `main-terminated="3\n"`)
		})
	}
}

// Begin calls waiting once, and at once, when it has to wait for a live run. Then there is no earlier run of
// the caller's own, even if there is an older end.
func TestBeginTellsThatItWaits(t *testing.T) {
	for _, before := range []string{"nothing", "an end"} {
		t.Run(before, func(t *testing.T) {
			dir, owner := testenv.Volume(t), newHelper(t)
			owner.do("begin", dir, "main")
			if before == "an end" {
				testenv.Plant(t, TerminatedPath(dir, "main"), "1\n")
			}
			calls := 0
			run, earlier, err := Begin(t.Context(), Dir(dir), "main", func(live *LiveError) {
				calls++
				message := live.Waiting()
				if !strings.Contains(message, runningPath(dir, "main")) ||
					!strings.Contains(message, "waiting up to 5s") {
					t.Errorf("the message is %q", message)
				}
				owner.do("end", "0")
			})
			if err != nil || earlier || calls != 1 {
				t.Fatalf("Begin: %v, earlier %t, waiting was called %d times", err, earlier, calls)
			}
			mustEnd(t, run, 3)
		})
	}
}

// Begin does not call waiting for a file that cannot be a live run's. That file is an earlier run's.
func TestBeginOverADeadFileIsSilent(t *testing.T) {
	dir := testenv.Volume(t)
	path := runningPath(dir, "main")
	testenv.Plant(t, path, contentRunning)
	readLock(t, path)
	run, earlier, err := Begin(t.Context(), Dir(dir), "main", func(live *LiveError) {
		t.Errorf("Begin called waiting: %s", live.Waiting())
	})
	if err != nil || !earlier {
		t.Fatalf("Begin: %v, earlier %t", err, earlier)
	}
	mustEnd(t, run, 3)
}

// If the name is a shell's or an interpreter's, the message says where it comes from.
func TestLiveErrorOfAnInterpreter(t *testing.T) {
	for name, is := range map[string]bool{
		"sh": true, "bash": true, "python3": true, "python3.12": true, "node": true, "java": true, "ruby2.7": true,
		"main": false, "nginx": false, "haproxy": false, "shell": false, "3": false, "cloud-sql-proxy": false,
	} {
		live := &LiveError{runningPath("/tmp/pod", name)}
		for _, message := range []string{live.Error(), live.Waiting()} {
			if strings.Contains(message, "base name of its program, "+name+" for every script") != is ||
				!strings.Contains(message, "give one of them another --name") {
				t.Errorf("%s: the message is %q", name, message)
			}
		}
	}
}

// awaitPrivate waits until a Begin is in progress and has locked its private file.
func awaitPrivate(t *testing.T, dir string) {
	t.Helper()
	for deadline := time.Now().Add(testTimeout); time.Now().Before(deadline); {
		for file := range Dir(dir).Names() {
			if !isPrivate(file, "main") {
				continue
			}
			if f, err := openRegular(Dir(dir), file); err == nil {
				locked := f.WriteLocked()
				f.Close()
				if locked {
					return
				}
			}
		}
	}
	t.Fatalf("no Begin is in progress: %s", testenv.Listing(dir))
}

// A Begin that is cancelled leaves nothing behind.
func TestBeginCancelled(t *testing.T) {
	dir := testenv.Volume(t)
	run := mustBegin(t, dir, "main")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		_, _, err := Begin(ctx, Dir(dir), "main", nil)
		done <- err
	}()
	awaitPrivate(t, dir)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Begin returned %v", err)
	}
	testenv.WantListing(t, dir, `main-running="running\n"`)
	mustEnd(t, run, 0)
}

// Begin replaces a file that cannot be a live run's, even if other processes have read locks on it or hold the
// directory's lock.
func TestBeginOverADeadFile(t *testing.T) {
	t.Parallel()
	const unlimited = time.Duration(1<<63 - 1)
	mode := func(mode os.FileMode) func(testing.TB, string) {
		return func(t testing.TB, path string) {
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		name     string
		other    bool // Begin is another user's, not root's
		prepare  func(t testing.TB, path string)
		at, most time.Duration // how long it may take
		rounds   int
	}{
		{"writable", false, func(testing.TB, string) {}, 0, lockTimeout, 3},
		{"read-locked", false, readLock, 0, lockTimeout, 3},
		{"not writable", true, mode(0o444), 0, lockTimeout, 3},
		{"not writable, and read-locked", true, func(t testing.TB, path string) {
			mode(0o444)(t, path)
			readLock(t, path)
		}, 0, lockTimeout, 3},
		{"not readable", true, mode(0), 0, lockTimeout, 3},
		{"somebody holds the directory's lock for ever", false, func(t testing.TB, path string) {
			d, err := os.Open(filepath.Dir(path))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { d.Close() })
			if err := unix.Flock(int(d.Fd()), unix.LOCK_SH); err != nil {
				t.Fatal(err)
			}
		}, lockTimeout, liveWait, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var h *helper
			if c.other && os.Getuid() == 0 { // root may open every file
				h = newHelper(t, testenv.As(testenv.Somebody))
			} else {
				h = newHelper(t)
			}
			// On a loaded machine a single Begin may be slow without waiting: the fastest one counts.
			least := unlimited
			for range c.rounds {
				dir := testenv.Volume(t)
				path := runningPath(dir, "main")
				testenv.Plant(t, path, contentRunning)
				c.prepare(t, path)
				began := time.Now()
				h.do("begin", dir, "main")
				took := time.Since(began)
				if took < c.at {
					t.Errorf("Begin waited for only %s", took)
				}
				least = min(least, took)
				wantState(t, dir, "main", "running")
				h.do("end", "3")
				testenv.WantListing(t, dir, `main-terminated="3\n"`)
			}
			if least >= c.most {
				t.Errorf("Begin never took less than %s", least)
			}
		})
	}
}

// Begin sees that another user's run is live, although it can only read the file.
func TestBeginOverALiveRunOfAnotherUser(t *testing.T) {
	testenv.NeedRoot(t, "to be another user")
	dir, h := testenv.Volume(t), newHelper(t, testenv.As(testenv.Somebody))
	run := mustBegin(t, dir, "main")
	if answer := h.ask("record", dir, "main", "125"); !strings.HasPrefix(answer, "live: ") {
		t.Errorf("Record returned %q", answer)
	}
	testenv.WantListing(t, dir, `main-running="running\n"`)
	mustEnd(t, run, 0)
	h.do("begin", dir, "main")
	h.do("end", "3")
	testenv.WantListing(t, dir, `main-terminated="3\n"`)
}

// The contract holds where the file system or the kernel refuses a call.
func TestRefusals(t *testing.T) {
	// By the file system, or by a seccomp profile that does not know the call.
	for _, refused := range []string{"noreplace", "renameat2"} {
		t.Run(refused, func(t *testing.T) {
			dir, h, q := testenv.Volume(t), newHelper(t, refusing(refused)), newHelper(t, refusing(refused))
			h.do("begin", dir, "main")
			testenv.WantListing(t, dir, `main-running="running\n"`)
			wantState(t, dir, "main", "running")
			q.send("begin", dir, "main")
			awaitPrivate(t, dir)
			h.do("end", "3")
			if answer := q.receive(); answer != "ok" {
				t.Fatal(answer)
			}
			testenv.WantListing(t, dir, `main-running="running\n"`)
			q.do("end", "4")
			testenv.WantListing(t, dir, `main-terminated="4\n"`)
		})
	}
	t.Run("locks", func(t *testing.T) {
		dir, h := testenv.Volume(t), newHelper(t, refusing("locks"))
		h.do("begin", dir, "main")
		testenv.WantListing(t, dir, `main-running="running\n"`)
		wantState(t, dir, "main", "unverified") // the heartbeat remains
		h.do("end", "3")
		testenv.WantListing(t, dir, `main-terminated="3\n"`)
		testenv.Plant(t, runningPath(dir, "main"), contentRunning)
		h.do("begin", dir, "main")
		h.do("end", "4")
		testenv.WantListing(t, dir, `main-terminated="4\n"`)
	})
}

// An append-only directory always refuses a rename: the error names the file, and no run is live.
func TestAppendOnlyDirectory(t *testing.T) {
	dir := testenv.Volume(t)
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	const appendOnly = 0x20 // FS_APPEND_FL: chattr +a
	set := func(flags int) error { return unix.IoctlSetPointerInt(int(d.Fd()), unix.FS_IOC_SETFLAGS, flags) }
	if err := set(appendOnly); err != nil {
		t.Skipf("needs root, and a file system that has such directories: %v", err)
	}
	t.Cleanup(func() {
		if err := set(0); err != nil {
			t.Error(err)
		}
	})
	run, _, err := Begin(t.Context(), Dir(dir), "main", nil)
	if run != nil || !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), dir+"/") {
		t.Errorf("Begin returned %v; want the file, and that it is not permitted", err)
	}
	if state := lookOnce(t, dir, "main"); state == "running" {
		t.Errorf("the state of a run that could not begin is %q; the volume: %s", state, testenv.Listing(dir))
	}
}

// Begin removes the private files of killed Begins, but not those of live ones.
func TestLeftovers(t *testing.T) {
	dir, owner, waiting := testenv.Volume(t), newHelper(t), newHelper(t)
	owner.do("begin", dir, "main")
	waiting.send("begin", dir, "main")
	awaitPrivate(t, dir)
	live := onlyPrivate(t, dir)

	old := time.Now().Add(-leftoverAge)
	leave := func(name string, at time.Time) {
		path := filepath.Join(dir, name)
		testenv.Plant(t, path, contentRunning)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(filepath.Join(dir, live), old, old); err != nil {
		t.Fatal(err)
	}
	const random = "0123456789abcdef"
	leave(".main-"+random, old)
	leave(".main-"+random[1:]+"g", old)                 // has a digit that is not hexadecimal
	leave(".main-"+random+"0", old)                     // has a digit too many
	leave(".other-"+random, old)                        // another run's
	leave(".main-2-"+random, old)                       // of a run whose name begins with main
	leave(".main-ffff0123456789ab", old.Add(time.Hour)) // too young

	removeLeftovers(t.Context(), Dir(dir), "main")
	for _, file := range []string{
		live, ".main-" + random[1:] + "g", ".main-" + random + "0", ".other-" + random, ".main-2-" + random,
		".main-ffff0123456789ab",
	} {
		if !exists(Dir(dir), file) {
			t.Errorf("%s was removed", file)
		}
	}
	if exists(Dir(dir), ".main-"+random) {
		t.Error("the private file of a killed Begin was not removed")
	}

	// Begin calls removeLeftovers.
	leave(".main-"+random, old)
	owner.kill()
	if answer := waiting.receive(); answer != "ok" {
		t.Fatal(answer)
	}
	if exists(Dir(dir), ".main-"+random) || exists(Dir(dir), live) {
		t.Errorf("Begin has left %s", testenv.Listing(dir))
	}
}

// Whatever a neighbour plants on the volume: no run hangs, no failure becomes a success, and nothing is
// written outside the volume.
func TestHostileVolume(t *testing.T) {
	t.Parallel()
	const outside = "what is outside the volume"
	const private = ".main-0123456789abcdef"
	kinds := []struct {
		name  string
		plant func(path, outside string) error
	}{
		{"a symbolic link", func(path, outside string) error { return os.Symlink(outside, path) }},
		{"a dangling link", func(path, outside string) error { return os.Symlink(outside+"-none", path) }},
		{"a link to itself", func(path, _ string) error { return os.Symlink(path, path) }},
		{"a link to a directory", func(path, outside string) error { return os.Symlink(filepath.Dir(outside), path) }},
		{"a hard link", func(path, outside string) error { return os.Link(outside, path) }},
		{"a FIFO", func(path, _ string) error { return unix.Mkfifo(path, 0o666) }},
		{"a socket", func(path, _ string) error { return unix.Mknod(path, unix.S_IFSOCK|0o666, 0) }},
		{"a device", func(path, _ string) error {
			if os.Getuid() != 0 {
				return errNeedsRoot
			}
			return unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))) // /dev/zero
		}},
		{"a directory", func(path, _ string) error { return os.Mkdir(path, 0o777) }},
		{"a directory with something in it", func(path, _ string) error { return os.MkdirAll(path+"/below", 0o777) }},
		{"1 GiB", func(path, _ string) error {
			if err := os.WriteFile(path, nil, 0o666); err != nil {
				return err
			}
			return os.Truncate(path, 1<<30)
		}},
		{"garbage", func(path, _ string) error { return os.WriteFile(path, []byte("\x00\xff0\n"), 0o666) }},
		{"nothing in it", func(path, _ string) error { return os.WriteFile(path, nil, 0o666) }},
		{"a file for nobody", func(path, _ string) error { return os.WriteFile(path, []byte("0\n"), 0) }},
	}
	for _, name := range []string{"main-running", "main-terminated", private} {
		for _, k := range kinds {
			isDirectory := strings.HasPrefix(k.name, "a directory")
			t.Run(name+" is "+k.name, func(t *testing.T) {
				t.Parallel()
				parent := testenv.Volume(t)
				dir, secret := filepath.Join(parent, "volume"), filepath.Join(parent, "outside")
				if err := os.Mkdir(dir, 0o777); err != nil {
					t.Fatal(err)
				}
				testenv.Plant(t, secret, outside)
				err := k.plant(filepath.Join(dir, name), secret)
				if errors.Is(err, errNeedsRoot) || errors.Is(err, unix.EPERM) {
					t.Skipf("needs root: %v", err)
				}
				if err != nil {
					t.Fatal(err)
				}

				// Before the run, only an empty or a valid end is a success.
				before := lookOnce(t, dir, "main")
				wantBefore := "not started"
				switch {
				case name == "main-running":
					wantBefore = "unverified"
				case name == "main-terminated" && k.name == "nothing in it":
					wantBefore = "empty: 0"
				case name == "main-terminated":
					wantBefore = "unreadable: 125"
				}
				if k.name == "a file for nobody" && os.Getuid() == 0 && name != private {
					wantBefore = "ended: 0" // root may open every file
				}
				if before != wantBefore {
					t.Errorf("before the run the state is %q, not %q", before, wantBefore)
				}

				// A run replaces it.
				began := time.Now()
				run, _, err := Begin(context.Background(), Dir(dir), "main", nil)
				switch {
				case isDirectory && name != private:
					if err == nil || !strings.Contains(err.Error(), filepath.Join(dir, name)) {
						t.Errorf("Begin returned %v; want an error that names %s", err, name)
					}
				case err != nil:
					t.Errorf("Begin: %v", err)
				default:
					wantState(t, dir, "main", "running")
					mustEnd(t, run, 3)
					wantState(t, dir, "main", "ended: 3")
				}
				// A failure is recorded over what the run has left.
				_ = Record(Dir(dir), "main", 125)
				if state := lookOnce(t, dir, "main"); state != "ended: 125" && state != "unreadable: 125" {
					t.Errorf("in the end the state is %q; the volume: %s", state, testenv.Listing(dir))
				}
				if took := time.Since(began); took >= liveWait {
					t.Errorf("Begin and Record took %s", took)
				}
				if content, err := os.ReadFile(secret); err != nil || string(content) != outside {
					t.Errorf("outside the volume there is now %q, %v", content, err)
				}
				if names, _ := filepath.Glob(parent + "/*"); len(names) != 2 {
					t.Errorf("outside the volume there is now %q", names)
				}
			})
		}
	}
}

var errNeedsRoot = errors.New("to make a device")

// What a neighbour plants during a run does not prevent its end: it is recorded, or counts as a failure.
func TestHostileEnd(t *testing.T) {
	const outside = "what is outside the volume"
	for _, c := range []struct {
		name  string
		plant func(path, secret string) error
		want  string
	}{
		{"a symbolic link", func(path, secret string) error { return os.Symlink(secret, path) }, "ended: 3"},
		{"a hard link", func(path, secret string) error { return os.Link(secret, path) }, "ended: 3"},
		{"a FIFO", func(path, _ string) error { return unix.Mkfifo(path, 0o666) }, "ended: 3"},
		{"another end", func(path, _ string) error { return os.WriteFile(path, []byte("0\n"), 0o400) }, "ended: 3"},
		{"a directory", func(path, _ string) error { return os.Mkdir(path, 0o777) }, "unreadable: 125"},
	} {
		t.Run(c.name, func(t *testing.T) {
			parent := testenv.Volume(t)
			dir, secret := filepath.Join(parent, "volume"), filepath.Join(parent, "outside")
			if err := os.Mkdir(dir, 0o777); err != nil {
				t.Fatal(err)
			}
			testenv.Plant(t, secret, outside)
			run := mustBegin(t, dir, "main")
			if err := c.plant(TerminatedPath(dir, "main"), secret); err != nil {
				t.Fatal(err)
			}
			if err := run.End(3); (err == nil) != (c.want == "ended: 3") {
				t.Errorf("End returned %v", err)
			}
			wantState(t, dir, "main", c.want)
			if content, err := os.ReadFile(secret); err != nil || string(content) != outside {
				t.Errorf("outside the volume there is now %q, %v", content, err)
			}
		})
	}
}

// Runs of different names do not affect each other.
func TestNamesAreApart(t *testing.T) {
	dir := testenv.Volume(t)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 20 {
				if err := oneRun(dir, fmt.Sprintf("n%d", i), i); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	var want []string
	for i := range 8 {
		want = append(want, fmt.Sprintf("n%d-terminated=%q", i, formatCode(i)))
	}
	testenv.WantListing(t, dir, want...)
}
