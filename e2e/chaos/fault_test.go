package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/sentinel-shim/sentinel-shim/e2e/kube"
)

// injection is a fault that was injected.
type injection struct {
	fault
	at  time.Time
	run kube.Run // the run that it was meant for
	err error    // why it had no effect: its target had ended
}

func (i injection) String() string {
	text := fmt.Sprintf("%s %v: run %d of %s in %s", clock(i.at), i.fault, i.run.Attempt, i.run.Container, i.run.Pod)
	if i.err != nil {
		text += ": too late: " + i.err.Error()
	}
	return text
}

func clock(at time.Time) string { return at.UTC().Format("15:04:05.000") }

// inject injects the faults of a plan one after the other, until the context ends. It returns those injected.
func (p plan) inject(ctx context.Context, ns *kube.Namespace, root string) []injection {
	var injected []injection
	var hit []string // IDs of runs: each fault of a plan is for another run
	for _, f := range p.faults {
		run, uid, ok := nextRun(ctx, ns, f.container(), hit)
		if !ok {
			return injected
		}
		hit = append(hit, run.ID)
		volume := filepath.Join(root, "var/lib/kubelet/pods", string(uid), "volumes/kubernetes.io~empty-dir/pod")
		if f.atEnd && !untilThere(ctx, filepath.Join(volume, p.name+"-terminated")) {
			return injected
		}
		if !sleep(ctx, f.delay) {
			return injected
		}
		at := time.Now()
		injected = append(injected, injection{f, at, run, f.hit(ns, run)})
	}
	return injected
}

// nextRun waits for a live run of the container whose ID is not in hit. It returns false if the context ends first.
func nextRun(ctx context.Context, ns *kube.Namespace, container string, hit []string) (kube.Run, types.UID, bool) {
	for {
		state, more := ns.Observe()
		for _, pod := range state.Pods(job) {
			run, ok := state.Last(pod.Name, container)
			if ok && !run.Ended && !state.Deleted(pod) && !slices.Contains(hit, run.ID) {
				return run, pod.UID, true
			}
		}
		select {
		case <-more:
		case <-ctx.Done():
			return kube.Run{}, "", false
		}
	}
}

// untilThere waits until a file exists. It looks every 5 ms, so that a fault can come between the end of main and that
// of its sidecars. It returns false if the context ends first.
func untilThere(ctx context.Context, path string) bool {
	for {
		if _, err := os.Lstat(path); err == nil {
			return true
		}
		if !sleep(ctx, 5*time.Millisecond) {
			return false
		}
	}
}

// sleep waits for a time. It returns false if the context ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// hit kills the fault's target in a run. The error says why nothing was killed.
func (f fault) hit(ns *kube.Namespace, run kube.Run) error {
	switch f.target {
	case mainContainer, sidecarContainer:
		return ns.TryKill(run)
	case wholePod:
		return ns.TryDeletePod(run.Pod)
	}
	processes := processesOf(func(cgroup string) bool { return strings.Contains(cgroup, run.ID) })
	i := slices.IndexFunc(processes, func(p process) bool { return p.is("sentinel") || p.is("shim") })
	if i < 0 {
		return fmt.Errorf("no wrapper runs in its container")
	}
	victim := processes[i]
	if f.target == mainProcess || f.target == sidecarProcess {
		i := slices.IndexFunc(processes, func(p process) bool { return p.parent == victim.pid })
		if i < 0 {
			return fmt.Errorf("the wrapper's command does not run")
		}
		victim = processes[i]
	}
	return victim.kill()
}

// process is a process of this machine, which includes those of the node.
type process struct {
	pid, parent int
	cgroup      string
	args        []string // its command line
}

func (p process) is(program string) bool {
	return len(p.args) > 0 && filepath.Base(p.args[0]) == program
}

func (p process) String() string { return fmt.Sprintf("%d %s", p.pid, strings.Join(p.args, " ")) }

