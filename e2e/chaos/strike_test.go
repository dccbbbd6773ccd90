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

// blow is a strike that was carried out.
type blow struct {
	strike
	at  time.Time
	run kube.Run // that it hit
	err error    // why it hit nothing: what it was meant for had ended
}

func (b blow) String() string {
	text := fmt.Sprintf("%s %v: run %d of %s in %s", clock(b.at), b.strike, b.run.Attempt, b.run.Container, b.run.Pod)
	if b.err != nil {
		text += ": too late: " + b.err.Error()
	}
	return text
}

func clock(at time.Time) string { return at.UTC().Format("15:04:05.000") }

// carryOut carries out the strikes of a plan one after the other, until the context ends.
func (p plan) carryOut(ctx context.Context, ns *kube.Namespace, root string) []blow {
	var blows []blow
	var struck []string // runs: each blow of a plan is for another
	for _, s := range p.strikes {
		run, uid, ok := nextRun(ctx, ns, s.container(), struck)
		if !ok {
			return blows
		}
		struck = append(struck, run.ID)
		if s.atEnd && !untilThere(ctx, filepath.Join(root, "var/lib/kubelet/pods", string(uid), "volumes/kubernetes.io~empty-dir/pod", p.name+"-terminated")) {
			return blows
		}
		if !sleep(ctx, s.delay) {
			return blows
		}
		at := time.Now()
		blows = append(blows, blow{s, at, run, s.hit(ns, run)})
	}
	return blows
}

// nextRun waits for a run of the container that has not been struck yet.
func nextRun(ctx context.Context, ns *kube.Namespace, container string, struck []string) (kube.Run, types.UID, bool) {
	for {
		state, more := ns.Observe()
		for _, pod := range state.Pods(job) {
			run, ok := state.Last(pod.Name, container)
			if ok && !run.Ended && !state.Deleted(pod) && !slices.Contains(struck, run.ID) {
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

// untilThere waits for a file, and sees it soon enough for a strike between main's end and its sidecars'.
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

// sleep returns false if the context ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

func (s strike) hit(ns *kube.Namespace, run kube.Run) error {
	switch s.target {
	case mainContainer, sidecarContainer:
		return ns.TryKill(run)
	case wholePod:
		return ns.TryDeletePod(run.Pod)
	}
	processes := processesOf(func(cgroup string) bool { return strings.Contains(cgroup, run.ID) })
	i := slices.IndexFunc(processes, func(p process) bool { return p.is("sentinel") || p.is("shim") })
	if i < 0 {
		return fmt.Errorf("no wrapper in its container")
	}
	victim := processes[i]
	if s.target == mainProcess || s.target == sidecarProcess {
		i := slices.IndexFunc(processes, func(p process) bool { return p.parent == victim.pid })
		if i < 0 {
			return fmt.Errorf("the wrapper has no command")
		}
		victim = processes[i]
	}
	return victim.kill()
}

// process is one of this machine's, the node's among them.
type process struct {
	pid, parent int
	cgroup      string
	words       []string // its command line
}

func (p process) is(program string) bool {
	return len(p.words) > 0 && filepath.Base(p.words[0]) == program
}

func (p process) String() string { return fmt.Sprintf("%d %s", p.pid, strings.Join(p.words, " ")) }

// processesOf returns the processes in such cgroups. A container's is named after its ID, in a pod's named after its UID.
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
			continue // it has ended while we look
		}
		after := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		p.parent, _ = strconv.Atoi(after[1])
		line, _ := os.ReadFile(directory + "/cmdline")
		p.words = strings.FieldsFunc(string(line), func(r rune) bool { return r == 0 })
		if after[0] != "Z" {
			found = append(found, p)
		}
	}
	return found
}

// kill sends SIGKILL, through a descriptor of the process, to no other that may have its number by now.
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

// outage is a time in which daemons of the node were away.
type outage struct {
	verb     string // kill or stop
	daemons  []string
	from, to time.Time
}

func (o outage) String() string {
	return fmt.Sprintf("%s %s of %s, started again after %.1fs", clock(o.from), o.verb, strings.Join(o.daemons, " and "), o.to.Sub(o.from).Seconds())
}

// outages are those of the node so far.
type outages struct {
	mu   sync.Mutex
	list []outage // the last may be under way: then to is zero
}

// between returns those in whose time, or in the seconds that the node needs to come to itself, something of this
// time falls.
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

// String counts them by what was done to which daemons.
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

// strikeNode takes daemons away from the node and starts them again, until the context ends: then all are there.
func strikeNode(ctx context.Context, t *testing.T, cluster *kube.Cluster, seed uint64, pause time.Duration, all *outages) {
	r := rand.New(rand.NewPCG(seed, 1<<63))
	for sleep(ctx, pause/2+time.Duration(r.Int64N(int64(pause)))) {
		o := outage{
			verb:    []string{"kill", "kill", "stop"}[r.IntN(3)],
			daemons: [][]string{{"kubelet"}, {"kubelet"}, {"containerd"}, {"containerd"}, {"containerd", "kubelet"}}[r.IntN(5)],
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
