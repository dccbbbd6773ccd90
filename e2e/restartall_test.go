package e2e

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/version"

	"github.com/sentinel-shim/sentinel-shim/e2e/kube"
)

// Since Kubernetes 1.36 a container may have a rule whose action is RestartAllContainers (KEP-5532). The kubelet then
// stops and removes every container of the pod, init containers included, and starts the pod's containers from the
// beginning. The volume stays, and with it the ends of all runs. See docs/design.md, 6.

func needRestartAll(t *testing.T) {
	t.Helper()
	if have := cluster.Version(); version.MustParseGeneric(have).LessThan(version.MustParseGeneric("1.36")) {
		t.Skipf("the action RestartAllContainers needs Kubernetes 1.36, and the server has %s", have)
	}
}

// restartsAll gives a container the rule: if its exit code is not 0, all containers are restarted.
func restartsAll(policy corev1.ContainerRestartPolicy, c corev1.Container) corev1.Container {
	c.RestartPolicy = &policy
	c.RestartPolicyRules = []corev1.ContainerRestartRule{{
		Action: corev1.ContainerRestartRuleActionRestartAllContainers,
		ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{
			Operator: corev1.ContainerRestartRuleOnExitCodesOpNotIn, Values: []int32{0},
		},
	}}
	return c
}

// restarts is a backoffLimit that allows for n restarts of main, of the proxy and of the init container.
func restarts(n int32) int32 { return 3*n + 1 }

// recordsEnds makes the proxy's container note the end of its last run on the volume before each run: an exit code, or
// "none". The kubelet does not tell how a run ended that it has removed.
func recordsEnds(c corev1.Container) corev1.Container {
	return after("{ cat /tmp/pod/httpd-terminated || echo none; } >>/tmp/pod/ends; ", c)
}

// tellEnds is the shell command for main that prints what recordsEnds has noted, in one line.
const tellEnds = "echo ends: $(cat /tmp/pod/ends); "

// expectRestartedAll waits for the end of the Job. It compares the exit codes of all runs of main, and the ends of the
// proxy's runs as recordsEnds has noted them. All containers must have been restarted equally often. The kubelet may
// remove a run before it has reported the exit code; such a run has the wanted one.
func expectRestartedAll(t *testing.T, ns *kube.Namespace, mains []int, ends string) *kube.State {
	t.Helper()
	end := untilOver(t, ns, scenario, complete)
	pods := end.Pods(scenario)
	if len(pods) != 1 {
		t.Fatalf("the Job has %d pods, want 1", len(pods))
	}
	for container, n := range kube.Restarts(pods[0]) {
		if n != len(mains)-1 {
			t.Errorf("%s has %d restarts, want %d: %v", container, n, len(mains)-1, end.Runs(scenario, container))
		}
	}
	runs := end.Runs(scenario, "main")
	if !slices.EqualFunc(runs, mains, func(run kube.Run, code int) bool {
		return run.ExitCode == code || run.Removed()
	}) {
		t.Errorf("the runs of main are %v, want the exit codes %v", runs, mains)
	}
	if last, _ := end.Last(scenario, "proxy"); last.ExitCode != 0 {
		t.Errorf("the proxy's last run is %v, want exit code 0, as main's", last)
	}
	expectPrompt(t, end, pods[0])
	expectLog(t, ns, end, scenario, "main", "ends: "+ends)
	return end
}

// Main fails twice. The restarted shim finds main's failure, takes it for stale, and serves the next attempt.
func TestRestartAll(t *testing.T) {
	t.Parallel()
	needRestartAll(t)
	inBothForms(t, func(t *testing.T, in form) {
		main := restartsAll(corev1.ContainerRestartPolicyOnFailure, worker(query+failing("2")+tellEnds))
		ns := start(t, in(newJob(onFailure, restarts(2), recordsEnds(proxy("")), main)))
		expectRestartedAll(t, ns, []int{3, 3, 0}, "none 3 3")
	})
}

// Under Never a container comes back only by its rule, and no restart counts for the backoffLimit.
func TestRestartAllUnderNever(t *testing.T) {
	t.Parallel()
	needRestartAll(t)
	inBothForms(t, func(t *testing.T, in form) {
		main := restartsAll(corev1.ContainerRestartPolicyNever, worker(query+failing("2")+tellEnds))
		ns := start(t, in(newJob(never, 0, recordsEnds(proxy("")), main)))
		expectRestartedAll(t, ns, []int{3, 3, 0}, "none 3 3")
	})
}

// The sentinel is killed with main, so the volume has no end of main, but a run that no process owns.
func TestRestartAllMainKilled(t *testing.T) {
	t.Parallel()
	needRestartAll(t)
	inBothForms(t, func(t *testing.T, in form) {
		script := query + "echo >>/tmp/pod/attempts; echo working; [ $(wc -l </tmp/pod/attempts) -gt 1 ] || " + wait
		main := restartsAll(corev1.ContainerRestartPolicyOnFailure, worker(script+tellEnds))
		ns := start(t, in(newJob(onFailure, restarts(1), recordsEnds(proxy("")), main)))
		ns.UntilLog(t, patience, scenario, "main", "working")
		ns.Kill(t, ns.UntilRunning(t, patience, scenario, "main", 0))
		expectRestartedAll(t, ns, []int{137, 0}, "none 137")
	})
}

// The kubelet kills the shim two seconds after its SIGTERM, while the shim waits for a sidecar that ignores SIGTERM
// (in its first run). The word "stopping" stays on the volume without a lock, and does not hold up main's next attempt.
func TestRestartAllSidecarIgnoresTERM(t *testing.T) {
	t.Parallel()
	needRestartAll(t)
	inBothForms(t, func(t *testing.T, in form) {
		stubborn := sidecar("proxy", "--name httpd --grace-period 1m",
			"sh", "-c", "[ -e /tmp/pod/attempts-sh ] || trap '' TERM; exec "+strings.Join(server, " "))
		main := restartsAll(corev1.ContainerRestartPolicyOnFailure, worker(query+failing("1")+tellEnds))
		ns := start(t, in(newJob(onFailure, restarts(1), recordsEnds(stubborn), main)))
		end := expectRestartedAll(t, ns, []int{3, 0}, "none none")
		if log := ns.Log(t, end.Pods(scenario)[0].Name, "main", false); strings.Contains(log, "stopping") {
			t.Errorf("main's second attempt was held up by the first one's sidecar:\n%s", log)
		}
	})
}

// Another container fails after main's success, and all containers are restarted: main, too. The shim of a native
// sidecar starts its sidecar, although it finds main's success. One in a plain container would not: there, such a shim
// cannot be told from one that is restarted alone, for a main that does not come back.
func TestRestartAllAfterSuccess(t *testing.T) {
	t.Parallel()
	needRestartAll(t)
	other := restartsAll(corev1.ContainerRestartPolicyOnFailure, corev1.Container{
		Name: "other", Image: busybox, VolumeMounts: []corev1.VolumeMount{{Name: "pod", MountPath: "/tmp/pod"}},
		Command: []string{"sh", "-c"},
		Args: []string{"until grep -qx 0 /tmp/pod/main-terminated; do sleep 0.1; done; " +
			"[ $(wc -l </tmp/pod/ends) -gt 1 ] || exit 4"},
	})
	// The restarts of four containers count.
	job := native(newJob(onFailure, 5, recordsEnds(proxy("")), worker(query+tellEnds)))
	job.Spec.Template.Spec.Containers = append(job.Spec.Template.Spec.Containers, other)
	expectRestartedAll(t, start(t, job), []int{0, 0}, "none 0")
}
