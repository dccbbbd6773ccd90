package cmd_test

import (
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/internal/testenv"
)

// These tests give one of the two programs, or both, less than they need, of whatever a
// container may be short of. Then each has the right code or one of those that are
// documented, and nobody waits for ever.

// gated is a main that needs no process for it to end with a code, once its gate is opened.
func gated(t testing.TB, code int) (command []string, open func()) {
	t.Helper()
	gate := filepath.Join(testenv.FastVolume(t), "gate")
	if err := unix.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	// Opened for both, so that nobody waits for the other side.
	f, err := os.OpenFile(gate, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	command = []string{"/bin/sh", "-c", fmt.Sprintf("echo ready; read -r line <%s; exit %d", gate, code)}
	return command, func() {
		if _, err := f.WriteString("open\n"); err != nil {
			t.Error(err)
		}
	}
}

// impatient are flags of a shim that soon gives up a main whose file is dead.
var impatient = []string{"--lost-after", "1s"}

// The codes of a shim that is told nothing: main's file is dead; or it has none, and the
// shim is stopped.
const (
	lost   = 137
	untold = 143
)

// stopUntold stops a shim if nothing on the volume is of main.
func stopUntold(t testing.TB, dir string, sidecar *drive.Process) {
	t.Helper()
	if trace, err := filepath.Glob(filepath.Join(dir, "main-*")); err != nil || len(trace) > 0 {
		return
	}
	sidecar.Signal(syscall.SIGTERM)
}

// goGaveUp is the exit code of Go's runtime where it lacks something itself.
const goGaveUp = 2

// recordedEnd is what stands in main-terminated, "" if it is not there.
func recordedEnd(t testing.TB, dir string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(dir, "main-terminated"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return strings.TrimSuffix(string(content), "\n")
}

// scarce runs pairs with one of the two programs under a limit, which is made wider and
// wider. Its argument says what that is; the program that is under it may succeed, fail
// with 125, or have Go's runtime give up with one of some messages.
type scarce struct {
	limits   []int
	enough   int                                    // from this on all is as it should be
	confine  func(t testing.TB, limit int) []string // directives for confine
	messages []string
}

// sentinels puts the sentinel under the limit.
func (s scarce) sentinels(t *testing.T) {
	outcomes := make(chan string, len(s.limits))
	t.Run("the sentinel", func(t *testing.T) {
		for _, limit := range s.limits {
			t.Run(strconv.Itoa(limit), func(t *testing.T) {
				t.Parallel()
				dir := testenv.FastVolume(t)
				sidecar := drive.Start(t, shim(dir, impatient...))
				sidecar.Await("sleep started")
				main := drive.Start(t, confine(sentinel(dir, failing), s.confine(t, limit)...))
				code := main.Code()
				end := recordedEnd(t, dir)
				stopUntold(t, dir, sidecar)
				got := sidecar.Code()
				story := fmt.Sprintf("the sentinel ended with %d, recorded %q, and the shim with %d:\n%s%s", code, end, got, main.Output(), sidecar.Output())
				switch {
				case code == 3 && end == "3" && got == 3:
					outcomes <- "success"
					return
				case code == 125 && got == 125:
				case s.gaveUp(main) && (got == lost || got == untold):
				default:
					t.Fatal(story)
				}
				outcomes <- "failure"
				if limit >= s.enough {
					t.Errorf("with %d, which is enough: %s", limit, story)
				}
			})
		}
	})
	s.wantBoth(t, outcomes)
}

// shims puts the shim under the limit.
func (s scarce) shims(t *testing.T) {
	outcomes := make(chan string, len(s.limits))
	t.Run("the shim", func(t *testing.T) {
		for _, limit := range s.limits {
			t.Run(strconv.Itoa(limit), func(t *testing.T) {
				t.Parallel()
				dir := testenv.FastVolume(t)
				command, open := gated(t, 3)
				main := drive.Start(t, sentinel(dir, command))
				main.Await("ready")
				sidecar := drive.Start(t, confine(shim(dir, impatient...), s.confine(t, limit)...))
				sidecar.AwaitUnlessExited("sleep started")
				open()
				code, got := main.Code(), sidecar.Code()
				story := fmt.Sprintf("the sentinel ended with %d and the shim with %d:\n%s%s", code, got, main.Output(), sidecar.Output())
				switch {
				case code != 3:
					t.Fatal(story)
				case got == 3:
					outcomes <- "success"
					return
				case got == 125, s.gaveUp(sidecar):
				default:
					t.Fatal(story)
				}
				outcomes <- "failure"
				if limit >= s.enough {
					t.Errorf("with %d, which is enough: %s", limit, story)
				}
			})
		}
	})
	s.wantBoth(t, outcomes)
}

// gaveUp reports whether Go's runtime has given up a program with one of the messages. Its
// last lines may still be on their way.
func (s scarce) gaveUp(p *drive.Process) bool {
	if p.Code() != goGaveUp {
		return false
	}
	p.Await("fatal error: ")
	return slices.ContainsFunc(s.messages, func(message string) bool { return strings.Contains(p.Output(), message) })
}

// wantBoth fails the test unless some limit was wide enough and another was not: else it
// has tried nothing.
func (s scarce) wantBoth(t *testing.T, outcomes chan string) {
	t.Helper()
	close(outcomes)
	seen := map[string]int{}
	for outcome := range outcomes {
		seen[outcome]++
	}
	if !t.Failed() && !t.Skipped() && len(seen) < 2 {
		t.Errorf("of %d limits these are the outcomes: %v", len(s.limits), seen)
	}
}

// TestProcessLimit: a container that may have only so many processes and threads.
func TestProcessLimit(t *testing.T) {
	newCgroup(t, "pids") // or there is nothing to try
	t.Parallel()
	s := scarce{
		limits: []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16},
		enough: 16,
		confine: func(t testing.TB, limit int) []string {
			g := newCgroup(t, "pids")
			g.set("pids.max", "pids.max", limit)
			return []string{g.limit()}
		},
		messages: []string{"failed to create new OS thread"},
	}
	s.sentinels(t)
	s.shims(t)
}

// TestProcessLimitReached: main has used up all processes of its pod by the time that it
// ends. Both programs have all the threads that they need.
func TestProcessLimitReached(t *testing.T) {
	t.Parallel()
	const rounds = 6 // a program that needs another thread fails in about every fourth
	for round := range rounds {
		for _, c := range []struct {
			name string
			code int
		}{{"success", 0}, {"failure", 3}, {"killed", lost}} {
			t.Run(fmt.Sprint(c.name, " ", round), func(t *testing.T) {
				t.Parallel()
				pod := newCgroup(t, "pids")
				dir := testenv.FastVolume(t)
				command, open := gated(t, c.code)
				sidecar := drive.Start(t, confine(shim(dir), pod.limit()))
				main := drive.Start(t, confine(sentinel(dir, command), pod.limit()))
				main.Await("ready")
				sidecar.Await("sleep started")
				sidecar.Await("main is running")
				pod.set("pids.max", "pids.max", 1)
				if c.code == lost {
					main.Kill()
				} else {
					open()
				}
				main.Want(c.code)
				sidecar.Want(c.code)
			})
		}
	}
}

// TestMemoryLimit: 16 MiB are enough for each of the programs, whatever happens around it.
func TestMemoryLimit(t *testing.T) {
	t.Parallel()
	const (
		limit = 16 << 20
		mains = 4
		files = 20_000 // on the volume
		storm = 20_000 // signals, and events of a main's file
	)
	groups := map[string]cgroup{}
	group := func(name string) cgroup {
		g := newCgroup(t, "memory")
		g.set("memory.limit_in_bytes", "memory.max", limit)
		groups[name] = g
		return g
	}
	// The commands are outside of it: they move out before they do anything.
	outside := newCgroup(t, "memory")
	out := func(command []string) []string {
		return append([]string{"/bin/sh", "-c", `echo 0 >"$0/cgroup.procs"; exec "$@"`, outside.path}, command...)
	}

	dir := testenv.FastVolume(t)
	for i := range files {
		testenv.Plant(t, filepath.Join(dir, fmt.Sprintf("%0200d", i)), "")
	}
	answers := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, strings.Repeat("x", 1<<20))
	}))
	defer answers.Close()

	flags := []string{"--keep-on-failure", "--log-level", "trace", "--log-format", "json"}
	for i := range mains {
		flags = append(flags, "--main", fmt.Sprint("main", i))
	}
	argv := drive.Wrap("shim", append([]string{"--dir", dir, "--name", "sidecar"}, flags...), out([]string{"/bin/sh", "-c", "trap : USR1; echo up; while :; do sleep 1000; done"}))
	sidecar := drive.Start(t, confine(argv, group("shim").limit()))
	sidecar.Await("up")
	run := func(name string, command []string) *drive.Process {
		argv := drive.Wrap("sentinel", []string{"--dir", dir, "--name", name, "--log-format", "console",
			"--wait-for", answers.URL + " file://" + dir + " tcp://" + answers.Listener.Addr().String()}, out(command))
		return drive.Start(t, confine(argv, group(name+" "+strconv.Itoa(len(groups))).limit()))
	}

	// All fail at first, and come back.
	for i := range mains {
		run(fmt.Sprint("main", i), failing).Want(3)
	}
	sidecar.AwaitCount(" exited 3", mains)
	var running []*drive.Process
	var gates []func()
	for i := range mains {
		command, open := gated(t, 0)
		running, gates = append(running, run(fmt.Sprint("main", i), command)), append(gates, open)
	}
	for i, main := range running {
		main.Await("ready")
		sidecar.AwaitCount(fmt.Sprintf("main%d is running", i), 1)
	}
	for n := range storm {
		sidecar.Signal(syscall.SIGUSR1)
		running[n%mains].Signal(syscall.SIGWINCH)
		now := time.Unix(int64(n), 0)
		if err := os.Chtimes(filepath.Join(dir, fmt.Sprintf("main%d-running", n%mains)), now, now); err != nil {
			t.Fatal(err)
		}
	}
	for i, main := range running {
		gates[i]()
		main.Want(0)
	}
	sidecar.Want(0)
	for name, g := range groups {
		if killed := g.get("memory.oom_control", "memory.events"); !strings.Contains(killed, "oom_kill 0") {
			t.Errorf("%s: %s", name, killed)
		}
		most, err := strconv.Atoi(g.get("memory.max_usage_in_bytes", "memory.peak"))
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %.1f MiB at most", name, float64(most)/(1<<20))
	}
}

