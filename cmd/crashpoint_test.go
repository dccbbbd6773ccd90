package cmd_test

import (
	"context"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// These tests kill one of the two programs or stop it for a while, and treat the rest of the pod as the kubelet does:
// under OnFailure, a container that has failed is started again, as a new process on the same volume; under Never, it
// stays down.

var (
	kills = flag.Int("kills", 60, "how many pods TestRandomKills runs")
	seed  = flag.Uint64("seed", 0, "the seed of TestRandomKills; 0: another one each time")
)

// mainScript is a main that counts its attempts: the first exits with the first code, and so on.
//
//	sh -c SCRIPT DIRECTORY LIFE CODE...
const mainScript = `
	echo $$ $PPID >"$0/main.pid"
	read -r n <"$0/attempts"
	echo $((n + 1)) >"$0/attempts"
	life=$1
	shift
	[ "$life" = 0 ] || sleep "$life"
	while [ "$n" -gt 0 ] && [ $# -gt 1 ]; do shift; n=$((n - 1)); done
	echo "$1" >>"$0/ends"
	exit "$1"`

// sidecarScript is a sidecar that looks whether main lives when it is asked to stop. A main whose wrapper is dead, or
// exiting (PF_EXITING, 4), gets SIGKILL from the kernel, but on a busy machine it may take a while to die. The sidecar
// leaves a process in its group.
const sidecarScript = `
	stop() {
		looks=0
		while { read -r pid wrapper <"$0/main.pid" && read -r _ _ state _ <"/proc/$pid/stat"; } 2>/dev/null; do
			case $state in Z | X) exit 0 ;; esac
			flags=4
			{ read -r _ _ _ _ _ _ _ _ flags _ <"/proc/$wrapper/stat"; } 2>/dev/null
			if [ $((flags & 4)) = 0 ] || [ $looks = 200 ]; then
				echo "main, process $pid, lives ($state)" >>"$0/violations"
				exit 0
			fi
			looks=$((looks + 1))
			sleep 0.05
		done
		exit 0
	}
	trap stop TERM
	sleep 1000 &
	echo >"$0/up"
	wait`

// deafScript is a sidecar that ignores SIGTERM.
const deafScript = `trap "" TERM; echo >"$0/up"; exec sleep 1000`

// fault is what happens to one of the two programs of a pod.
type fault struct {
	who   string        // "main" or "sidecar": whose wrapper
	point string        // the crash point, as in package crashpoint; "" is none
	stops bool          // the program is stopped for a while, not killed
	after time.Duration // without a point: how long after the start of the program
}

func (f fault) String() string {
	what := "killed"
	if f.stops {
		what = "stopped for a while"
	}
	if f.point == "" {
		return fmt.Sprintf("the wrapper of %s is %s after %s", f.who, what, f.after)
	}
	return fmt.Sprintf("the wrapper of %s is %s at %s", f.who, what, f.point)
}

// plan is the plan of one pod.
type plan struct {
	fault
	programs string // the directory of the two
	policy   string
	codes    []int // of main's attempts; all later attempts have the last code
	keep     bool  // --keep-on-failure
	deaf     bool  // the sidecar ignores SIGTERM
	together bool  // both start at once; else main after the sidecar
	life     time.Duration
	backOff  func() time.Duration
}

// stopFor is how long a program is stopped: longer than a main that has failed needs to come back.
const stopFor = 250 * time.Millisecond

// mostStarts is how often a container is started before its pod counts as one that never ends.
const mostStarts = 12

// crashPod is a pod that runs.
type crashPod struct {
	plan
	t         *testing.T
	volume    string
	directory string // what the scripts and the test write
	log       *os.File

	mu    sync.Mutex
	exits map[string][]int // by container
	hit   bool             // the fault has happened
}

// run runs the pod to its end.
func (p plan) run(t *testing.T) *crashPod {
	t.Helper()
	pod := &crashPod{
		plan: p, t: t, volume: testenv.FastVolume(t), directory: testenv.FastVolume(t), exits: map[string][]int{},
	}
	testenv.Plant(t, filepath.Join(pod.directory, "attempts"), "0\n")
	log, err := os.OpenFile(filepath.Join(pod.directory, "log"), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	pod.log = log
	ctx, cancel := context.WithTimeout(t.Context(), drive.Patience)
	defer cancel()
	var containers sync.WaitGroup
	containers.Go(func() { pod.container(ctx, "sidecar", pod.shim()) })
	for !p.together && ctx.Err() == nil && !pod.sidecarIsUp() {
		time.Sleep(time.Millisecond)
	}
	containers.Go(func() { pod.container(ctx, "main", pod.sentinel()) })
	containers.Wait()
	if ctx.Err() != nil {
		pod.violated("the pod always ends", "it has not ended after %s", drive.Patience)
	}
	return pod
}

func (p *crashPod) sentinel() []string {
	argv := []string{filepath.Join(p.programs, "sentinel"), "--dir", p.volume, "--log-format", "console", "--",
		"/bin/sh", "-c", mainScript, p.directory, strconv.FormatFloat(p.life.Seconds(), 'f', -1, 64)}
	for _, code := range p.codes {
		argv = append(argv, strconv.Itoa(code))
	}
	return argv
}

func (p *crashPod) shim() []string {
	argv := []string{filepath.Join(p.programs, "shim"), "--dir", p.volume, "--name", "sidecar",
		"--log-format", "console", "--lost-after", "1s", "--drain", "10ms"}
	if p.policy == "Never" {
		// A main that is killed before its rename has never begun, and does not come back: this flag is for that.
		argv = append(argv, "--start-timeout", "3s")
	}
	if p.keep {
		argv = append(argv, "--keep-on-failure")
	}
	if p.deaf {
		return append(argv, "--grace-period", "1s", "--", "/bin/sh", "-c", deafScript, p.directory)
	}
	return append(argv, "--", "/bin/sh", "-c", sidecarScript, p.directory)
}

// sidecarIsUp reports whether the sidecar is ready, or its shim was killed before.
func (p *crashPod) sidecarIsUp() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err := os.Stat(filepath.Join(p.directory, "up"))
	return err == nil || len(p.exits["sidecar"]) > 0
}

// container starts a container, and starts it again as the kubelet does.
func (p *crashPod) container(ctx context.Context, name string, argv []string) {
	for range mostStarts {
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.Stdout, cmd.Stderr = p.log, p.log
		target := name == p.who && !p.reached()
		if target && p.point != "" {
			point := p.point
			if p.stops {
				point += ":stop"
			}
			cmd.Env = append(os.Environ(), "CRASHPOINT="+point)
		}
		if err := cmd.Start(); err != nil {
			p.t.Error(err)
			return
		}
		ended := make(chan struct{})
		var others sync.WaitGroup
		if target {
			others.Go(func() { p.strike(cmd.Process, ended) })
		}
		_ = cmd.Wait()
		close(ended)
		others.Wait()
		if ctx.Err() != nil {
			return
		}
		status := cmd.ProcessState.Sys().(syscall.WaitStatus)
		code := status.ExitStatus()
		if status.Signaled() {
			code = 128 + int(status.Signal())
		}
		p.mu.Lock()
		p.exits[name] = append(p.exits[name], code)
		p.mu.Unlock()
		fmt.Fprintf(p.log, "---- %s has ended with %d\n", name, code)
		if code == 0 || p.policy == "Never" {
			return
		}
		time.Sleep(p.backOff()) // the kubelet's
	}
	p.violated("the pod always ends", "%s was started %d times", name, mostStarts)
}

// strike carries out the part of a fault that a program does not do itself at a crash point.
func (p *crashPod) strike(program *os.Process, ended chan struct{}) {
	if p.point == "" {
		select {
		case <-time.After(p.after):
		case <-ended:
			return
		}
		p.mu.Lock()
		p.hit = true
		p.mu.Unlock()
		if !p.stops {
			_ = program.Kill() // or it has just ended
			return
		}
		_ = program.Signal(syscall.SIGSTOP)
	} else {
		for !p.isStopped(program.Pid) {
			select {
			case <-time.After(2 * time.Millisecond):
			case <-ended:
				return
			}
		}
	}
	time.Sleep(stopFor) // not a wait for anything: meanwhile the rest of the pod runs
	_ = program.Signal(syscall.SIGCONT)
}

// isStopped reports whether a signal has stopped a process (proc_pid_stat(5)).
func (p *crashPod) isStopped(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, state, _ := strings.Cut(string(stat), ") ")
	return err == nil && strings.HasPrefix(state, "T")
}

// reached reports whether the fault has happened.
func (p *crashPod) reached() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.point != "" && !p.hit {
		name, _, _ := strings.Cut(p.point, " ")
		p.hit = strings.Contains(p.story(), "crashpoint "+name+"\n")
	}
	return p.hit
}

