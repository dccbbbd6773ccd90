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
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// A hostile neighbour is another container of the pod that may do anything to the volume. Here it does so at every
// call of both built programs: see also storm_test.go.

// everything makes these tests try everything at a call. Without it, each call gets one thing, in turn.
var everything = flag.Bool("everything", false, "hostile neighbours do everything at a call, instead of one thing")

// turns returns which of n things are tried at call i.
func turns(i, n int) (those []int) {
	if !*everything {
		return []int{i % n}
	}
	for k := range n {
		those = append(those, k)
	}
	return those
}

// atEveryCall runs a test for each of these calls of a program.
func atEveryCall(t *testing.T, calls []int, test func(t *testing.T, n int)) {
	for _, n := range calls {
		t.Run(fmt.Sprintf("%03d", n), func(t *testing.T) {
			t.Parallel()
			test(t, n)
		})
	}
}

// tally counts the outcomes of many tests.
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

// want fails the test at its end if one of these outcomes came less often than least.
func (c *tally) want(t *testing.T, least int, of ...string) {
	t.Cleanup(func() {
		t.Logf("outcomes: %v", c.count)
		for _, what := range of {
			if !t.Failed() && !t.Skipped() && c.count[what] < least {
				t.Errorf("the outcome %q came %d times, not at least %d times", what, c.count[what], least)
			}
		}
	})
}

// outside is a directory that is not on the volume, and how it looked before the test.
type outside struct {
	t               testing.TB
	directory, file string
	before          string
}

// newOutside creates a volume, and a directory beside it.
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

// look describes everything in the directory.
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

// wantSame fails the test if anything outside the volume has changed.
func (o outside) wantSame(why string) {
	o.t.Helper()
	if now := o.look(); now != o.before {
		o.t.Errorf("%s: outside the volume there was\n%s\nand now there is\n%s", why, o.before, now)
	}
}

// things are what a neighbour may put in the place of a file of the contract.
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
	{"a device", func(path string, _ outside) error { // like /dev/zero; without root a FIFO
		if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))); err == nil {
			return nil
		}
		return unix.Mkfifo(path, 0o666)
	}},
	{"a directory", func(path string, _ outside) error { return os.Mkdir(path, 0o777) }},
	{"a full directory", func(path string, _ outside) error { return os.MkdirAll(path+"/below", 0o777) }},
}

// private stands for the file of a Begin that has not finished, whatever its name is.
const private = "the private file"

// find returns the path of a file of the run owner, or "" if it is private and does not exist.
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

// exchange replaces files with a thing.
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

// leavesTrace returns a main that ends with 3, and creates a file to show that it was started.
func leavesTrace(path string) []string {
	return []string{"/bin/sh", "-c", `: > "$1"; exit 3`, "sh", path}
}

// wantOwnCode fails the test unless a sentinel has ended with the code of its command if that was started, and with
// 125 if it was not. It reports whether the command was started.
func wantOwnCode(t testing.TB, why string, result ptrace.Result, trace string) (ran bool) {
	t.Helper()
	_, err := os.Lstat(trace)
	want := 3
	if ran = err == nil; !ran {
		want = 125
	}
	if result.ExitCode != want || result.Signal != 0 {
		t.Errorf("%s: the command was started %t, and the sentinel ended with %d, %v",
			why, ran, result.ExitCode, result.Signal)
	}
	return ran
}

// TestThingsAtEveryCallOfASentinel replaces the files of a sentinel. The run is recorded with its own code, or as a
// failure.
func TestThingsAtEveryCallOfASentinel(t *testing.T) {
	t.Parallel()
	for i, found := range []string{"nothing", "an end", "a dead run"} {
		t.Run(found, func(t *testing.T) {
			t.Parallel()
			s := stepsOf(t, found)
			starts := newTally()
			calls := callsToTry(t, len(s.calls))
			starts.want(t, len(calls)/2, "true")
			atEveryCall(t, calls, func(t *testing.T, n int) {
				all := []string{"main-running", "main-terminated", private}
				places := [][]string{all[0:1], all[1:2], all[2:], all}
				for _, j := range turns(n+i, len(places)) {
					names := places[j]
					for _, thing := range turns(n+4*i+3*j, len(things)) {
						dir, o := newOutside(t)
						before[found](t, dir)
						ran := filepath.Join(filepath.Dir(dir), "ran")
						why := "not yet"
						argv := sentinel(dir, leavesTrace(ran))
						result := trace(t, argv, touching(dir), func(_ *ptrace.Tracee, c ptrace.Call) {
							if c.N == n {
								why = fmt.Sprintf("%s at %q, before %s", things[thing].name, names, c)
								exchange(t, dir, "main", names, thing, o)
							}
						})
						starts.add(wantOwnCode(t, why, result, ran))
						o.wantSame(why)
						if n > s.ended {
							continue // a neighbour may change an end that is recorded
						}
						w := watch(t, dir, 0)
						got := describe(w.Look()[0])
						w.Close()
						// A thing that is not a file counts as a failure after a second.
						if got != "ended 3" && got != "ended 125" && got != "unsettled" {
							t.Errorf("%s: the state of main is %q", why, got)
						}
					}
				}
			})
		})
	}
}

