package e2e

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"github.com/sentinel-shim/sentinel-shim/e2e/kube"
)

// kustomize renders a kustomization as kubectl kustomize does.
func kustomize(t *testing.T, directory string) string {
	t.Helper()
	objects, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), directory)
	if err != nil {
		t.Fatal(err)
	}
	text, err := objects.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// playRendered applies a rendered Job, nginx and a main that reads its page, in one namespace as it is, and in
// another with a main that fails twice.
func playRendered(t *testing.T, job, text string, edits ...kube.Edit) {
	t.Run("success", func(t *testing.T) {
		t.Parallel()
		ns := cluster.Namespace(t)
		ns.ApplyText(t, text, append(edits, hasRecommendedLabels)...)
		end := expect(t, ns, job, complete, codes{"main": {0}, "proxy": {0}})
		expectLog(t, ns, end, job, "main", "Welcome to nginx!")
		expectLog(t, ns, end, job, "proxy", "nginx stopped by SIGQUIT")
	})
	t.Run("attempts", func(t *testing.T) {
		t.Parallel()
		ns := cluster.Namespace(t)
		ns.ApplyText(t, text, append(edits, failTwiceWrapped(job))...)
		expect(t, ns, job, complete, codes{"main": {3, 3, 0}, "proxy": {3, 3, 0}})
	})
}

// failTwiceWrapped has main exit with 3 in the first two attempts, also where the wrapper and a part of main's own
// command share the container's command.
func failTwiceWrapped(job string) kube.Edit {
	return kube.EditContainer(job, "main", func(c *corev1.Container) {
		own := slices.Index(c.Command, "--") + 1
		c.Command = slices.Insert(c.Command, own, "sh", "-c", failing("2")+`exec "$@"`, c.Name)
	})
}

// Root is what the Job's own securityContext may say: the init container goes its own way.
func TestKustomize(t *testing.T) {
	t.Parallel()
	playRendered(t, "wrapped-report", kustomize(t, "../manifests/kustomize/example/overlay"),
		kube.EditPod("wrapped-report", func(pod *corev1.PodSpec) {
			pod.SecurityContext = &corev1.PodSecurityContext{RunAsUser: new(int64)}
		}))
}

// The component leaves what a CronJob has already: init container, volume and mount; what its namespace demands; and
// its pods' class.
func TestKustomizeCronJob(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	enforceRestricted(t, ns)
	ns.ApplyText(t, kustomize(t, "testdata/wrapped-cronjob"))
	fired := ns.Until(t, 2*time.Minute, "the CronJob to fire", func(s *kube.State) bool { return len(s.Jobs()) > 0 })
	job := fired.Jobs()[0]
	end := expect(t, ns, job.Name, complete, codes{"main": {0}, "proxy": {0}})
	expectLog(t, ns, end, job.Name, "main", "hello")
	if class := end.Pods(job.Name)[0].Status.QOSClass; class != corev1.PodQOSGuaranteed {
		t.Errorf("the pod is %s, want %s", class, corev1.PodQOSGuaranteed)
	}
}
