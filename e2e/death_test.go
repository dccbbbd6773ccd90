package e2e

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Containers that are killed, crash or hang.

// Every process of main's container is killed at once, also the sentinel, so no exit code is recorded.
func TestMainKilledWhole(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		policy  corev1.RestartPolicy
		outcome string
		codes   []int
	}{
		{never, backoffLimitExceeded, []int{137}},
		{onFailure, complete, []int{137, 0}},
	} {
		t.Run(string(c.policy), func(t *testing.T) {
			t.Parallel()
			inBothForms(t, func(t *testing.T, as form) {
				limit := int32(2 * len(c.codes))
				if c.policy == never {
					limit = 0
				}
				// mkdir succeeds only in the first attempt.
				main := worker(query + "if mkdir /tmp/pod/begun; then echo working; " + wait + "fi")
				ns := start(t, as(newJob(c.policy, limit, proxy(""), main)))
				ns.UntilLog(t, patience, scenario, "main", "working")
				ns.Kill(t, ns.UntilRunning(t, patience, scenario, "main", 0))
				end := expect(t, ns, scenario, c.outcome, codes{"main": c.codes, "proxy": c.codes})
				if run := end.Runs(scenario, "proxy")[0]; !strings.Contains(run.Message, "main was killed (137)") {
					t.Errorf("the shim's termination message is %q, want it to say that main was killed", run.Message)
				}
			})
		})
	}
}

func TestMainExceedsMemoryLimit(t *testing.T) {
	t.Parallel()
	greedy := worker(query + `exec awk 'BEGIN { for (s = "x"; ; s = s s) {} }'`)
	greedy.Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")}
	_, end := play(t, newJob(never, 0, proxy(""), greedy), backoffLimitExceeded, codes{"main": {137}, "proxy": {137}})
	// On cgroup v1 only awk is killed, and the sentinel says so; on v2 the whole container is killed.
	run, _ := end.Last(scenario, "main")
	if run.Reason != "OOMKilled" && !strings.Contains(run.Message, "awk was killed by SIGKILL") {
		t.Errorf("%v, %q: want main to be killed because of its memory limit", run, run.Message)
	}
}

// A sidecar that crashes does not end main. The restart policy decides whether it is started again.
func TestSidecarCrashes(t *testing.T) {
	t.Parallel()
	crashing := sidecar("proxy", "", "sh", "-c",
		"if mkdir /tmp/pod/crashed; then until [ -e /tmp/pod/begun ]; do sleep 0.05; done; exit 5; fi; "+
			"exec "+strings.Join(server, " "))
	begun := "touch /tmp/pod/begun; "
	t.Run("Never", func(t *testing.T) {
		t.Parallel()
		ended := "until [ -e /tmp/pod/sh-terminated ]; do sleep 0.05; done; "
		play(t, newJob(never, 0, crashing, loner(begun+ended)), backoffLimitExceeded, codes{"main": {0}, "proxy": {5}})
	})
	t.Run("OnFailure", func(t *testing.T) {
		t.Parallel()
		back := "until wget -q -O /dev/null http://127.0.0.1:8080/passwd; do sleep 0.05; done; "
		inBothForms(t, func(t *testing.T, as form) {
			play(t, as(newJob(onFailure, 2, crashing, loner(begun+back))), complete,
				codes{"main": {0}, "proxy": {5, 0}})
		})
	})
}

// A sidecar that ignores the stop signal is killed after the grace period; the exit code is still main's.
func TestSidecarIgnoresStopSignal(t *testing.T) {
	t.Parallel()
	stubborn := sidecar("proxy", "--grace-period 3s", "sh", "-c", "trap '' TERM; "+strings.Join(server, " "))
	inBothForms(t, func(t *testing.T, as form) {
		_, end := play(t, as(newJob(onFailure, 3, stubborn, worker(query+failing("1")))), complete,
			codes{"main": {3, 0}, "proxy": {3, 0}})
		run, _ := end.Last(scenario, "proxy")
		if !strings.Contains(run.Message, "did not stop within") {
			t.Errorf("the shim's termination message is %q, want it to say that the proxy ignored SIGTERM", run.Message)
		}
		if got := lag(end, scenario, "proxy"); got < 2*time.Second {
			t.Errorf("the proxy ended %v after main, want the 3s of --grace-period", got)
		}
	})
}

// The kubelet sends SIGTERM to the sidecar's container. The shim keeps the sidecar for main for --hold, and ends
// before the kubelet would kill it. Then the container is started again, and main works through the new sidecar.
func TestSidecarFailsLivenessProbe(t *testing.T) {
	t.Parallel()
	probed := after("mkdir /tmp/pod/first || touch /tmp/pod/back; ", proxy("--hold 3s"))
	// The file is not on the volume, so it is gone when the container is started again.
	probed.LivenessProbe = &corev1.Probe{
		ProbeHandler: corev1.ProbeHandler{
			Exec: &corev1.ExecAction{Command: []string{"test", "!", "-e", "/tmp/sick"}},
		},
		PeriodSeconds: 1, FailureThreshold: 1, TimeoutSeconds: 60,
	}
	main := worker(query + "echo working; until [ -e /tmp/pod/back ]; do sleep 0.1; done; " +
		"until wget -q -O /dev/null http://127.0.0.1:8080/passwd; do sleep 0.1; done; " + query)
	ns := start(t, newJob(onFailure, 2, probed, main))
	ns.UntilLog(t, patience, scenario, "main", "working")
	ns.Exec(t, ns.State().Pods(scenario)[0].Name, "proxy", "touch", "/tmp/sick")
	expect(t, ns, scenario, complete, codes{"main": {0}, "proxy": {143, 0}})
}