// TestOpenFiles: a program that may have only so many open files.
func TestOpenFiles(t *testing.T) {
	t.Parallel()
	s := scarce{
		limits: []int{3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16, 64},
		enough: 16,
		confine: func(_ testing.TB, limit int) []string {
			return []string{"nofile=" + strconv.Itoa(limit)}
		},
		messages: []string{"runtime: netpollinit failed", "runtime: eventfd failed"},
	}
	s.sentinels(t)
	s.shims(t)
}

// TestInheritedFiles: it may have 64, and nearly all are taken by what it has inherited.
func TestInheritedFiles(t *testing.T) {
	t.Parallel()
	const limit = 64
	s := scarce{
		limits: []int{limit - 3, limit - 8, limit - 9, limit - 10, limit - 16},
		enough: math.MaxInt,
		confine: func(_ testing.TB, inherited int) []string {
			return []string{"open=" + strconv.Itoa(inherited-3), "nofile=" + strconv.Itoa(limit)}
		},
		messages: []string{"runtime: netpollinit failed", "runtime: eventfd failed"},
	}
	s.sentinels(t)
	s.shims(t)
}

// TestNoOpenFileBesideALiveRun: a sentinel that can open nothing cannot report whether the
// run of its name is live. So it leaves the end of that to its owner.
func TestNoOpenFileBesideALiveRun(t *testing.T) {
	t.Parallel()
	dir := testenv.FastVolume(t)
	command, open := gated(t, 3)
	main := drive.Start(t, sentinel(dir, command))
	main.Await("ready")
	sidecar := drive.Start(t, shim(dir))
	sidecar.Await("main is running")
	second := drive.Start(t, confine(sentinel(dir, failing), "nofile=3"))
	second.Want(125)
	second.Await("too many open files")
	if _, err := os.Lstat(filepath.Join(dir, "main-terminated")); err == nil {
		t.Errorf("an end was recorded over a live run; the volume: %s", testenv.Listing(dir))
	}
	open()
	main.Want(3)
	sidecar.Want(3)
}

