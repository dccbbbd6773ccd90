//go:build linux && (amd64 || arm64)

package cmd_test

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/cmd/internal/ptrace"
	"github.com/sentinel-shim/sentinel-shim/internal/testenv"
)

// A neighbour is another container of the pod that can do with the volume what it likes.
// Here it does so at every call of both built programs: see also storm_test.go.

// every makes these tests try everything at every call. Else one thing comes after the
// other, from call to call.
var every = flag.Bool("every", false, "hostile neighbours do everything at every call")

// turns are those of n things that are tried at call i.
func turns(i, n int) (those []int) {
	if !*every {
		return []int{i % n}
	}
	for k := range n {
		those = append(those, k)
	}
	return those
}

// atEveryCall runs a test for each call of a program, from 1 on.
func atEveryCall(t *testing.T, calls int, test func(t *testing.T, n int)) {
	for n := 1; n <= calls; n++ {
		t.Run(fmt.Sprintf("%03d", n), func(t *testing.T) {
			t.Parallel()
			test(t, n)
		})
	}
}

// tally counts how often what has come of many tests.
type tally struct {
	mu    sync.Mutex
	count map[string]int
}

func newTally() *tally { return &tally{count: make(map[string]int)} }

func (c *tally) add(what any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count[fmt.Sprint(what)]++
}

func (c *tally) of(what string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count[what]
}

// want fails the test, at its end, if something came less often than that.
func (c *tally) want(t *testing.T, least int, of ...string) {
	t.Cleanup(func() {
		t.Logf("how often: %v", c.count)
		for _, what := range of {
			if !t.Failed() && !t.Skipped() && c.count[what] < least {
				t.Errorf("%q came only %d times, not %d", what, c.count[what], least)
			}
		}
	})
}

// outside is a directory that is not on the volume, and what was in it.
type outside struct {
	t               testing.TB
	directory, file string
	before          string
}

// newOutside makes a volume, and a directory beside it.
func newOutside(t testing.TB) (dir string, o outside) {
	t.Helper()
	parent := testenv.FastVolume(t)
	dir = filepath.Join(parent, "volume")
	o = outside{t: t, directory: filepath.Join(parent, "outside")}
	o.file = filepath.Join(o.directory, "secret")
	longAgo := time.Unix(1e9, 0)
	err := errors.Join(os.Mkdir(dir, 0o777), os.Chmod(dir, 0o777), os.Mkdir(o.directory, 0o700),
		os.WriteFile(o.file, []byte("what is outside the volume"), 0o600),
		os.Chtimes(o.file, longAgo, longAgo), os.Chtimes(o.directory, longAgo, longAgo))
	if err != nil {
		t.Fatal(err)
	}
	o.before = o.look()
	return dir, o
}

func (o outside) look() string {
	o.t.Helper()
	var all []string
	err := filepath.WalkDir(o.directory, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		all = append(all, fmt.Sprint(path, " ", info.Mode(), " of ", st.Uid, ":", st.Gid, " at ", info.ModTime()))
		if info.Mode().IsRegular() {
			content, err := os.ReadFile(path)
			all = append(all, fmt.Sprintf("%q", content))
			return err
		}
		return nil
	})
	if err != nil {
		o.t.Error(err)
	}
	return strings.Join(all, " ")
}

// wantSame fails the test if anything outside of the volume has changed.
func (o outside) wantSame(why string) {
	o.t.Helper()
	if now := o.look(); now != o.before {
		o.t.Errorf("%s: outside of the volume there was\n%s\nand now there is\n%s", why, o.before, now)
	}
}

// things are what a neighbour may put where a file of the contract is, or should be.
var things = []struct {
	name string
	put  func(path string, o outside) error
}{
	{"nothing", func(string, outside) error { return nil }},
	{"a symbolic link", func(path string, o outside) error { return os.Symlink(o.file, path) }},
	{"a dangling link", func(path string, o outside) error { return os.Symlink(o.file+"-none", path) }},
	{"a link to a directory", func(path string, o outside) error { return os.Symlink(o.directory, path) }},
	{"a link to itself", func(path string, _ outside) error { return os.Symlink(path, path) }},
	{"a hard link", func(path string, o outside) error { return os.Link(o.file, path) }},
	{"a FIFO", func(path string, _ outside) error { return unix.Mkfifo(path, 0o666) }},
	{"a socket", func(path string, _ outside) error { return unix.Mknod(path, unix.S_IFSOCK|0o666, 0) }},
	{"a device", func(path string, _ outside) error { // as /dev/zero is; of root only, else a FIFO
		if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))); err == nil {
			return nil
		}
		return unix.Mkfifo(path, 0o666)
	}},
	{"a directory", func(path string, _ outside) error { return os.Mkdir(path, 0o777) }},
	{"a full directory", func(path string, _ outside) error { return os.MkdirAll(path+"/below", 0o777) }},
}