// processesOf returns the processes whose /proc/PID/cgroup satisfies in. The cgroup of a container has the container's
// ID in its path, and before that the UID of its pod.
func processesOf(in func(cgroup string) bool) []process {
	var found []process
	directories, _ := filepath.Glob("/proc/[0-9]*")
	for _, directory := range directories {
		cgroup, err := os.ReadFile(directory + "/cgroup")
		if err != nil || !in(string(cgroup)) {
			continue
		}
		p := process{cgroup: string(cgroup)}
		p.pid, _ = strconv.Atoi(filepath.Base(directory))
		stat, err := os.ReadFile(directory + "/stat")
		if err != nil {
			continue // it has just ended
		}
		after := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		p.parent, _ = strconv.Atoi(after[1])
		line, _ := os.ReadFile(directory + "/cmdline")
		p.args = strings.FieldsFunc(string(line), func(r rune) bool { return r == 0 })
		if after[0] != "Z" {
			found = append(found, p)
		}
	}
	return found
}

// kill sends SIGKILL through a pidfd, so that it cannot hit another process that has the PID by now.
func (p process) kill() error {
	handle, err := os.FindProcess(p.pid)
	if err != nil {
		return err
	}
	defer handle.Release()
	if cgroup, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.pid)); string(cgroup) != p.cgroup {
		return os.ErrProcessDone
	}
	return handle.Signal(syscall.SIGKILL)
}

// outage is a time in which daemons of the node did not run.
type outage struct {
	verb     string // kill or stop
	daemons  []string
	from, to time.Time
}

func (o outage) String() string {
	return fmt.Sprintf("%s %s of %s, started again after %.1fs",
		clock(o.from), o.verb, strings.Join(o.daemons, " and "), o.to.Sub(o.from).Seconds())
}

// outages are all outages so far.
type outages struct {
	mu   sync.Mutex
	list []outage // the last may still last: then its field to is zero
}

// between returns the outages that overlap with the given time. The seconds in which the node recovers belong to an
// outage.
func (o *outages) between(from, to time.Time) []outage {
	const recovery = 5 * time.Second
	o.mu.Lock()
	defer o.mu.Unlock()
	var found []outage
	for _, one := range o.list {
		if one.from.Before(to) && (one.to.IsZero() || one.to.Add(recovery).After(from)) {
			found = append(found, one)
		}
	}
	return found
}

// String returns how often which daemons were killed or stopped.
func (o *outages) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	counts := map[string]int{}
	for _, one := range o.list {
		counts[fmt.Sprintf("%s of %s", one.verb, strings.Join(one.daemons, " and "))]++
	}
	text := fmt.Sprintf("%d outages", len(o.list))
	for _, what := range sortedKeys(counts) {
		text += fmt.Sprintf("\n  %-30s %5d", what, counts[what])
	}
	return text
}

// disruptNode kills or stops daemons of the node and starts them again, until the context ends. All of them run when
// it returns.
func disruptNode(
	ctx context.Context, t *testing.T, cluster *kube.Cluster, seed uint64, pause time.Duration, all *outages,
) {
	r := rand.New(rand.NewPCG(seed, 1<<63))
	choices := [][]string{{"kubelet"}, {"kubelet"}, {"containerd"}, {"containerd"}, {"containerd", "kubelet"}}
	for sleep(ctx, pause/2+time.Duration(r.Int64N(int64(pause)))) {
		o := outage{
			verb:    []string{"kill", "kill", "stop"}[r.IntN(3)],
			daemons: choices[r.IntN(5)],
			from:    time.Now(),
		}
		away := time.Duration(r.Int64N(int64(6 * time.Second)))
		all.mu.Lock()
		all.list = append(all.list, o)
		all.mu.Unlock()
		do := func(verb string) {
			for _, daemon := range o.daemons {
				if err := cluster.TryDaemon(verb, daemon); err != nil {
					t.Error(err)
				}
			}
		}
		do(o.verb)
		sleep(ctx, away)
		do("start")
		o.to = time.Now()
		all.mu.Lock()
		all.list[len(all.list)-1] = o
		all.mu.Unlock()
		t.Log(o)
	}
}