// TestSeveralMainsWithFewFiles: 64 files are enough for a shim of many mains.
func TestSeveralMainsWithFewFiles(t *testing.T) {
	t.Parallel()
	const mains = 16
	dir := testenv.FastVolume(t)
	var flags []string
	for i := range mains {
		flags = append(flags, "--main", fmt.Sprint("main", i))
	}
	sidecar := drive.Start(t, confine(shim(dir, flags...), "nofile=64"))
	sidecar.Await("sleep started")
	var open []func()
	for i := range mains {
		command, gate := gated(t, i)
		open = append(open, gate)
		argv := drive.Wrap("sentinel", []string{"--dir", dir, "--name", fmt.Sprint("main", i)}, command)
		drive.Start(t, argv).Await("ready")
	}
	for i := range mains {
		sidecar.Await(fmt.Sprintf("main%d is running", i))
	}
	for _, gate := range slices.Backward(open) {
		gate()
	}
	sidecar.Want(1) // of the first that has not ended with 0
}

// TestNoInotifyInstance: the kernel has none for this user. It is said once, and all works.
func TestNoInotifyInstance(t *testing.T) {
	t.Parallel()
	userNamespace := func(cmd *exec.Cmd) {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
		testenv.Namespaces(cmd.SysProcAttr, unix.CLONE_NEWUSER)
	}
	try := exec.Command("true")
	if userNamespace(try); try.Run() != nil {
		t.Skip("needs user namespaces")
	}
	for _, c := range []struct {
		name string
		code int
	}{{"success", 0}, {"failure", 3}, {"killed", lost}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := testenv.FastVolume(t)
			command, open := gated(t, c.code)
			sidecar := drive.Start(t, confine(shim(dir), "inotify=0"), userNamespace)
			sidecar.Await("looking at it once a second instead")
			sidecar.Await("sleep started")
			main := drive.Start(t, confine(sentinel(dir, command), "inotify=0"), userNamespace)
			main.Await("ready")
			sidecar.Await("main is running")
			if c.code == lost {
				main.Kill()
			} else {
				open()
			}
			main.Want(c.code)
			sidecar.Want(c.code)
			if n := strings.Count(sidecar.Output(), "max_user_instances"); n != 1 {
				t.Errorf("that there is no inotify instance is said %d times:\n%s", n, sidecar.Output())
			}
		})
	}
}

