package kube

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
)

// Namespace is the namespace of one test. An error in one of its methods fails the test, except in those whose name
// begins with Try.
type Namespace struct {
	Name    string
	cluster *Cluster

	mu      sync.Mutex
	state   State
	event   chan struct{}        // closed and replaced when the state has changed
	volumes map[types.UID]string // the last listing of a pod's volumes
}

func newNamespace(c *Cluster, name string) *Namespace {
	return &Namespace{
		Name: name, cluster: c,
		state: State{
			jobs: map[types.UID]*batchv1.Job{}, pods: map[types.UID]*corev1.Pod{},
			deleted: map[types.UID]bool{}, runs: map[runKey]Run{},
		},
		event:   make(chan struct{}),
		volumes: map[types.UID]string{},
	}
}

func (ns *Namespace) observe(object any, deleted bool) {
	if pod, ok := object.(*corev1.Pod); ok {
		ns.listVolumes(pod)
	}
	ns.mu.Lock()
	defer ns.mu.Unlock()
	ns.state.observe(object, deleted)
	close(ns.event)
	ns.event = make(chan struct{})
}

// State returns the latest state.
func (ns *Namespace) State() *State {
	state, _ := ns.Observe()
	return state
}

// Observe returns the latest state, and a channel that is closed when there is a newer one.
func (ns *Namespace) Observe() (*State, <-chan struct{}) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	return ns.state.clone(), ns.event
}

// Until waits until the condition holds, and returns the first state in which it does. It calls condition
// whenever the API server reports a change. After the timeout it fails the test with a message that
// contains what, for example "main to run".
func (ns *Namespace) Until(t testing.TB, timeout time.Duration, what string, condition func(*State) bool) *State {
	t.Helper()
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	for {
		state, event := ns.Observe()
		if condition(state) {
			return state
		}
		select {
		case <-event:
		case <-deadline.C:
			t.Fatalf("waited %v for %s, which did not happen", timeout, what)
		}
	}
}

// UntilEnd waits until the Job of this name has ended, and returns the state then. For how it ended, see Outcome.
func (ns *Namespace) UntilEnd(t testing.TB, timeout time.Duration, job string) *State {
	t.Helper()
	return ns.Until(t, timeout, "the end of Job "+job, func(s *State) bool { return Outcome(s.Job(job)) != "" })
}

// UntilRunning waits until the container is in the given run (0 is its first) in the pod of this name, or
// in a pod of the Job of this name, and returns it.
func (ns *Namespace) UntilRunning(t testing.TB, timeout time.Duration, name, container string, attempt int) Run {
	t.Helper()
	var found Run
	ns.Until(t, timeout, fmt.Sprintf("%s in %s to be in its run %d", container, name, attempt), func(s *State) bool {
		for _, run := range s.Runs(name, container) {
			if run.Attempt == attempt && !run.Ended {
				found = run
				return true
			}
		}
		return false
	})
	return found
}

// UntilLog waits until the container has written a line that contains text, in its present or a later run.
// It returns the time at which the container runtime received the line. The container is in the pod of this
// name, or in the latest pod of the Job of this name.
func (ns *Namespace) UntilLog(t testing.TB, timeout time.Duration, name, container, text string) time.Time {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	what := fmt.Sprintf("%s in %s to log %q", container, name, text)
	deadline, _ := ctx.Deadline()
	silent := "" // the run that has ended without such a line
	for {
		run, _ := ns.Until(t, time.Until(deadline), what, func(s *State) bool {
			run, ok := s.Last(name, container)
			return ok && run.ID != silent
		}).Last(name, container)
		at, err := ns.followLog(ctx, run, text)
		switch {
		case err == nil:
			return at
		case ctx.Err() != nil:
			t.Fatalf("waited %v for %s, which did not happen; the last error of its log: %v", timeout, what, err)
		case run.Ended && errors.Is(err, io.EOF):
			silent = run.ID
		default:
			// Either the run ends, and the state will say so in a moment; or a daemon of the node was
			// restarted, which cuts off the log of a live run without an event.
			ns.nextEvent(time.Second)
		}
	}
}

// nextEvent waits for the next change of the state, for at most the timeout.
func (ns *Namespace) nextEvent(timeout time.Duration) {
	_, event := ns.Observe()
	select {
	case <-event:
	case <-time.After(timeout):
	}
}