// guarded is a shim that follows a main, and whose calls are traced. The main is told to end as soon as the sidecar
// runs.
type guarded struct {
	dir   string
	flags []string
	at    func(c ptrace.Call)
}

// run runs both to their ends. It returns the shim's exit code, the number of its calls, and its output. The main
// always ends with 143.
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

// shimCalls returns about how many calls a guarded shim makes on a volume.
func shimCalls(t *testing.T) int {
	t.Helper()
	code, calls, output := guarded{dir: testenv.FastVolume(t)}.run(t)
	if code != 143 || calls < 40 {
		t.Fatalf("%d calls, exit code %d, want at least 40 and 143:\n%s", calls, code, output)
	}
	return calls
}

// TestThingsAtEveryCallOfAShim replaces the files that a shim reads, and its own. It always ends, with main's code or
// that of an end that is unreadable or missing.
func TestThingsAtEveryCallOfAShim(t *testing.T) {
	t.Parallel()
	calls := callsToTry(t, shimCalls(t))
	codes := newTally()
	codes.want(t, len(calls)/2, "143")
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

// locks are the locks that a neighbour may take on a file. The kernel refuses some: on a directory, or because of
// another lock.
var locks = []struct {
	name  string
	write bool // refused to a process that can only read, or beside another lock
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

// fcntl takes a lock with fcntl(2).
func fcntl(fd, cmd int, kind int16) error {
	return unix.FcntlFlock(uintptr(fd), cmd, &unix.Flock_t{Type: kind})
}

// lease takes a lease.
func lease(fd, kind int) error {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, kind)
	return err
}

// lock takes locks on a file if it exists: as many of these as the kernel grants together, first those that were held
// least often so far. They are held until unlock is called.
func lock(path string, these []int, mayWrite bool, held *tally) (taken string, unlock func()) {
	these = slices.SortedStableFunc(slices.Values(these), func(a, b int) int {
		return held.of(locks[a].name) - held.of(locks[b].name)
	})
	var names []string
	var fds []int
	for _, i := range these {
		// The kernel refuses a read lease to a writer, and a write lock to a reader.
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
		fds = append(fds, fd) // closed later: to close any of them releases all POSIX locks
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

// wantHeld fails the test at its end if the locks that are always granted were held too seldom; with -everything, if
// any lock was never held.
func wantHeld(t *testing.T, held *tally) {
	if !*everything {
		held.want(t, 1, "an OFD read lock", "a POSIX read lock", "a shared flock", "an exclusive flock")
		return
	}
	var names []string
	for _, l := range locks {
		names = append(names, l.name)
	}
	held.want(t, 1, names...)
}

// lockTurns returns which locks are taken together: all, or with -everything each on its own.
func lockTurns() (groups [][]int) {
	all := make([]int, len(locks))
	for i := range all {
		all[i] = i
		groups = append(groups, []int{i})
	}
	if !*everything {
		return [][]int{all}
	}
	return groups
}

// TestLocksAtEveryCallOfASentinel takes a lock on a file or on the directory, and keeps it. The run is recorded with
// its own code.
func TestLocksAtEveryCallOfASentinel(t *testing.T) {
	t.Parallel()
	held := newTally()
	wantHeld(t, held)
	for shift, found := range []string{"nothing", "an end", "a dead run"} {
		t.Run(found, func(t *testing.T) {
			t.Parallel()
			s := stepsOf(t, found)
			names := []string{"main-running", "main-terminated", private, "."}
			atEveryCall(t, callsToTry(t, len(s.calls)), func(t *testing.T, n int) {
				for _, k := range turns(n+shift, len(names)) {
					for _, these := range lockTurns() {
						name := names[k]
						// A process with a write lock on a run's file cannot be told from a live run.
						mayWrite := found != "a dead run" || name != "main-running" || n > s.begun
						dir := testenv.FastVolume(t)
						before[found](t, dir)
						why, unlock := "not yet", func() {}
						argv := sentinel(dir, failing)
						result := trace(t, argv, touching(dir), func(_ *ptrace.Tracee, c ptrace.Call) {
							if c.N == n {
								why, unlock = lock(find(dir, "main", name), these, mayWrite, held)
								why = fmt.Sprintf("%s on %s, before %s", why, name, c)
							}
						})
						unlock()
						if result.ExitCode != 3 {
							t.Errorf("%s: the sentinel ended with %d, not 3", why, result.ExitCode)
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
	calls := callsToTry(t, shimCalls(t))
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
				// A write lease on main's end keeps others from opening it for a while.
				leased := name == "main-terminated" && strings.Contains(taken, "a write lease")
				if code != 143 && !(code == 125 && leased) {
					t.Errorf("%s on %s, before %s: the shim ended with %d:\n%s", taken, name, call, code, output)
				}
			}
		}
	})
}

// directories are what may happen to the volume's directory. (None of it can if it is a mount point.)
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
	{"replaced by a file", func(dir string) error {
		return errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o666))
	}},
	{"replaced by a link to itself", func(dir string) error {
		return errors.Join(os.RemoveAll(dir), os.Symlink(dir, dir))
	}},
	{"renamed and renamed back", func(dir string) error {
		return errors.Join(os.Rename(dir, dir+"-away"), os.Rename(dir+"-away", dir))
	}},
}

// TestDirectoryAtEveryCall takes the directory away from both programs. Both end.
func TestDirectoryAtEveryCall(t *testing.T) {
	t.Parallel()
	t.Run("sentinel", func(t *testing.T) {
		t.Parallel()
		atEveryCall(t, callsToTry(t, len(stepsOf(t, "nothing").calls)), func(t *testing.T, n int) {
			for _, k := range turns(n, len(directories)) {
				dir, o := newOutside(t)
				ran := filepath.Join(filepath.Dir(dir), "ran")
				why := "not yet"
				argv := sentinel(dir, leavesTrace(ran))
				result := trace(t, argv, touching(dir), func(_ *ptrace.Tracee, c ptrace.Call) {
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
		calls := callsToTry(t, shimCalls(t))
		codes := newTally()
		codes.want(t, 1, "143")
		if *every {
			codes.want(t, 1, "137")
		}
		atEveryCall(t, calls, func(t *testing.T, n int) {
			for _, k := range turns(n, len(directories)) {
				dir, o := newOutside(t)
				why := "not at all"
				// If the shim has never seen main, main may still begin.
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

// TestReader: a process that can only read the volume cannot take the lock of a live run. The locks that it can take
// do not block any run.
func TestReader(t *testing.T) {
	t.Parallel()
	dir := testenv.FastVolume(t)
	testenv.Plant(t, filepath.Join(dir, "main-running"), "running\n") // of a run that was killed
	testenv.Plant(t, filepath.Join(dir, "main-terminated"), "9\n")
	for _, name := range []string{"main-running", "main-terminated", "."} {
		for _, l := range locks {
			fd, err := unix.Open(filepath.Join(dir, name), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
			if err == unix.EAGAIN {
				continue // the reader has a lease on it already
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Close(fd) })
			if err := l.take(fd); l.write && err != unix.EBADF {
				t.Errorf("a reader takes %s on %s: %v, want %v", l.name, name, err, unix.EBADF)
			}
		}
	}
	began := time.Now()
	main := drive.Start(t, sentinel(dir, failing))
	main.Want(3)
	t.Logf("the run took %s", time.Since(began))
	testenv.WantListing(t, dir, `main-terminated="3\n"`)
}

// TestLeasedEnd: if a lease keeps main's end from being opened, it counts as a failure after a second.
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

// TestOpensNothingElse: beside the volume, the programs open only the termination log, and the files in which Go looks
// up its machine: no token, no configuration.
func TestOpensNothingElse(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"sentinel", "shim"} {
		t.Run(program, func(t *testing.T) {
			t.Parallel()
			dir := testenv.FastVolume(t)
			argv := drive.Wrap(program, []string{"--dir", dir, "--log-level", "disabled"}, []string{"/bin/true"})
			var opened []string
			onVolume := touching(dir)
			opens := func(c ptrace.Call) bool { return c.Name == "openat" || c.Name == "openat2" }
			result := trace(t, argv, opens, func(_ *ptrace.Tracee, c ptrace.Call) {
				if !onVolume(c) && !slices.Contains(opened, c.Path) {
					opened = append(opened, c.Path)
				}
			})
			if result.ExitCode != 0 {
				t.Errorf("%s ended with %d, not 0", program, result.ExitCode)
			}
			t.Logf("opened: %q", opened)
			for _, path := range opened {
				ofMachine := strings.HasPrefix(path, "/sys/") || strings.HasPrefix(path, "/proc/self/")
				if path != "/dev/termination-log" && !ofMachine {
					t.Errorf("%s opened %s", program, path)
				}
			}
		})
	}
}
