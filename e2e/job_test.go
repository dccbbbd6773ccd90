package e2e

import (
	"encoding/json"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sentinel-shim/sentinel-shim/e2e/kube"
)

// The Job of most scenarios: main works through its sidecar, a web server that is called the proxy.

const (
	onFailure = corev1.RestartPolicyOnFailure
	never     = corev1.RestartPolicyNever

	complete             = "Complete"
	backoffLimitExceeded = "Failed: BackoffLimitExceeded"

	image    = "ghcr.io/sentinel-shim/sentinel-shim:v0.1.0"
	busybox  = "busybox:1.35"
	scenario = "scenario"      // the Job's name
	patience = 4 * time.Minute // a Job that takes longer counts as hanging

	// promptly is how long after main a sidecar may end. It is less than the shim's grace period, so that a
	// sidecar which had to be killed fails the test.
	promptly = 9 * time.Second

	// query works through the proxy.
	query = "wget -q -O /dev/null http://127.0.0.1:8080/passwd || exit 99; "
	// wait waits for a signal. Unlike sleep in the foreground, it lets the shell run its traps at once.
	wait = "sleep 600 & wait $!; "
)

var server = []string{"httpd", "-f", "-p", "8080", "-h", "/etc"}

// proxy is the sidecar. Its shim has the given flags.
func proxy(flags string) corev1.Container { return sidecar("proxy", flags, server...) }

func sidecar(name, flags string, command ...string) corev1.Container {
	return wrapped(name, "/tmp/pod/shim "+flags, command)
}

// worker is a main that starts a shell script when the proxy answers.
func worker(script string) corev1.Container {
	return wrapped("main", "/tmp/pod/sentinel --wait-for tcp://127.0.0.1:8080", []string{"sh", "-c", script})
}

// loner is a main that does not need the proxy.
func loner(script string) corev1.Container {
	return wrapped("main", "/tmp/pod/sentinel", []string{"sh", "-c", script})
}

func wrapped(name, wrapper string, command []string) corev1.Container {
	return corev1.Container{
		Name: name, Image: busybox,
		Command:      append(strings.Fields(wrapper), "--"),
		Args:         command,
		VolumeMounts: []corev1.VolumeMount{{Name: "pod", MountPath: "/tmp/pod"}},
	}
}

// after makes a container run a shell script before its program.
func after(script string, c corev1.Container) corev1.Container {
	c.Args = slices.Concat([]string{script + `exec "$@"`, "sh"}, c.Command, c.Args)
	c.Command = []string{"sh", "-c"}
	return c
}

// failing is a shell command that exits with 3 in the first attempts of a pod, and does nothing in later ones.
// It counts the attempts separately for each $0.
func failing(attempts string) string {
	return "echo >>/tmp/pod/attempts-$0; [ $(wc -l </tmp/pod/attempts-$0) -gt " + attempts + " ] || exit 3; "
}

// newJob is a Job with these containers, and an init container that copies the programs.
func newJob(policy corev1.RestartPolicy, backoffLimit int32, containers ...corev1.Container) *batchv1.Job {
	return &batchv1.Job{
		TypeMeta:   metav1.TypeMeta{APIVersion: "batch/v1", Kind: "Job"},
		ObjectMeta: metav1.ObjectMeta{Name: scenario},
		Spec: batchv1.JobSpec{
			BackoffLimit: &backoffLimit,
			Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
				RestartPolicy: policy,
				InitContainers: []corev1.Container{{
					Name: "sentinel-shim", Image: image, Args: []string{"--copy-to", "/tmp/pod"},
					VolumeMounts: []corev1.VolumeMount{{Name: "pod", MountPath: "/tmp/pod"}},
				}},
				Containers: containers,
				Volumes: []corev1.Volume{{
					Name: "pod", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}},
				}},
			}},
		},
	}
}

// form is a way to have sidecars in a pod: it changes a Job of newJob.
type form func(*batchv1.Job) *batchv1.Job

// inBothForms runs a test with sidecars that are plain containers, and with native sidecars.
func inBothForms(t *testing.T, test func(*testing.T, form)) {
	t.Helper()
	t.Run("Plain", func(t *testing.T) {
		t.Parallel()
		test(t, func(job *batchv1.Job) *batchv1.Job { return job })
	})
	t.Run("Native", func(t *testing.T) {
		t.Parallel()
		test(t, native)
	})
}