// followLog reads the log of a run until a line contains text. The error is io.EOF if the log ends first.
func (ns *Namespace) followLog(ctx context.Context, run Run, text string) (time.Time, error) {
	stream, err := ns.cluster.client.CoreV1().Pods(ns.Name).GetLogs(run.Pod, &corev1.PodLogOptions{
		Container: run.Container, Follow: true, Timestamps: true,
	}).Stream(ctx)
	if err != nil {
		return time.Time{}, err
	}
	defer stream.Close()
	lines := bufio.NewReader(stream)
	for {
		line, err := lines.ReadString('\n')
		stamp, message, _ := strings.Cut(line, " ")
		if strings.Contains(message, text) {
			return time.Parse(time.RFC3339Nano, stamp)
		}
		if err != nil {
			return time.Time{}, err
		}
	}
}

// Log returns what a container has written to its standard output and error in its latest run, or, with
// previous, in the run before that.
func (ns *Namespace) Log(t testing.TB, pod, container string, previous bool) string {
	t.Helper()
	log, err := ns.log(pod, container, previous)
	if err != nil {
		t.Fatalf("reading the log of %s in %s: %v", container, pod, err)
	}
	return log
}

func (ns *Namespace) log(pod, container string, previous bool) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	limit := int64(256 << 10)
	log, err := ns.cluster.client.CoreV1().Pods(ns.Name).GetLogs(pod, &corev1.PodLogOptions{
		Container: container, Previous: previous, LimitBytes: &limit,
	}).DoRaw(ctx)
	return string(log), err
}

// Exec runs a command in a container and returns its standard output. It fails the test if the command does
// not exit with 0.
func (ns *Namespace) Exec(t testing.TB, pod, container string, command ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	options := &corev1.PodExecOptions{Container: container, Command: command, Stdout: true, Stderr: true}
	url := ns.cluster.client.CoreV1().RESTClient().Post().
		Namespace(ns.Name).Resource("pods").Name(pod).SubResource("exec").
		VersionedParams(options, scheme.ParameterCodec).URL()
	executor, err := remotecommand.NewWebSocketExecutor(ns.cluster.config, "GET", url.String())
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	streams := remotecommand.StreamOptions{Stdout: &stdout, Stderr: &stderr}
	if err := executor.StreamWithContext(ctx, streams); err != nil {
		t.Fatalf("%s in %s of %s: %v\n%s", strings.Join(command, " "), container, pod, err, stderr.String())
	}
	return stdout.String()
}

// Kill kills every process of a run at once, as the kernel's OOM killer does on cgroup v2 when a
// container exceeds its memory limit. It skips the test if the cluster is not the one of e2e/cluster.
func (ns *Namespace) Kill(t testing.TB, run Run) {
	t.Helper()
	ns.cluster.needScripts(t)
	if err := ns.TryKill(run); err != nil {
		t.Fatal(err)
	}
}

// TryKill is Kill for a run that may already have ended.
func (ns *Namespace) TryKill(run Run) error {
	_, err := ns.cluster.TryNode("ctr", "--namespace", "k8s.io",
		"tasks", "kill", "--all", "--signal", "SIGKILL", run.ID)
	return err
}

// DeletePod deletes a pod as kubectl does, with the pod's own terminationGracePeriodSeconds. It does not wait
// until the pod is gone (see State.Deleted).
func (ns *Namespace) DeletePod(t testing.TB, name string) {
	t.Helper()
	if err := ns.TryDeletePod(name); err != nil {
		t.Fatalf("deleting pod %s: %v", name, err)
	}
}

// TryDeletePod is DeletePod for a pod that may be gone already.
func (ns *Namespace) TryDeletePod(name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	return ns.cluster.client.CoreV1().Pods(ns.Name).Delete(ctx, name, metav1.DeleteOptions{})
}

// DeleteJob deletes a Job and its pods. It does not wait until the pods are gone (see State.Deleted).
func (ns *Namespace) DeleteJob(t testing.TB, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	propagation := metav1.DeletePropagationBackground
	options := metav1.DeleteOptions{PropagationPolicy: &propagation}
	if err := ns.cluster.client.BatchV1().Jobs(ns.Name).Delete(ctx, name, options); err != nil {
		t.Fatalf("deleting Job %s: %v", name, err)
	}
}
