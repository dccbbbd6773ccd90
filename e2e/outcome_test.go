package e2e

import (
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// A Job and its sidecars end as main does.

func TestSuccess(t *testing.T) {
	t.Parallel()
	for _, policy := range []corev1.RestartPolicy{never, onFailure} {
		t.Run(string(policy), func(t *testing.T) {
			t.Parallel()
			inBothForms(t, func(t *testing.T, as form) {
				play(t, as(newJob(policy, 0, proxy(""), worker(query))), complete, codes{"main": {0}, "proxy": {0}})
			})
		})
	}
}

// A native sidecar that ends by itself after main's success may be started once more, before the kubelet knows of
// that success. It happens in about one of ten pods, so there are twenty.
func TestNativeSidecarIsNotStartedAgain(t *testing.T) {
	t.Parallel()
	twenty := native(newJob(onFailure, 0, proxy(""), worker(query)))
	completions, parallelism := int32(20), int32(5)
	twenty.Spec.Completions, twenty.Spec.Parallelism = &completions, &parallelism
	zeros := make([]int, completions)
	play(t, twenty, complete, codes{"main": zeros, "proxy": zeros})
}

func TestFailureNever(t *testing.T) {
	t.Parallel()
	inBothForms(t, func(t *testing.T, as form) {
		_, end := play(t, as(newJob(never, 1, proxy(""), worker(query+"exit 3"))), backoffLimitExceeded,
			codes{"main": {3, 3}, "proxy": {3, 3}})
		if pods := end.Pods(scenario); len(pods) != 2 {
			t.Errorf("%d pods, want one for each of 2 attempts", len(pods))
		}
	})
}

// The Job controller deletes the pod, and so ends the attempt that is running, when the limit is met.
func TestFailureUntilBackoffLimit(t *testing.T) {
	t.Parallel()
	inBothForms(t, func(t *testing.T, as form) {
		ns := start(t, as(newJob(onFailure, 3, proxy(""), worker(query+failing("2")+wait))))
		end := untilOver(t, ns, scenario, backoffLimitExceeded)
		for _, container := range []string{"main", "proxy"} {
			runs := end.Runs(scenario, container)
			if len(runs) < 2 || runs[0].ExitCode != 3 || runs[1].ExitCode != 3 {
				t.Errorf("the runs of %s are %v, want two that exited 3 before the limit was met", container, runs)
			}
			for _, run := range runs {
				if !run.Ended || run.ExitCode == 0 || run.ExitCode == 137 {
					t.Errorf("%v, want an exit code other than 0, and no SIGKILL", run)
				}
			}
		}
	})
}

// Main works through the proxy at the start and at the end of each attempt.
func TestTandem(t *testing.T) {
	t.Parallel()
	inBothForms(t, func(t *testing.T, as form) {
		play(t, as(newJob(onFailure, 5, proxy(""), worker(query+failing("2")+query))), complete,
			codes{"main": {3, 3, 0}, "proxy": {3, 3, 0}})
	})
}

// The sidecars start in the order of the manifest, and all of them end with main.
func TestThreeSidecars(t *testing.T) {
	t.Parallel()
	inBothForms(t, func(t *testing.T, as form) {
		cache := sidecar("cache", "--name cache", "httpd", "-f", "-p", "8081", "-h", "/etc")
		metrics := sidecar("metrics", "--name metrics", "httpd", "-f", "-p", "8082", "-h", "/etc")
		play(t, as(newJob(onFailure, 9, proxy(""), cache, metrics, worker(query+failing("1")+query))), complete,
			codes{"main": {3, 0}, "proxy": {3, 0}, "cache": {3, 0}, "metrics": {3, 0}})
	})
}

func TestTandemMainListedFirst(t *testing.T) {
	t.Parallel()
	play(t, newJob(onFailure, 5, worker(query+failing("2")+query), proxy("")), complete,
		codes{"main": {3, 3, 0}, "proxy": {3, 3, 0}})
}

// Main's end is on the volume before the shim starts.
func TestMainEndsBeforeSidecarStarts(t *testing.T) {
	t.Parallel()
	late := after("until [ -e /tmp/pod/main-terminated ]; do sleep 0.05; done; "+
		"mkdir /tmp/pod/started || touch /tmp/pod/restarted; ", proxy(""))
	second := after("until [ ! -e /tmp/pod/attempts-sh ] || [ -e /tmp/pod/restarted ]; do sleep 0.05; done; ",
		loner(failing("1")))
	for _, c := range []struct {
		name    string
		job     *batchv1.Job
		outcome string
		codes   []int
	}{
		{"Success/Never", newJob(never, 0, late, loner("exit 0")), complete, []int{0}},
		{"Success/OnFailure", newJob(onFailure, 0, late, loner("exit 0")), complete, []int{0}},
		{"Failure/Never", newJob(never, 0, late, loner("exit 3")), backoffLimitExceeded, []int{3}},
		// Main's second attempt waits until the first shim has ended.
		{"Failure/OnFailure", newJob(onFailure, 3, late, second), complete, []int{3, 0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, end := play(t, c.job, c.outcome, codes{"main": c.codes, "proxy": c.codes})
			if run := end.Runs(scenario, "proxy")[0]; !strings.Contains(run.Message, "httpd was not started") {
				t.Errorf("the shim's termination message is %q, want \"httpd was not started\" in it", run.Message)
			}
		})
	}
}

// Main is started again after about a second, while the proxy of the earlier attempt still drains. Main must not work
// through that proxy, which would end in the middle of the attempt.
func TestMainRestartsWhileSidecarDrains(t *testing.T) {
	t.Parallel()
	inBothForms(t, func(t *testing.T, as form) {
		main := worker(strings.Repeat(query+"sleep 0.2; ", 30) + failing("1"))
		ns := start(t, as(newJob(onFailure, 3, proxy("--drain 5s"), main)))
		ns.UntilLog(t, patience, scenario, "main", "waiting for the sidecars of the earlier run to end")
		end := expect(t, ns, scenario, complete, codes{"main": {3, 0}, "proxy": {3, 0}})
		first := end.Runs(scenario, "proxy")[0].Finished.Sub(end.Runs(scenario, "main")[0].Finished)
		if first < 4*time.Second {
			t.Errorf("in the failed attempt, the proxy ended %v after main, want the 5s of --drain", first)
		}
	})
}

// The sentinel refuses the flag and records that its command will never start.
func TestWrongFlag(t *testing.T) {
	t.Parallel()
	typo := wrapped("main", "/tmp/pod/sentinel --wait-fro tcp://127.0.0.1:8080", []string{"true"})
	play(t, newJob(never, 0, proxy(""), typo), backoffLimitExceeded, codes{"main": {125}, "proxy": {125}})
}

// A sentinel without the volume can record nothing. The shim ends after --start-timeout.
func TestVolumeNotMounted(t *testing.T) {
	t.Parallel()
	lost := corev1.Container{
		Name: "main", Image: image,
		Command: []string{"/sentinel", "--"}, Args: []string{"/sentinel", "--version"},
	}
	play(t, newJob(never, 0, proxy("--start-timeout 5s"), lost), backoffLimitExceeded,
		codes{"main": {125}, "proxy": {124}})
}

// The policy may name main's container or the sidecar's, because both have the same exit code.
func TestPodFailurePolicy(t *testing.T) {
	t.Parallel()
	for _, container := range []string{"main", "proxy"} {
		t.Run(container, func(t *testing.T) {
			t.Parallel()
			failJob := newJob(never, 6, proxy(""), worker(query+"exit 42"))
			failJob.Spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
				Action: batchv1.PodFailurePolicyActionFailJob,
				OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{
					ContainerName: &container, Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{42},
				},
			}}}
			play(t, failJob, "Failed: PodFailurePolicy", codes{"main": {42}, "proxy": {42}})
		})
	}
}
