// Package chaos plays hundreds of Jobs with wrapped mains and sidecars while containers, wrappers, their commands,
// the kubelet and containerd are killed at random, and judges what each Job came to by what its main says it did:
// see earned_test.go. And it plays a hundred Jobs at once: see hundred_test.go. It needs the cluster of e2e/cluster
// for itself. Run it with make chaos.
package chaos

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sentinel-shim/sentinel-shim/e2e/kube"
)

var (
	minutes = flag.Float64("chaos.minutes", 20, "for how long new Jobs are started")
	seed    = flag.Uint64("chaos.seed", 0, "that of an earlier run chooses the same Jobs and strikes again; 0 is a new one")
)

const (
	atOnce = 14 // Jobs; about as many as two processors keep up with

	// patience is how long a Job may take. It is more than the back-offs of a plan, 10 s, 20 s and 40 s, for main and
	// for its sidecars, and than the outages meanwhile.
	patience = 10 * time.Minute
	// tidy is how long a deleted pod may take to leave the node. Its terminationGracePeriodSeconds are 30.
	tidy = 2 * time.Minute
)

var cluster *kube.Cluster

func TestMain(m *testing.M) {
	flag.Parse()
	if *seed == 0 {
		*seed = rand.Uint64()>>1 | 1
	}
	var err error
	if cluster, err = kube.Connect(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestChaos(t *testing.T) {
	root := cluster.Root(t)
	t.Logf("seed %d: make chaos MINUTES=%v SEED=%[1]d chooses the same", *seed, *minutes)
	evidence := evidenceFolder(t, root)
	before := containers(t)

	duration := time.Duration(*minutes * float64(time.Minute))
	ctx, cancel := context.WithTimeout(context.Background(), duration)
	defer cancel()
	var all outages
	sum := newTally()
	var wait sync.WaitGroup
	wait.Go(func() { strikeNode(ctx, t, cluster, *seed, min(30*time.Second, duration/4), &all) })
	var number atomic.Int64
	for range atOnce {
		wait.Go(func() {
			for ctx.Err() == nil {
				p := newPlan(*seed, int(number.Add(1)))
				t.Run(fmt.Sprintf("job-%d", p.number), func(t *testing.T) { p.play(t, root, evidence, &all, sum) })
			}
		})
	}
	wait.Wait()

	left := untilTidy(func() []string {
		return slices.DeleteFunc(containers(t), func(id string) bool { return slices.Contains(before, id) })
	})
	if len(left) > 0 {
		t.Errorf("%d containers or sandboxes are left on the node: %v", len(left), left)
	}
	t.Logf("%v\n%v\nseed %d", sum, &all, *seed)
}

// play plays a plan and judges it.
func (p plan) play(t *testing.T, root, evidence string, all *outages, sum *tally) {
	directory := filepath.Join(evidence, fmt.Sprintf("job-%d", p.number))
	log := filepath.Join(root, directory, "log")
	makeWritable(t, filepath.Join(root, directory), log)

	ns := cluster.Namespace(t)
	j := &trial{plan: p, from: time.Now()}
	t.Cleanup(func() { // and whatever has failed, its story is told
		j.to = time.Now()
		if t.Failed() {
			text, _ := os.ReadFile(log)
			j.evidence, j.end, j.outages = string(text), ns.State(), all.between(j.from, j.to)
			t.Logf("seed %d, Job %d\n%s", *seed, p.number, j.story())
		}
	})
	ns.ApplyText(t, p.manifest(t, directory))
	ctx, cancel := context.WithCancel(context.Background())
	struck := make(chan []blow, 1)
	go func() { struck <- p.carryOut(ctx, ns, root) }()
	defer func() { // also if the Job hangs
		cancel()
		if j.blows == nil {
			j.blows = <-struck
		}
	}()
	j.end = ns.Until(t, patience, "the end of the Job and its pods", func(s *kube.State) bool {
		return kube.Outcome(s.Job(job)) != "" && !slices.ContainsFunc(s.Pods(job), func(pod *corev1.Pod) bool {
			return !s.Deleted(pod) && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed
		})
	})
	cancel()
	j.blows = append([]blow{}, <-struck...)
	j.to = time.Now()
	j.outages = all.between(j.from, j.to)
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	j.evidence = string(text)
	j.judge()
	sum.add(j)
	for _, wrong := range j.wrong {
		t.Error(wrong)
	}
	if t.Failed() {
		return // and its pods are left for who asks why
	}
	t.Logf("%v: %s after %v", p, kube.Outcome(j.end.Job(job)), j.to.Sub(j.from).Round(time.Second))
	ns.DeleteJob(t, job)
	ns.Until(t, tidy, "its pods to be gone", func(s *kube.State) bool {
		return !slices.ContainsFunc(s.Pods(job), func(pod *corev1.Pod) bool { return !s.Deleted(pod) })
	})
	left := untilTidy(func() []string {
		var left []string
		for _, process := range processesOf(func(cgroup string) bool {
			return slices.ContainsFunc(j.end.Pods(job), func(pod *corev1.Pod) bool { return strings.Contains(cgroup, string(pod.UID)) })
		}) {
			left = append(left, process.String())
		}
		return left
	})
	for _, process := range left {
		t.Errorf("its pods are gone, and this process is left: %s", process)
	}
}

// evidenceFolder is a directory of the node for this test alone, by its path in the node.
func evidenceFolder(t *testing.T, root string) string {
	t.Helper()
	directory, err := os.MkdirTemp(filepath.Join(root, "var/lib"), "chaos-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(directory); err != nil {
			t.Error(err)
		}
	})
	makeWritable(t, directory, "")
	return filepath.Join("/var/lib", filepath.Base(directory))
}

// makeWritable makes a directory, and a file in it if one is named, that every user may write to.
func makeWritable(t *testing.T, directory, file string) {
	t.Helper()
	errs := []error{os.MkdirAll(directory, 0o777), os.Chmod(directory, 0o777)}
	if file != "" {
		errs = append(errs, os.WriteFile(file, nil, 0o666), os.Chmod(file, 0o666))
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// untilTidy asks what is left until nothing is, as long as a pod may take.
func untilTidy(left func() []string) []string {
	for deadline := time.Now().Add(tidy); ; time.Sleep(time.Second) {
		if now := left(); len(now) == 0 || time.Now().After(deadline) {
			return now
		}
	}
}

// containers returns the IDs of all containers and sandboxes that the container runtime knows.
func containers(t *testing.T) []string {
	t.Helper()
	return strings.Fields(cluster.Node(t, "ctr", "--namespace", "k8s.io", "containers", "ls", "--quiet"))
}