// private stands for the file of a Begin that is under way, whatever its name is.
const private = "the private file"

// find is the path of a file of the run owner; "" where it is private and not there.
func find(dir, owner, name string) string {
	if name != private {
		return filepath.Join(dir, name)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "."+owner+"-*"))
	if len(files) == 0 {
		return ""
	}
	return files[0]
}

// exchange puts a thing in the place of files.
func exchange(t testing.TB, dir, owner string, names []string, thing int, o outside) {
	t.Helper()
	for _, name := range names {
		path := find(dir, owner, name)
		if path == "" {
			continue
		}
		if err := errors.Join(os.RemoveAll(path), things[thing].put(path, o)); err != nil {
			t.Errorf("%s at %s: %v", things[thing].name, name, err)
		}
	}
}

// leavesTrace is a main that ends with 3, and leaves a file to show that it was there.
func leavesTrace(path string) []string {
	return []string{"/bin/sh", "-c", `: > "$1"; exit 3`, "sh", path}
}

// wantOwnCode fails the test unless a sentinel has ended with the code of its command if
// that was started, and with its own if it was not.
func wantOwnCode(t testing.TB, why string, result ptrace.Result, trace string) (ran bool) {
	t.Helper()
	_, err := os.Lstat(trace)
	want := 3
	if ran = err == nil; !ran {
		want = 125
	}
	if result.ExitCode != want || result.Signal != 0 {
		t.Errorf("%s: the command was started %t, and the sentinel ended with %d, %v", why, ran, result.ExitCode, result.Signal)
	}
	return ran
}

// TestThingsAtEveryCallOfASentinel puts things in the place of its files. The run is
// recorded as what it was, or as a failure.
func TestThingsAtEveryCallOfASentinel(t *testing.T) {
	t.Parallel()
	for i, found := range []string{"nothing", "an end", "a dead run"} {
		t.Run(found, func(t *testing.T) {
			t.Parallel()
			s := stepsOf(t, found)
			starts := newTally()
			starts.want(t, len(s.calls)/2, "true")
			atEveryCall(t, len(s.calls), func(t *testing.T, n int) {
				all := []string{"main-running", "main-terminated", private}
				places := [][]string{all[0:1], all[1:2], all[2:], all}
				for _, j := range turns(n+i, len(places)) {
					names := places[j]
					for _, thing := range turns(n+4*i+3*j, len(things)) {
						dir, o := newOutside(t)
						before[found](t, dir)
						ran := filepath.Join(filepath.Dir(dir), "ran")
						why := "not yet"
						result := trace(t, sentinel(dir, leavesTrace(ran)), touching(dir), func(_ *ptrace.Tracee, c ptrace.Call) {
							if c.N == n {
								why = fmt.Sprintf("%s at %q, before %s", things[thing].name, names, c)
								exchange(t, dir, "main", names, thing, o)
							}
						})
						starts.add(wantOwnCode(t, why, result, ran))
						o.wantSame(why)
						if n > s.ended {
							continue // what is done to an end that stands is the neighbour's own doing
						}
						w := watch(t, dir, 0)
						got := describe(w.Look()[0])
						w.Close()
						// What is no file at all is a failure in a second.
						if got != "ended 3" && got != "ended 125" && got != "unsettled" {
							t.Errorf("%s: main is seen as %q", why, got)
						}
					}
				}
			})
		})
	}
}

// guarded is a shim that follows a main, and at some of whose calls something happens. The
// main is told to end as soon as the sidecar runs.
type guarded struct {
	dir   string
	flags []string
	at    func(c ptrace.Call)
}

// run runs both to their ends. It returns the shim's exit code, how many calls it made,
// and what it said. The main always ends with 143.
func (g guarded) run(t *testing.T) (code, calls int, output string) {
	t.Helper()
	main := drive.Start(t, sentinel(g.dir, neverEnding))
	w := watch(t, g.dir, time.Hour)
	awaitState(t, w, "running")
	w.Close()

	r, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	said := make(chan string)
	go func() {
		var all strings.Builder
		for lines := bufio.NewScanner(r); lines.Scan(); {
			fmt.Fprintln(&all, lines.Text())
			if strings.Contains(lines.Text(), "sleep started") {
				main.Signal(syscall.SIGTERM)
			}
		}
		said <- all.String()
	}()
	ctx, cancel := context.WithTimeout(t.Context(), drive.Patience)
	defer cancel()
	spec := ptrace.Spec{Args: shim(g.dir, g.flags...), Stdout: write, Stderr: write}
	result, err := ptrace.Run(ctx, spec, touching(g.dir), func(_ *ptrace.Tracee, c ptrace.Call) {
		if g.at != nil {
			g.at(c)
		}
	})
	write.Close()
	output = <-said
	if errors.Is(err, ptrace.ErrRefused) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	if !strings.Contains(output, "sleep started") {
		main.Signal(syscall.SIGTERM)
	}
	main.Want(143)
	return result.ExitCode, result.Calls, output
}