// native makes the sidecars of a Job native ones.
func native(job *batchv1.Job) *batchv1.Job {
	pod := &job.Spec.Template.Spec
	always := corev1.ContainerRestartPolicyAlways
	pod.Containers = slices.DeleteFunc(pod.Containers, func(c corev1.Container) bool {
		if isMain(c) {
			return false
		}
		c.RestartPolicy = &always
		c.Env = append(c.Env, corev1.EnvVar{Name: "SHIM_NATIVE_SIDECAR", Value: "true"})
		if pod.RestartPolicy == never {
			c.Env = append(c.Env, corev1.EnvVar{Name: "SHIM_RESTART_POLICY", Value: string(never)})
		}
		pod.InitContainers = append(pod.InitContainers, c)
		return true
	})
	return job
}

// start applies a Job in a namespace of its own.
func start(t *testing.T, job *batchv1.Job) *kube.Namespace {
	t.Helper()
	ns := cluster.Namespace(t)
	ns.ApplyText(t, asJSON(t, job))
	return ns
}

func asJSON(t *testing.T, object any) string {
	t.Helper()
	text, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// codes are the exit codes of all runs of each container, by the container's name.
type codes map[string][]int

// play starts a Job and compares how it ends: see expect.
func play(t *testing.T, job *batchv1.Job, outcome string, want codes) (*kube.Namespace, *kube.State) {
	t.Helper()
	ns := start(t, job)
	return ns, expect(t, ns, job.Name, outcome, want)
}

// untilOver waits for the end of the Job of this name and of all its pods, and compares the Job's outcome.
func untilOver(t *testing.T, ns *kube.Namespace, job, outcome string) *kube.State {
	t.Helper()
	end := ns.Until(t, patience, "the end of Job "+job+" and of its pods", func(s *kube.State) bool {
		return kube.Outcome(s.Job(job)) != "" &&
			!slices.ContainsFunc(s.Pods(job), func(pod *corev1.Pod) bool { return isLive(s, pod) })
	})
	if got := kube.Outcome(end.Job(job)); got != outcome {
		t.Errorf("the Job ended as %q, want %q", got, outcome)
	}
	return end
}

// expect waits for the end of the Job of this name and of all its pods. It compares the Job's outcome, the exit
// codes of all runs, the restart counts, and how long after main the sidecars ended.
func expect(t *testing.T, ns *kube.Namespace, job, outcome string, want codes) *kube.State {
	t.Helper()
	end := untilOver(t, ns, job, outcome)
	got := codes{}
	for _, pod := range end.Pods(job) {
		expectPrompt(t, end, pod)
		for container, restarts := range kube.Restarts(pod) {
			runs := end.Runs(pod.Name, container)
			if len(runs) != restarts+1 {
				t.Errorf("%s in %s has %d restarts, but these runs were seen: %v", container, pod.Name, restarts, runs)
			}
			for _, run := range runs {
				got[container] = append(got[container], run.ExitCode)
			}
		}
	}
	if !maps.EqualFunc(got, want, slices.Equal) {
		t.Errorf("the exit codes of all runs are %v, want %v", got, want)
	}
	return end
}

func isLive(s *kube.State, pod *corev1.Pod) bool {
	return !s.Deleted(pod) && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed
}

// expectPrompt fails the test if a sidecar ended later than promptly after main. It compares the last attempt, and
// all attempts if the containers were restarted together.
func expectPrompt(t *testing.T, s *kube.State, pod *corev1.Pod) {
	t.Helper()
	var mains, sidecars [][]kube.Run
	natives := slices.DeleteFunc(slices.Clone(pod.Spec.InitContainers), func(c corev1.Container) bool {
		return !kube.IsNativeSidecar(c)
	})
	for _, container := range slices.Concat(natives, pod.Spec.Containers) {
		if runs := s.Runs(pod.Name, container.Name); isMain(container) {
			mains = append(mains, runs)
		} else {
			sidecars = append(sidecars, runs)
		}
	}
	for _, sidecar := range sidecars {
		tandem := !slices.ContainsFunc(mains, func(main []kube.Run) bool { return len(main) != len(sidecar) })
		for back := 1; back <= len(sidecar) && (back == 1 || tandem); back++ {
			var ended time.Time
			for _, main := range mains {
				if len(main) >= back && main[len(main)-back].Finished.After(ended) {
					ended = main[len(main)-back].Finished
				}
			}
			run := sidecar[len(sidecar)-back]
			if late := run.Finished.Sub(ended); !ended.IsZero() && late > promptly {
				t.Errorf("%v: it ended %v after main, want at most %v", run, late, promptly)
			}
		}
	}
}

func isMain(c corev1.Container) bool {
	return slices.ContainsFunc(c.Command, func(word string) bool { return path.Base(word) == "sentinel" })
}

// lag returns how long after main's last run the container's last run ended, in whole seconds.
func lag(s *kube.State, name, container string) time.Duration {
	main, _ := s.Last(name, "main")
	other, _ := s.Last(name, container)
	return other.Finished.Sub(main.Finished)
}
