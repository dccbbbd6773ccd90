package kube

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

// State is what the API server has reported about a namespace up to one instant. It keeps deleted objects.
type State struct {
	usable  bool // there is a default service account, so the API server accepts pods
	jobs    map[types.UID]*batchv1.Job
	pods    map[types.UID]*corev1.Pod
	deleted map[types.UID]bool
	runs    map[runKey]Run
}

type runKey struct {
	pod       types.UID
	container string
	attempt   int
}

// Run is one start-to-end of a container. A restarted container is a new run.
type Run struct {
	Pod, Container string
	Attempt        int    // how often the container had been restarted
	ID             string // the container runtime's, without the runtime's name
	Started        time.Time
	Ended          bool
	Finished       time.Time // this and the fields below are set when it has ended; the API's times are whole seconds
	ExitCode       int
	Reason         string // of the kubelet, for example Completed, Error or OOMKilled; see also Removed
	Message        string // what the container has written to /dev/termination-log
}

// String describes the run in one line.
func (r Run) String() string {
	if !r.Ended {
		return fmt.Sprintf("%s %s#%d running since %s", r.Pod, r.Container, r.Attempt, r.Started.Format(time.TimeOnly))
	}
	return fmt.Sprintf("%s %s#%d exited %d (%s), %s to %s", r.Pod, r.Container, r.Attempt, r.ExitCode, r.Reason,
		r.Started.Format(time.TimeOnly), r.Finished.Format(time.TimeOnly))
}

// removed is the reason of a run that the kubelet has ended, or whose container it has removed, for the action
// RestartAllContainers of another container (RestartingAllContainers in pkg/kubelet/kubelet_pods.go).
const removed = "RestartingAllContainers"

// Removed reports whether the kubelet has ended the run to restart all containers of the pod. Nobody knows when and
// how such a run ended: Finished is zero, and ExitCode is 137 whatever the code was.
func (r Run) Removed() bool { return r.Reason == removed }

// Jobs returns all Jobs, the oldest first.
func (s *State) Jobs() []*batchv1.Job {
	return slices.SortedFunc(maps.Values(s.jobs), func(a, b *batchv1.Job) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
	})
}

// Job returns the Job of this name, or nil if there is none.
func (s *State) Job(name string) *batchv1.Job {
	for _, job := range slices.Backward(s.Jobs()) {
		if job.Name == name {
			return job
		}
	}
	return nil
}

// Pods returns the pod of this name, or the pods of the Job of this name, the oldest first.
func (s *State) Pods(name string) []*corev1.Pod {
	var pods []*corev1.Pod
	for _, pod := range s.pods {
		if pod.Name == name || pod.Labels[batchv1.JobNameLabel] == name {
			pods = append(pods, pod)
		}
	}
	slices.SortFunc(pods, func(a, b *corev1.Pod) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
	})
	return pods
}

// Deleted reports whether the pod is gone from the API server.
func (s *State) Deleted(pod *corev1.Pod) bool { return s.deleted[pod.UID] }

// Runs returns the runs of a container in the pod of this name or the pods of the Job of this name: pod by
// pod, in the order of their start. If container is empty, it returns those of all containers and init
// containers.
func (s *State) Runs(name, container string) []Run {
	var runs []Run
	for _, pod := range s.Pods(name) {
		var ofPod []Run
		for key, run := range s.runs {
			if key.pod == pod.UID && (container == "" || key.container == container) {
				ofPod = append(ofPod, run)
			}
		}
		slices.SortFunc(ofPod, func(a, b Run) int {
			return cmp.Or(a.Started.Compare(b.Started), strings.Compare(a.Container, b.Container), a.Attempt-b.Attempt)
		})
		runs = append(runs, ofPod...)
	}
	return runs
}

// Last returns the last of Runs, and false if there is none.
func (s *State) Last(name, container string) (Run, bool) {
	runs := s.Runs(name, container)
	if len(runs) == 0 {
		return Run{}, false
	}
	return runs[len(runs)-1], true
}

// Restarts returns the restart counts of a pod's containers and native sidecars, by name.
func Restarts(pod *corev1.Pod) map[string]int {
	restarts := map[string]int{}
	for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if !slices.ContainsFunc(pod.Spec.InitContainers, func(c corev1.Container) bool {
			return c.Name == status.Name && !IsNativeSidecar(c)
		}) {
			restarts[status.Name] = int(status.RestartCount)
		}
	}
	return restarts
}

// IsNativeSidecar reports whether an init container is a native sidecar: one that runs beside the containers.
func IsNativeSidecar(c corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// Outcome returns how a Job ended: "Complete", or "Failed: " and the reason of the condition, for example
// "Failed: BackoffLimitExceeded". It is empty if the Job has not ended or is nil.
func Outcome(job *batchv1.Job) string {
	if job == nil {
		return ""
	}
	for _, condition := range job.Status.Conditions {
		switch {
		case condition.Status != corev1.ConditionTrue:
		case condition.Type == batchv1.JobComplete:
			return "Complete"
		case condition.Type == batchv1.JobFailed:
			return "Failed: " + condition.Reason
		}
	}
	return ""
}

// observe updates the state with an object that a watch has reported.
func (s *State) observe(object any, deleted bool) {
	if last, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = last.Obj
	}
	switch object := object.(type) {
	case *corev1.ServiceAccount:
		s.usable = s.usable || object.Name == "default"
	case *batchv1.Job:
		s.jobs[object.UID] = object
	case *corev1.Pod:
		s.pods[object.UID] = object
		s.deleted[object.UID] = deleted
		for _, status := range slices.Concat(object.Status.InitContainerStatuses, object.Status.ContainerStatuses) {
			s.observeRun(object, status.Name, int(status.RestartCount), status.State)
			before := int(status.RestartCount) - 1
			if last := status.LastTerminationState.Terminated; status.State.Waiting != nil &&
				(last == nil || last.Reason != removed) {
				before++ // RestartCount does not include the restart that it waits for
			}
			s.observeRun(object, status.Name, before, status.LastTerminationState)
		}
	}
}

func (s *State) observeRun(pod *corev1.Pod, container string, attempt int, state corev1.ContainerState) {
	key := runKey{pod.UID, container, attempt}
	run := Run{Pod: pod.Name, Container: container, Attempt: attempt}
	switch {
	case state.Running != nil:
		run.Started = state.Running.StartedAt.Time
		for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
			if status.Name == container {
				run.ID = runtimeID(status.ContainerID)
			}
		}
	case state.Terminated != nil:
		end := state.Terminated
		run.ID, run.Started = runtimeID(end.ContainerID), end.StartedAt.Time
		if run.ID == "" {
			// The kubelet has lost or removed the container. It says so also of a run whose end it has reported, and
			// of a container that never ran.
			seen, ran := s.runs[key]
			if !ran || seen.Ended {
				return
			}
			run.ID, run.Started = seen.ID, seen.Started
		}
		run.Ended, run.Finished = true, end.FinishedAt.Time
		run.ExitCode, run.Reason, run.Message = int(end.ExitCode), end.Reason, end.Message
	default:
		return
	}
	s.runs[key] = run
}

// runtimeID returns a container's ID without the name of the runtime, for example containerd://.
func runtimeID(id string) string {
	_, id, _ = strings.Cut(id, "://")
	return id
}

// clone returns a copy that observe does not change. The objects are shared, because nothing changes them.
func (s *State) clone() *State {
	return &State{
		usable: s.usable, jobs: maps.Clone(s.jobs), pods: maps.Clone(s.pods),
		deleted: maps.Clone(s.deleted), runs: maps.Clone(s.runs),
	}
}