// shimCalls is about how many calls a shim makes on a volume in such a life.
func shimCalls(t *testing.T) int {
	t.Helper()
	code, calls, output := guarded{dir: testenv.FastVolume(t)}.run(t)
	if code != 143 || calls < 40 {
		t.Fatalf("%d calls, exit code %d:\n%s", calls, code, output)
	}
	return calls
}

// TestThingsAtEveryCallOfAShim puts things in the place of the files that it reads, and of
// its own. It always ends, with main's code or that of an end that cannot be read or is
// not there.
func TestThingsAtEveryCallOfAShim(t *testing.T) {
	t.Parallel()
	calls := shimCalls(t)
	codes := newTally()
	codes.want(t, calls/2, "143")
	atEveryCall(t, calls, func(t *testing.T, n int) {
		names := []string{"main-running", "sidecar-running", "main-terminated", "sidecar-terminated", private}
		for _, k := range turns(n, len(names)) {
			name := names[k]
			for _, thing := range turns(n+4*k, len(things)) {
				dir, o := newOutside(t)
				why := "not at all"
				g := guarded{dir: dir, at: func(c ptrace.Call) {
					if c.N == n {
						why = fmt.Sprintf("%s at %s, before %s", things[thing].name, name, c)
						exchange(t, dir, "sidecar", []string{name}, thing, o)
					}
				}}
				code, _, output := g.run(t)
				codes.add(code)
				if code != 143 && !(strings.HasPrefix(name, "main-") && (code == 125 || code == 137)) {
					t.Errorf("%s: the shim ended with %d:\n%s", why, code, output)
				}
				o.wantSame(why)
			}
		}
	})
}

// locks are what a neighbour may take of a file. Some are refused: for a directory, or where
// somebody else has one that is in the way.
var locks = []struct {
	name  string
	write bool // refused to those who can only read, and to those who are not alone
	take  func(fd int) error
}{
	{"an OFD read lock", false, func(fd int) error { return fcntl(fd, unix.F_OFD_SETLK, unix.F_RDLCK) }},
	{"an OFD write lock", true, func(fd int) error { return fcntl(fd, unix.F_OFD_SETLK, unix.F_WRLCK) }},
	{"a POSIX read lock", false, func(fd int) error { return fcntl(fd, unix.F_SETLK, unix.F_RDLCK) }},
	{"a POSIX write lock", true, func(fd int) error { return fcntl(fd, unix.F_SETLK, unix.F_WRLCK) }},
	{"a shared flock", false, func(fd int) error { return unix.Flock(fd, unix.LOCK_SH|unix.LOCK_NB) }},
	{"an exclusive flock", false, func(fd int) error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) }},
	{"a read lease", false, func(fd int) error { return lease(fd, unix.F_RDLCK) }},
	{"a write lease", false, func(fd int) error { return lease(fd, unix.F_WRLCK) }},
}

func fcntl(fd, cmd int, kind int16) error {
	return unix.FcntlFlock(uintptr(fd), cmd, &unix.Flock_t{Type: kind})
}

func lease(fd, kind int) error {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, kind)
	return err
}

// lock takes locks of a file, if that is there: as many of these as can be had together,
// first those that were held least often so far. They are kept until unlock is called.
func lock(path string, these []int, mayWrite bool, held *tally) (taken string, unlock func()) {
	these = slices.SortedStableFunc(slices.Values(these), func(a, b int) int {
		return held.of(locks[a].name) - held.of(locks[b].name)
	})
	var names []string
	var fds []int
	for _, i := range these {
		// A read lease is refused to one who writes, and a write lock to one who only reads.
		l, flags := locks[i], unix.O_RDONLY
		if l.write {
			flags = unix.O_RDWR
		}
		if l.write && !mayWrite {
			continue
		}
		fd, err := unix.Open(path, flags|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		fds = append(fds, fd) // closed later, for to close any gives back all POSIX locks
		if l.take(fd) == nil {
			held.add(l.name)
			names = append(names, l.name)
		}
	}
	return strings.Join(names, " and "), func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}
}