// story returns all that was logged.
func (p *crashPod) story() string {
	content, err := os.ReadFile(p.log.Name())
	if err != nil {
		p.t.Error(err)
	}
	return string(content)
}

// lines returns the words of a file that a script has written.
func (p *crashPod) lines(name string) []string {
	content, err := os.ReadFile(filepath.Join(p.directory, name))
	if err != nil && !os.IsNotExist(err) {
		p.t.Error(err)
	}
	return strings.Fields(string(content))
}

// violated fails the test, because an invariant does not hold.
func (p *crashPod) violated(invariant, format string, args ...any) {
	p.t.Helper()
	p.t.Errorf("violated: %s: %s\n%s, %s, codes %v: exits %v, the volume: %s\n%s", invariant,
		fmt.Sprintf(format, args...), p.fault, p.policy, p.codes, p.exits, testenv.Listing(p.volume), p.story())
}

// check checks the invariants.
func (p *crashPod) check() {
	p.t.Helper()
	if p.t.Failed() {
		return
	}
	mains, sidecars := p.exits["main"], p.exits["sidecar"]
	succeeded := slices.Contains(p.lines("ends"), "0")
	for name, exits := range p.exits {
		if last := exits[len(exits)-1]; last == 0 && !succeeded {
			p.violated("success is reported only if main exited 0", "%s has ended with 0", name)
		}
	}
	if p.policy == "Never" && !succeeded && (mains[0] == 0 || sidecars[0] == 0) {
		p.violated("every container of a failed attempt ends non-zero",
			"main has ended with %d, the sidecar with %d", mains[0], sidecars[0])
	}
	if lines := p.lines("violations"); len(lines) > 0 {
		p.violated("a shim is never stopped by an end older than main's last start", "%s", strings.Join(lines, " "))
	}
	if p.who != "main" && !p.stops || p.point == "" {
		return
	}
	restarts, others := len(mains)-1, len(sidecars)-1
	const counts = "main was started %d times again, and the sidecar %d times"
	switch {
	case p.keep:
		if others != 0 {
			p.violated("keep-on-failure costs one restart per attempt", counts, restarts, others)
		}
	case others > restarts || others < restarts && p.seen():
		p.violated("restart counts stay equal in tandem", counts, restarts, others)
	}
}

