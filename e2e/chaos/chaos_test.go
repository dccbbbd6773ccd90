// Package chaos runs hundreds of Jobs with wrapped mains and sidecars, and kills containers, wrappers, their commands,
// the kubelet and containerd at random. It compares how each Job ended with what its main says it did (see
// verdict_test.go). It also runs a hundred Jobs at once (see hundred_test.go). It needs the cluster of e2e/cluster
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
	minutes = flag.Float64("chaos.minutes", 20, "start new Jobs for this many `minutes`")
	seed    = flag.Uint64("chaos.seed", 0, "the seed of an earlier run repeats its Jobs and faults; 0 is a new seed")
)

const (
	atOnce = 14 // Jobs at the same time: two processors keep up with about as many

	// patience is how long a Job may take. That is longer than the back-offs of a plan (10 s, 20 s and 40 s, for main
	// and for its sidecars) and the outages in between.
	patience = 10 * time.Minute
	// cleanupTime is how long a deleted pod may take to leave the node. Its terminationGracePeriodSeconds is 30.
	cleanupTime = 2 * time.Minute
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
	t.Logf("seed %d: make chaos MINUTES=%v SEED=%[1]d repeats these Jobs and faults", *seed, *minutes)
	evidence := sharedDirectory(t, root)
	before := containers(t)

	duration := time.Duration(*minutes * float64(time.Minute))
	ctx, cancel := context.WithTimeout(context.Background(), duration)
	defer cancel()
	var all outages
	sum := newTally()
	var wait sync.WaitGroup
	wait.Go(func() { disruptNode(ctx, t, cluster, *seed, min(30*time.Second, duration/4), &all) })
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

	left := awaitCleanup(func() []string {
		return slices.DeleteFunc(containers(t), func(id string) bool { return slices.Contains(before, id) })
	})
	if len(left) > 0 {
		t.Errorf("all Jobs have ended, but %d containers or sandboxes are left on the node: %v", len(left), left)
	}
	t.Logf("%v\n%v\nseed %d", sum, &all, *seed)
}

// play runs the Job of a plan and judges how it ended.
func (p plan) play(t *testing.T, root, evidence string, all *outages, sum *tally) {
	directory := filepath.Join(evidence, fmt.Sprintf("job-%d", p.number))
	log := filepath.Join(root, directory, "log")
	makeWritable(t, filepath.Join(root, directory), log)

	ns := cluster.Namespace(t)
	j := &trial{plan: p, from: time.Now()}
	t.Cleanup(func() { // reports every failure, also that the Job hangs
		j.to = time.Now()
		if t.Failed() {
			text, _ := os.ReadFile(log)
			j.evidence, j.end, j.outages = string(text), ns.State(), all.between(j.from, j.to)
			t.Logf("seed %d, Job %d\n%s", *seed, p.number, j.report())
		}
	})
	ns.ApplyText(t, p.manifest(t, directory))
	ctx, cancel := context.WithCancel(context.Background())
	injected := make(chan []injection, 1)
	go func() { injected <- p.inject(ctx, ns, root) }()
	defer func() { // also if the Job hangs
		cancel()
		if j.injected == nil {
			j.injected = <-injected
		}
	}()
	j.end = ns.Until(t, patience, "the end of the Job and its pods", func(s *kube.State) bool {
		return kube.Outcome(s.Job(job)) != "" && !slices.ContainsFunc(s.Pods(job), func(pod *corev1.Pod) bool {
			return !s.Deleted(pod) && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed
		})
	})
	cancel()
	j.injected = append([]injection{}, <-injected...)
	j.to = time.Now()
	j.outages = all.between(j.from, j.to)
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	j.evidence = string(text)
	j.judge()
	sum.add(j)
	for _, violation := range j.violations {
		t.Error(violation)
	}
	if t.Failed() {
		return // the end of the test still describes the pods
	}
	t.Logf("%v: %s after %v", p, kube.Outcome(j.end.Job(job)), j.to.Sub(j.from).Round(time.Second))
	ns.DeleteJob(t, job)
	ns.Until(t, cleanupTime, "the Job's pods to be gone", func(s *kube.State) bool {
		return !slices.ContainsFunc(s.Pods(job), func(pod *corev1.Pod) bool { return !s.Deleted(pod) })
	})
	left := awaitCleanup(func() []string {
		var left []string
		for _, process := range processesOf(func(cgroup string) bool {
			return slices.ContainsFunc(j.end.Pods(job), func(pod *corev1.Pod) bool {
				return strings.Contains(cgroup, string(pod.UID))
			})
		}) {
			left = append(left, process.String())
		}
		return left
	})
	for _, process := range left {
		t.Errorf("the Job's pods are gone, but this process of theirs still runs: %s", process)
	}
}

// sharedDirectory makes a directory on the node that the pods of this test mount, and returns its path on the node.
// It is removed at the end of the test.
func sharedDirectory(t *testing.T, root string) string {
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

// makeWritable makes a directory that every user may write to, and such a file if file is not empty.
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

// awaitCleanup waits until left returns nothing, for at most cleanupTime, and returns what is left.
func awaitCleanup(left func() []string) []string {
	for deadline := time.Now().Add(cleanupTime); ; time.Sleep(time.Second) {
		if now := left(); len(now) == 0 || time.Now().After(deadline) {
			return now
		}
	}
}

// containers returns the IDs of all containers and sandboxes on the node.
func containers(t *testing.T) []string {
	t.Helper()
	return strings.Fields(cluster.Node(t, "ctr", "--namespace", "k8s.io", "containers", "ls", "--quiet"))
}