// wantHeld fails the test, at its end, if the locks that are easy to have were not held
// often; with -every, if there is any that never was.
func wantHeld(t *testing.T, held *tally) {
	if !*every {
		held.want(t, 5, "an OFD read lock", "a POSIX read lock", "a shared flock", "an exclusive flock")
		return
	}
	var names []string
	for _, l := range locks {
		names = append(names, l.name)
	}
	held.want(t, 1, names...)
}

// lockTurns are the locks that are taken together: all, or each on its own.
func lockTurns() (groups [][]int) {
	all := make([]int, len(locks))
	for i := range all {
		all[i] = i
		groups = append(groups, []int{i})
	}
	if !*every {
		return [][]int{all}
	}
	return groups
}

// TestLocksAtEveryCallOfASentinel has a neighbour take a lock of a file, or of the directory,
// and keep it. The run is recorded as what it was.
func TestLocksAtEveryCallOfASentinel(t *testing.T) {
	t.Parallel()
	held := newTally()
	wantHeld(t, held)
	for shift, found := range []string{"nothing", "an end", "a dead run"} {
		t.Run(found, func(t *testing.T) {
			t.Parallel()
			s := stepsOf(t, found)
			names := []string{"main-running", "main-terminated", private, "."}
			atEveryCall(t, len(s.calls), func(t *testing.T, n int) {
				for _, k := range turns(n+shift, len(names)) {
					for _, these := range lockTurns() {
						name := names[k]
						// Who has a write lock of it is, for all that can be known, a live run.
						mayWrite := found != "a dead run" || name != "main-running" || n > s.begun
						dir := testenv.FastVolume(t)
						before[found](t, dir)
						why, unlock := "not yet", func() {}
						result := trace(t, sentinel(dir, failing), touching(dir), func(_ *ptrace.Tracee, c ptrace.Call) {
							if c.N == n {
								why, unlock = lock(find(dir, "main", name), these, mayWrite, held)
								why = fmt.Sprintf("%s of %s, before %s", why, name, c)
							}
						})
						unlock()
						if result.ExitCode != 3 {
							t.Errorf("%s: the sentinel ended with %d", why, result.ExitCode)
						}
						if got := testenv.Listing(dir); got != `main-terminated="3\n"` {
							t.Errorf("%s: the volume holds %s", why, got)
						}
					}
				}
			})
		})
	}
}

// TestLocksAtEveryCallOfAShim does the same to a shim.
func TestLocksAtEveryCallOfAShim(t *testing.T) {
	t.Parallel()
	calls := shimCalls(t)
	held := newTally()
	wantHeld(t, held)
	names := []string{"main-running", "main-terminated", "sidecar-running", private, "."}
	atEveryCall(t, calls, func(t *testing.T, n int) {
		for _, k := range turns(n, len(names)) {
			for _, these := range lockTurns() {
				name, dir := names[k], testenv.FastVolume(t)
				taken, unlock, call := "", func() {}, ptrace.Call{}
				g := guarded{dir: dir, at: func(c ptrace.Call) {
					if c.N == n {
						call = c
						taken, unlock = lock(find(dir, "sidecar", name), these, true, held)
					}
				}}
				code, _, output := g.run(t)
				unlock()
				// A write lease of main's end keeps all from opening it, for a while.
				if code != 143 && !(code == 125 && name == "main-terminated" && strings.Contains(taken, "a write lease")) {
					t.Errorf("%s of %s, before %s: the shim ended with %d:\n%s", taken, name, call, code, output)
				}
			}
		}
	})
}

// directories are what may become of the volume's directory. (Of one that is a mount point,
// nothing of this can.)
var directories = []struct {
	name string
	do   func(dir string) error
}{
	{"removed", os.RemoveAll},
	{"renamed", func(dir string) error { return os.Rename(dir, dir+"-away") }},
	{"recreated", func(dir string) error { return errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o777)) }},
	{"renamed and recreated", func(dir string) error {
		return errors.Join(os.Rename(dir, dir+"-away"), os.Mkdir(dir, 0o777))
	}},
	{"a file now", func(dir string) error { return errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o666)) }},
	{"a link to itself now", func(dir string) error { return errors.Join(os.RemoveAll(dir), os.Symlink(dir, dir)) }},
	{"renamed, and back", func(dir string) error {
		return errors.Join(os.Rename(dir, dir+"-away"), os.Rename(dir+"-away", dir))
	}},
}