// seen reports whether the shim must have seen the run that the fault has hit: at its end, the run has lasted for long.
// If a run is killed before, the sidecar need not be restarted; nor if a shim is stopped, and sees the end only when
// main has come back.
func (p *crashPod) seen() bool { return !p.stops && p.point == "sentinel.ended" }

// crashPoints returns the names of all crash points in the source.
func crashPoints(t testing.TB) (points []string) {
	t.Helper()
	files := token.NewFileSet()
	for _, directory := range []string{"../sentinel", "../shim", "../cmd"} {
		err := filepath.WalkDir(directory, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") {
				return err
			}
			file, err := parser.ParseFile(files, path, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				at, ok := call.Fun.(*ast.SelectorExpr)
				if !ok || at.Sel.Name != "At" {
					return true
				}
				if pkg, ok := at.X.(*ast.Ident); !ok || pkg.Name != "crashpoint" {
					return true
				}
				name, err := strconv.Unquote(call.Args[0].(*ast.BasicLit).Value)
				if err != nil {
					t.Fatal(err)
				}
				if slices.Contains(points, name) {
					t.Errorf("%s: there are two crash points %s", files.Position(call.Pos()), name)
				}
				points = append(points, name)
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return points
}

// faultAt returns the fault at a crash point: its name says whose it is.
func faultAt(point string) fault {
	if strings.HasPrefix(point, "sentinel.") {
		return fault{who: "main", point: point}
	}
	return fault{who: "sidecar", point: point}
}

// TestCrashPoints kills each of the two programs, or stops it for a while, at each of its crash points.
func TestCrashPoints(t *testing.T) {
	t.Parallel()
	programs := drive.Tagged(t, "crashpoints")
	points := crashPoints(t)
	if len(points) < 15 {
		t.Fatalf("only %d crash points were found: %q", len(points), points)
	}
	var plans []plan
	nevers := 0
	for _, point := range points {
		basic := plan{
			fault: faultAt(point), programs: programs, policy: "OnFailure", codes: []int{3, 0},
			life: 60 * time.Millisecond,
			// Two containers that fail together are restarted together, but not before a shim can have seen the end.
			backOff: func() time.Duration { return 150 * time.Millisecond },
			deaf:    point == "stop.half-time" || point == "stop.killed" || point == "sentinel.barred",
		}
		plans = append(plans, basic)
		stopped := basic
		stopped.stops = true
		if basic.who == "sidecar" {
			stopped.life = 400 * time.Millisecond // main still lives when the shim is continued
		}
		plans = append(plans, stopped)
		if point == "sentinel.barred" {
			continue // this point is reached only after a restart of both
		}
		never := basic
		never.policy, never.codes = "Never", [][]int{{0}, {3}}[nevers%2]
		nevers++
		plans = append(plans, never)
		if basic.who == "main" {
			keep := basic
			keep.keep = true
			plans = append(plans, keep)
		}
	}
	for _, p := range plans {
		t.Run(fmt.Sprintf("%s, %s %v, keep %t", p.fault, p.policy, p.codes, p.keep), func(t *testing.T) {
			t.Parallel()
			pod := p.run(t)
			if !pod.reached() {
				t.Fatalf("the crash point was not reached:\n%s", pod.story())
			}
			pod.check()
		})
	}
	t.Logf("%d crash points, %d pods", len(points), len(plans))
}

// TestRandomKills does the same at random instants, to the programs as they are released.
func TestRandomKills(t *testing.T) {
	t.Parallel()
	seed := *seed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-seed %d", seed)
	programs := filepath.Dir(drive.Program("shim"))
	for n := range *kills {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, uint64(n)))
			var mu sync.Mutex // both containers draw
			until := func(limit time.Duration) time.Duration {
				mu.Lock()
				defer mu.Unlock()
				return time.Duration(random.Int64N(int64(limit)))
			}
			p := plan{
				fault: fault{
					who:   []string{"main", "sidecar"}[random.IntN(2)],
					stops: random.IntN(4) == 0,
					after: until(120 * time.Millisecond),
				},
				programs: programs,
				policy:   []string{"OnFailure", "OnFailure", "Never"}[random.IntN(3)],
				codes:    [][]int{{0}, {3, 0}, {3}}[random.IntN(3)],
				life:     []time.Duration{0, 20 * time.Millisecond, 100 * time.Millisecond}[random.IntN(3)],
				keep:     random.IntN(4) == 0,
				together: random.IntN(2) == 0,
				backOff:  func() time.Duration { return until(60 * time.Millisecond) },
			}
			switch {
			case p.policy == "Never":
				p.codes, p.keep = p.codes[:1], false
			case len(p.codes) == 1:
				p.codes = append(p.codes, 0)
			}
			p.run(t).check()
			if t.Failed() {
				t.Logf("again with: go test ./cmd -run 'TestRandomKills/^%d$' -args -seed %d -kills %d",
					n, seed, *kills)
			}
		})
	}
}