// TestNoFileForInotify: it is the program's limit that is said to be reached, not the node's.
func TestNoFileForInotify(t *testing.T) {
	t.Parallel()
	told := newTally()
	told.want(t, 1, "ulimit -n")
	for limit := 4; limit <= 9; limit++ {
		t.Run(strconv.Itoa(limit), func(t *testing.T) {
			t.Parallel()
			sidecar := drive.Start(t, confine(shim(testenv.FastVolume(t)), "nofile="+strconv.Itoa(limit)))
			if !sidecar.AwaitUnlessExited("sleep started") {
				sidecar.AwaitAll()
			}
			for _, cause := range []string{"ulimit -n", "max_user_"} {
				if strings.Contains(sidecar.Output(), cause) {
					told.add(cause)
				}
			}
			if strings.Contains(sidecar.Output(), "max_user_") {
				t.Errorf("the node's limits are not the cause:\n%s", sidecar.Output())
			}
		})
	}
}

// inMemory returns a volume that is a small file system in memory.
func inMemory(t testing.TB, options string) (dir string) {
	t.Helper()
	dir = testenv.FastVolume(t)
	testenv.Tmpfs(t, dir, options)
	return dir
}

// onDisk returns a volume that is a small file system on a disk.
func onDisk(t testing.TB) (dir string) {
	t.Helper()
	dir = testenv.FastVolume(t)
	testenv.Disk(t, dir, 1<<20, "-b", "1024", "-m", "0", "-N", "64", "-O", "^has_journal,^resize_inode")
	return dir
}