// TestDirectoryAtEveryCall takes the directory away from both programs. Both end.
func TestDirectoryAtEveryCall(t *testing.T) {
	t.Parallel()
	t.Run("sentinel", func(t *testing.T) {
		t.Parallel()
		atEveryCall(t, len(stepsOf(t, "nothing").calls), func(t *testing.T, n int) {
			for _, k := range turns(n, len(directories)) {
				dir, o := newOutside(t)
				ran := filepath.Join(filepath.Dir(dir), "ran")
				why := "not yet"
				result := trace(t, sentinel(dir, leavesTrace(ran)), touching(dir), func(_ *ptrace.Tracee, c ptrace.Call) {
					if c.N == n {
						why = fmt.Sprintf("%s, before %s", directories[k].name, c)
						if err := directories[k].do(dir); err != nil {
							t.Errorf("%s: %v", why, err)
						}
					}
				})
				wantOwnCode(t, why, result, ran)
				o.wantSame(why)
			}
		})
	})
	t.Run("shim", func(t *testing.T) {
		t.Parallel()
		calls := shimCalls(t)
		codes := newTally()
		codes.want(t, 1, "143", "137")
		atEveryCall(t, calls, func(t *testing.T, n int) {
			for _, k := range turns(n, len(directories)) {
				dir, o := newOutside(t)
				why := "not at all"
				// A main that was never seen may still begin, for all that is known.
				g := guarded{dir: dir, flags: []string{"--start-timeout", "1s"}, at: func(c ptrace.Call) {
					if c.N == n {
						why = fmt.Sprintf("%s, before %s", directories[k].name, c)
						if err := directories[k].do(dir); err != nil {
							t.Errorf("%s: %v", why, err)
						}
					}
				}}
				code, _, output := g.run(t)
				codes.add(code)
				if !slices.Contains([]int{143, 137, 125, 124}, code) {
					t.Errorf("%s: the shim ended with %d:\n%s", why, code, output)
				}
				o.wantSame(why)
			}
		})
	})
}

// TestReader: who can only read the volume can take no lock that a live run has, and all
// that he can take keeps no run from its work.
func TestReader(t *testing.T) {
	t.Parallel()
	dir := testenv.FastVolume(t)
	testenv.Plant(t, filepath.Join(dir, "main-running"), "running\n") // of a run that was killed
	testenv.Plant(t, filepath.Join(dir, "main-terminated"), "9\n")
	for _, name := range []string{"main-running", "main-terminated", "."} {
		for _, l := range locks {
			fd, err := unix.Open(filepath.Join(dir, name), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
			if err == unix.EAGAIN {
				continue // he has a lease of it already
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Close(fd) })
			if err := l.take(fd); l.write && err != unix.EBADF {
				t.Errorf("%s of %s, by one who can only read: %v, and not %v", l.name, name, err, unix.EBADF)
			}
		}
	}
	began := time.Now()
	main := drive.Start(t, sentinel(dir, failing))
	main.Want(3)
	t.Logf("the run took %s", time.Since(began))
	testenv.WantListing(t, dir, `main-terminated="3\n"`)
}

// TestLeasedEnd: main's end that somebody keeps from being opened is a failure, in a second.
func TestLeasedEnd(t *testing.T) {
	t.Parallel()
	dir := testenv.FastVolume(t)
	path := filepath.Join(dir, "main-terminated")
	testenv.Plant(t, path, "0\n")
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := lease(fd, unix.F_WRLCK); err != nil {
		t.Skipf("needs a file system with leases: %v", err)
	}
	s := drive.Start(t, shim(dir))
	s.Want(125)
}

// TestOpensNothingElse: beside the volume, the programs open what they were told to run,
// the termination message, and what Go asks of its machine: no token, no configuration.
func TestOpensNothingElse(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"sentinel", "shim"} {
		t.Run(program, func(t *testing.T) {
			t.Parallel()
			dir := testenv.FastVolume(t)
			argv := drive.Wrap(program, []string{"--dir", dir, "--log-level", "disabled"}, []string{"/bin/true"})
			var opened []string
			onVolume := touching(dir)
			result := trace(t, argv, func(c ptrace.Call) bool { return c.Name == "openat" || c.Name == "openat2" }, func(_ *ptrace.Tracee, c ptrace.Call) {
				if !onVolume(c) && !slices.Contains(opened, c.Path) {
					opened = append(opened, c.Path)
				}
			})
			if result.ExitCode != 0 {
				t.Errorf("it ended with %d", result.ExitCode)
			}
			t.Logf("opened: %q", opened)
			for _, path := range opened {
				if path != "/dev/termination-log" && !strings.HasPrefix(path, "/sys/") && !strings.HasPrefix(path, "/proc/self/") {
					t.Errorf("it opened %s", path)
				}
			}
		})
	}
}
