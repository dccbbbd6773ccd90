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
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// TestProcessLimit: a container may have only a few processes and threads.
func TestProcessLimit(t *testing.T) {
	newCgroup(t, "pids") // skips the test if there can be none
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

// TestProcessLimitReached: when main ends, it has used up all processes of its pod. Both programs have all the threads
// that they need.
func TestProcessLimitReached(t *testing.T) {
	t.Parallel()
	const rounds = 6 // a program that needs another thread at the end fails in about one of four
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

// TestMemoryLimit: 16 MiB are enough for each of the programs, even with many files, signals and events.
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
	// The commands do not count: each moves to another group before it does anything.
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
	command := out([]string{"/bin/sh", "-c", "trap : USR1; echo up; while :; do sleep 1000; done"})
	argv := drive.Wrap("shim", append([]string{"--dir", dir, "--name", "sidecar"}, flags...), command)
	sidecar := drive.Start(t, confine(argv, group("shim").limit()))
	sidecar.Await("up")
	run := func(name string, command []string) *drive.Process {
		argv := drive.Wrap("sentinel", []string{"--dir", dir, "--name", name, "--log-format", "console",
			"--wait-for", answers.URL + " file://" + dir + " tcp://" + answers.Listener.Addr().String()}, out(command))
		return drive.Start(t, confine(argv, group(name+" "+strconv.Itoa(len(groups))).limit()))
	}

	// All mains fail at first, and are started again.
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
			t.Errorf("%s: out of memory: %s", name, killed)
		}
		most, err := strconv.Atoi(g.get("memory.max_usage_in_bytes", "memory.peak"))
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %.1f MiB at most", name, float64(most)/(1<<20))
	}
}

// TestOpenFiles: a program may have only a few open files.
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

// TestInheritedFiles: a program may have 64 open files, and inherits nearly as many.
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

// TestNoOpenFileBesideALiveRun: a sentinel that cannot open any file does not know whether a run of its name is live.
// So it records no end over that run.
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

// TestNoInotifyInstance: the user has no inotify instance left. Both programs log that once, and work.
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
				t.Errorf("the shim logs the lack of an inotify instance %d times, not once:\n%s", n, sidecar.Output())
			}
		})
	}
}

// TestNoFileForInotify: the log blames the program's limit on open files, not a limit of the node.
func TestNoFileForInotify(t *testing.T) {
	t.Parallel()
	causes := newTally()
	causes.want(t, 1, "ulimit -n")
	for limit := 4; limit <= 9; limit++ {
		t.Run(strconv.Itoa(limit), func(t *testing.T) {
			t.Parallel()
			sidecar := drive.Start(t, confine(shim(testenv.FastVolume(t)), "nofile="+strconv.Itoa(limit)))
			if !sidecar.AwaitUnlessExited("sleep started") {
				sidecar.AwaitAll()
			}
			for _, cause := range []string{"ulimit -n", "max_user_"} {
				if strings.Contains(sidecar.Output(), cause) {
					causes.add(cause)
				}
			}
			if strings.Contains(sidecar.Output(), "max_user_") {
				t.Errorf("the node's limits are not the cause:\n%s", sidecar.Output())
			}
		})
	}
}