// TestFullVolume has the volume full from some instant on.
func TestFullVolume(t *testing.T) {
	t.Parallel()
	for _, fs := range []struct {
		name  string
		mount func(t testing.TB) (dir string)
		fill  func(t testing.TB, dir string)
		// recorded: that a sentinel could not begin finds its way to the volume.
		recorded bool
	}{
		{"no block", func(t testing.TB) string { return inMemory(t, "size=64k") }, testenv.FillBlocks, true},
		{"no inode", func(t testing.TB) string { return inMemory(t, "nr_inodes=16") }, testenv.FillInodes, false},
		{"a disk without a block", onDisk, testenv.FillBlocks, true},
		{"a disk without an inode", onDisk, testenv.FillInodes, false},
	} {
		for _, first := range []string{"nobody", "the shim", "the sentinel", "both"} {
			for _, code := range []int{0, 3} {
				t.Run(fmt.Sprintf("%s, after %s, %d", fs.name, first, code), func(t *testing.T) {
					t.Parallel()
					dir := fs.mount(t)
					command, open := gated(t, code)
					var sidecar, main *drive.Process
					startShim := func() {
						sidecar = drive.Start(t, shim(dir, impatient...))
						sidecar.Await("sleep started")
					}
					startMain := func() { main = drive.Start(t, sentinel(dir, command)) }
					if first == "the shim" || first == "both" {
						startShim()
					}
					if first == "the sentinel" || first == "both" {
						startMain()
						main.Await("ready")
					}
					fs.fill(t, dir)
					if sidecar == nil {
						startShim()
					}
					if main != nil {
						open()
						main.Want(code)
						sidecar.Want(code)
						return
					}
					startMain()
					main.Want(125)
					main.Await("make room on the volume " + dir)
					if fs.recorded {
						sidecar.Want(125)
					} else {
						main.Await("the end of main could not be recorded")
						stopUntold(t, dir, sidecar)
						sidecar.Want(untold)
					}
				})
			}
		}
	}
}

// TestEmptyEndOnAFullVolume: a main without a sentinel writes its end, and the volume is full.
// What remains is an empty file, as a success leaves that is only touched.
func TestEmptyEndOnAFullVolume(t *testing.T) {
	t.Parallel()
	const (
		writes  = `false; echo $? >"$0/main-terminated"`
		touches = `: >"$0/main-terminated"`
		full    = "is empty and the volume is full: counted as a failure (125): free space or raise sizeLimit"
		empty   = "is empty: counted as a success"
	)
	memory := func(t testing.TB) string { return inMemory(t, "size=64k,nr_inodes=16") }
	for _, c := range []struct {
		name   string
		mount  func(t testing.TB) (dir string)
		main   string
		before func(t testing.TB, dir string) // main ends
		after  func(t testing.TB, dir string)
		code   int
		says   string
	}{
		{"memory without a block", memory, writes, testenv.FillBlocks, nil, 125, full},
		{"memory without an inode", memory, touches, nil, testenv.FillInodes, 0, empty},
		{"memory", memory, touches, nil, nil, 0, empty},
		{"a disk without a block", onDisk, writes, testenv.FillBlocks, nil, 125, full},
		{"a disk without an inode", onDisk, touches, nil, testenv.FillInodes, 0, empty},
		{"a disk", onDisk, touches, nil, nil, 0, empty},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := c.mount(t)
			sidecar := drive.Start(t, shim(dir))
			sidecar.Await("sleep started")
			if c.before != nil {
				c.before(t, dir)
			}
			drive.Start(t, []string{"/bin/sh", "-c", c.main, dir}).Code() // a shell fails where the write does
			if c.after != nil {
				c.after(t, dir)
			}
			sidecar.Want(c.code)
			sidecar.Await(filepath.Join(dir, "main-terminated") + " " + c.says)
		})
	}
}

