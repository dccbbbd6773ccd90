package e2e

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// The same two attempts in different kinds of pods.
func TestPods(t *testing.T) {
	t.Parallel()
	yes := true
	uid := func(pod *corev1.PodSpec, container int, uid int64) {
		pod.Containers[container].SecurityContext = &corev1.SecurityContext{RunAsUser: &uid}
	}
	readOnly := func(pod *corev1.PodSpec) { pod.Containers[0].VolumeMounts[0].ReadOnly = true }
	script := func(text string) func(*corev1.PodSpec) {
		return func(pod *corev1.PodSpec) { pod.Containers[0].Args = []string{"sh", "-c", text} }
	}
	for name, change := range map[string]func(*corev1.PodSpec){
		"EmptyDirOnDisk":   func(*corev1.PodSpec) {},
		"EmptyDirInMemory": func(pod *corev1.PodSpec) { pod.Volumes[0].EmptyDir.Medium = corev1.StorageMediumMemory },
		"SubPath": func(pod *corev1.PodSpec) {
			for _, containers := range [][]corev1.Container{pod.InitContainers, pod.Containers} {
				for i := range containers {
					containers[i].VolumeMounts[0].SubPath = "some/directory"
				}
			}
		},
		"ReadOnlyMount": func(pod *corev1.PodSpec) {
			readOnly(pod)
			pod.Containers[0].Env = []corev1.EnvVar{{Name: "SHIM_RESTART_POLICY", Value: "OnFailure"}}
		},
		"SharedProcessNamespace": func(pod *corev1.PodSpec) { pod.ShareProcessNamespace = &yes },
		"DifferentUIDs": func(pod *corev1.PodSpec) {
			uid(pod, 0, 10001)
			uid(pod, 1, 10002)
		},
		// The shell runs its trap only after httpd, its foreground command, has ended. The shim ends httpd after half
		// of the grace period.
		"EntrypointScript": func(pod *corev1.PodSpec) {
			script("trap 'exit 0' TERM; httpd -f -p 8080 -h /etc")(pod)
			pod.Containers[0].Env = []corev1.EnvVar{{Name: "SHIM_GRACE_PERIOD", Value: "6s"}}
		},
		"EntrypointScriptWithExec": script("exec httpd -f -p 8080 -h /etc"),
		"EntrypointScriptNoTrap":   script("httpd -f -p 8080 -h /etc; true"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tandem := newJob(onFailure, 3, proxy(""), worker(query+failing("1")+query))
			change(&tandem.Spec.Template.Spec)
			_, end := play(t, tandem, complete, codes{"main": {3, 0}, "proxy": {3, 0}})
			for _, run := range end.Runs(scenario, "proxy") {
				if !strings.Contains(run.Message, "stopped by SIGTERM") {
					t.Errorf("%v: the shim's termination message is %q, want \"stopped by SIGTERM\" in it",
						run, run.Message)
				}
			}
		})
	}
	// The script of the image creates a database, and then executes the server as another user.
	t.Run("ImageEntrypoint", func(t *testing.T) {
		t.Parallel()
		db := sidecar("db", "--name db --stop-signal INT", "docker-entrypoint.sh", "postgres")
		db.Image, db.Env = "postgres:15", []corev1.EnvVar{{Name: "POSTGRES_PASSWORD", Value: "open-sesame"}}
		main := wrapped("main", "/tmp/pod/sentinel --wait-for tcp://127.0.0.1:5432", []string{"sh", "-c",
			"until pg_isready -h 127.0.0.1; do sleep 0.1; done; " +
				"psql -h 127.0.0.1 -U postgres -c 'SELECT 1' || exit 99; " + failing("1")})
		main.Image, main.Env = "postgres:15", []corev1.EnvVar{{Name: "PGPASSWORD", Value: "open-sesame"}}
		play(t, newJob(onFailure, 3, db, main), complete, codes{"main": {3, 0}, "db": {3, 0}})
	})
	// Under Never, a failure is final, so the policy does not have to be declared.
	t.Run("ReadOnlyMountNever", func(t *testing.T) {
		t.Parallel()
		once := newJob(never, 0, proxy(""), worker(query+"exit 3"))
		readOnly(&once.Spec.Template.Spec)
		play(t, once, backoffLimitExceeded, codes{"main": {3}, "proxy": {3}})
	})
}
