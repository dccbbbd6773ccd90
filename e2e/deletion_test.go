package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/sentinel-shim/sentinel-shim/e2e/kube"
)

// Pods that are deleted, with the default terminationGracePeriodSeconds.

// deletePod deletes the pod of a Job after main has logged "working". It returns the state in which the pod is gone,
// and the pod's name.
func deletePod(t *testing.T, ns *kube.Namespace) (end *kube.State, pod string) {
	t.Helper()
	ns.UntilLog(t, patience, scenario, "main", "working")
	victim := ns.State().Pods(scenario)[0]
	ns.DeletePod(t, victim.Name)
	gone := func(s *kube.State) bool { return s.Deleted(victim) }
	return ns.Until(t, patience, "pod "+victim.Name+" to be gone", gone), victim.Name
}

func expectCode(t *testing.T, s *kube.State, pod, container string, want int) {
	t.Helper()
	if run, _ := s.Last(pod, container); !run.Ended || run.ExitCode != want {
		t.Errorf("%v, want exit code %d", run, want)
	}
}

// Both containers get SIGTERM at the same time. Main works through the proxy for two more seconds.
func TestPodDeletedWhileMainWorks(t *testing.T) {
	t.Parallel()
	last := "trap '" + strings.Repeat(query+"sleep 0.5; ", 4) + "exit 0' TERM; echo working; "
	inBothForms(t, func(t *testing.T, as form) {
		end, pod := deletePod(t, start(t, as(newJob(onFailure, 6, proxy(""), worker(last+wait)))))
		expectCode(t, end, pod, "main", 0)
		expectCode(t, end, pod, "proxy", 0)
		expectPrompt(t, end, end.Pods(pod)[0])
	})
}

func TestPodDeleted(t *testing.T) {
	t.Parallel()
	inBothForms(t, func(t *testing.T, as form) {
		end, pod := deletePod(t, start(t, as(newJob(never, 6, proxy(""), worker("echo working; "+wait)))))
		expectCode(t, end, pod, "main", 143)
		expectCode(t, end, pod, "proxy", 143)
		expectPrompt(t, end, end.Pods(pod)[0])
	})
}

// The shim keeps the sidecar for --hold and then ends. Main ignores SIGTERM, so only main has to be killed.
func TestPodDeletedMainIgnoresSIGTERM(t *testing.T) {
	t.Parallel()
	end, pod := deletePod(t, start(t, newJob(never, 6, proxy(""), worker("trap '' TERM; echo working; "+wait))))
	expectCode(t, end, pod, "main", 137)
	expectCode(t, end, pod, "proxy", 143)
	if got := lag(end, pod, "proxy"); got > -5*time.Second {
		t.Errorf("the proxy ended %v after main, want it to end more than 5s before main is killed", got)
	}
}

// The deadline is set after main has started, so that it cannot pass before that.
func TestActiveDeadline(t *testing.T) {
	t.Parallel()
	late := newJob(onFailure, 6, proxy(""), worker("echo working; "+wait))
	ns := start(t, late)
	ns.UntilLog(t, patience, scenario, "main", "working")
	soon := int64(1)
	late.Spec.ActiveDeadlineSeconds = &soon
	ns.ApplyText(t, asJSON(t, late))
	expect(t, ns, scenario, "Failed: DeadlineExceeded", codes{"main": {143}, "proxy": {143}})
}