// TestMainsMountReadOnly: the sentinel can leave no word. It says what is to be done.
func TestMainsMountReadOnly(t *testing.T) {
	t.Parallel()
	dir := testenv.FastVolume(t)
	sidecar := drive.Start(t, shim(dir, impatient...))
	sidecar.Await("sleep started")
	mount := testenv.ReadOnly(t, dir)
	main := drive.Start(t, sentinel(mount, []string{"true"}))
	main.Want(125)
	main.Await("the volume " + mount + " has to be writable for this user (readOnly, fsGroup)")
	stopUntold(t, dir, sidecar)
	sidecar.Want(untold)
}

// TestClocksOfContainers: each container may have a monotonic clock of its own, which says
// anything.
func TestClocksOfContainers(t *testing.T) {
	testenv.NeedRoot(t, "to make a time namespace")
	t.Parallel()
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		t.Fatal(err)
	}
	var monotonic unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &monotonic); err != nil {
		t.Fatal(err)
	}
	const century = 100 * 365 * 24 * 3600
	clock := func(monotonic, boot int64, argv []string) []string {
		return append([]string{"unshare", "--time", "--monotonic", fmt.Sprint(monotonic), "--boottime", fmt.Sprint(boot), "--"}, argv...)
	}
	if out, err := exec.Command("unshare", clock(1, 1, []string{"true"})[1:]...).CombinedOutput(); err != nil {
		t.Skipf("no time namespace can be had here: %v: %s", err, out)
	}
	young := []int64{-monotonic.Sec, -up.Sec} // as if the machine had started just now
	old := []int64{century, century}
	for name, clocks := range map[string][2][]int64{
		"young and old": {young, old},
		"old and young": {old, young},
		"both young":    {young, young},
		"both old":      {old, old},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := testenv.FastVolume(t)
			command, open := gated(t, 3)
			argv := shim(dir, "--drain", "100ms")
			sidecar := drive.Start(t, clock(clocks[0][0], clocks[0][1], argv))
			sidecar.Await("sleep started")
			waitFor := drive.Wrap("sentinel", []string{"--dir", dir, "--wait-for", "file://" + dir}, command)
			main := drive.Start(t, clock(clocks[1][0], clocks[1][1], waitFor))
			main.Await("ready")
			sidecar.Await("main is running")
			open()
			main.Want(3)
			sidecar.Want(3)
		})
	}
}

// TestWallClock: no wall clock, however wrong, or wild, changes anything: not what is left
// by a run before, not the dead file of a killed one, not the leftover of a killed Begin.
func TestWallClock(t *testing.T) {
	t.Parallel()
	programs := withoutVDSO(t)
	try := drive.Command("clock", "0", filepath.Join(programs, "shim"), "--version")
	if out, err := exec.Command(try[0], try[1:]...).CombinedOutput(); err != nil {
		t.Skipf("no system call can be answered here in the kernel's place: %v: %s", err, out)
	}
	for name, says := range map[string]string{
		"1970":              "0",
		"before 1970":       "-1000000",
		"2106":              "4294967290",
		"2262":              "9223372030",
		"1970 and 2262":     "0,9223372030",
		"now and tomorrow":  fmt.Sprintf("%d,%d", time.Now().Unix(), time.Now().Unix()+24*3600),
		"now and yesterday": fmt.Sprintf("%d,%d", time.Now().Unix(), time.Now().Unix()-24*3600),
	} {
		clock := func(argv []string) []string {
			program := filepath.Join(programs, filepath.Base(argv[0]))
			return drive.Command("clock", append([]string{says, program}, argv[1:]...)...)
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := testenv.FastVolume(t)
			testenv.Plant(t, filepath.Join(dir, "main-running"), "running\n")
			leftover := filepath.Join(dir, ".main-0123456789abcdef")
			testenv.Plant(t, leftover, "running\n")

			// The first attempt fails, the next is killed, the third succeeds.
			sidecar := drive.Start(t, clock(shim(dir, "--keep-on-failure", "--lost-after", "1h")))
			sidecar.Await("sleep started")
			command, open := gated(t, 3)
			first := drive.Start(t, clock(sentinel(dir, command)))
			sidecar.Await("main is running")
			open()
			first.Want(3)
			sidecar.Await("main exited 3")
			second := drive.Start(t, clock(sentinel(dir, neverEnding)))
			sidecar.AwaitCount("main is running", 2)
			second.Kill()
			second.Want(137)
			sidecar.Await("main was killed before it could record an exit code")
			command, open = gated(t, 0)
			third := drive.Start(t, clock(sentinel(dir, command)))
			third.Await("ready")
			open()
			third.Want(0)
			sidecar.Want(0)
			// To a clock that is behind, it is from the future, and left.
			if _, err := os.Stat(leftover); err == nil {
				if err := os.Remove(leftover); err != nil {
					t.Fatal(err)
				}
			}
			testenv.WantListing(t, dir, `main-terminated="0\n" sidecar-terminated="0\n"`)
		})
	}
}

// TestTimesOfFiles: no modification time, however old or far ahead, changes anything.
func TestTimesOfFiles(t *testing.T) {
	t.Parallel()
	for name, at := range map[string]time.Time{
		"1970":        time.Unix(0, 0),
		"before 1970": time.Unix(-1_000_000, 0),
		"1901":        time.Unix(math.MinInt32, 0),
		"2038":        time.Unix(math.MaxInt32, 999_999_999),
		"2106":        time.Unix(math.MaxUint32, 0),
		"2446":        time.Unix(1<<34-1<<31-1, 0), // the last that ext4 has
	} {
		touch := func(t *testing.T, path string) {
			t.Helper()
			if err := os.Chtimes(path, at, at); err != nil {
				t.Fatal(err)
			}
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := testenv.FastVolume(t)
			dead := filepath.Join(dir, "main-running")
			testenv.Plant(t, dead, "running\n")
			touch(t, dead)
			for _, file := range []string{".main-0123456789abcdef", ".sidecar-0123456789abcdef"} {
				testenv.Plant(t, filepath.Join(dir, file), "running\n")
				touch(t, filepath.Join(dir, file))
			}
			// A dead file is given up after --lost-after, and stale under OnFailure.
			sidecar := drive.Start(t, shim(dir, "--restart-policy", "OnFailure", "--lost-after", "1s"))
			sidecar.Await("main is taken for running")
			sidecar.Await("in an earlier attempt")
			command, open := gated(t, 3)
			main := drive.Start(t, sentinel(dir, command))
			main.Await("ready")
			sidecar.Await("main is running")
			touch(t, dead) // it is live now, and stays so
			open()
			main.Want(3)
			sidecar.Want(3)

			// The same end at the same time is not the next one.
			end := filepath.Join(dir, "main-terminated")
			touch(t, end)
			sidecar = drive.Start(t, shim(dir, "--restart-policy", "OnFailure"))
			sidecar.Await("in an earlier attempt")
			sidecar.Await("sleep started")
			touch(t, end)
			testenv.Plant(t, end+".new", "4\n")
			touch(t, end+".new")
			if err := os.Rename(end+".new", end); err != nil {
				t.Fatal(err)
			}
			sidecar.Want(4)
			leftovers, err := filepath.Glob(filepath.Join(dir, ".*"))
			if err != nil || at.Before(time.Now()) && len(leftovers) > 0 {
				t.Errorf("%q is left, %v", leftovers, err)
			}
		})
	}
}
