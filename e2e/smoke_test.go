package e2e

import (
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/sentinel-shim/sentinel-shim/e2e/kube"
)

// smoke is a Job without the project's programs: these tests are about the cluster and package kube.
const smoke = `
apiVersion: batch/v1
kind: Job
metadata:
  name: smoke
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: busybox:1.35
        command: [sh, -c, "echo hello; echo 0 > /tmp/pod/main-terminated"]
        volumeMounts:
        - {name: pod, mountPath: /tmp/pod}
      volumes:
      - name: pod
        emptyDir: {}
`

func TestSmokeSuccess(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	ns.ApplyText(t, smoke)
	end := ns.UntilEnd(t, time.Minute, "smoke")
	if got := kube.Outcome(end.Job("smoke")); got != "Complete" {
		t.Errorf("the Job ended as %q, want Complete", got)
	}
	pod := end.Pods("smoke")[0]
	if got := ns.Log(t, pod.Name, "main", false); got != "hello\n" {
		t.Errorf("main logged %q, want hello", got)
	}
	run, _ := end.Last("smoke", "main")
	if !run.Ended || run.ExitCode != 0 ||
		run.Finished.Before(run.Started) || run.Started.Before(pod.CreationTimestamp.Time) {
		t.Errorf("main's run is %v, want one that started after %v and then exited 0", run, pod.CreationTimestamp)
	}
}

func TestSmokeFailure(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	ns.ApplyText(t, smoke, kube.EditContainer("smoke", "main", func(c *corev1.Container) {
		c.Command = []string{"sh", "-c", "exit 3"}
	}))
	end := ns.UntilEnd(t, time.Minute, "smoke")
	if got, want := kube.Outcome(end.Job("smoke")), "Failed: BackoffLimitExceeded"; got != want {
		t.Errorf("the Job ended as %q, want %q", got, want)
	}
	if run, _ := end.Last("smoke", "main"); run.ExitCode != 3 || run.Attempt != 0 {
		t.Errorf("main's last run is %v, want the first run, with exit code 3", run)
	}
}

func TestSmokeRestartAndKill(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	ns.ApplyText(t, smoke,
		kube.EditJob("smoke", func(job *batchv1.JobSpec) {
			limit := int32(2)
			job.BackoffLimit, job.Template.Spec.RestartPolicy = &limit, corev1.RestartPolicyOnFailure
		}),
		kube.EditContainer("smoke", "main", func(c *corev1.Container) {
			c.Command = []string{"sh", "-c", "if mkdir /tmp/pod/second; then echo waiting; sleep 600; fi; echo done"}
		}))
	ns.UntilLog(t, time.Minute, "smoke", "main", "waiting")
	ns.Kill(t, ns.UntilRunning(t, time.Minute, "smoke", "main", 0))
	ns.UntilLog(t, time.Minute, "smoke", "main", "done")
	end := ns.UntilEnd(t, time.Minute, "smoke")
	runs := end.Runs("smoke", "main")
	if len(runs) != 2 || runs[0].ExitCode != 137 || runs[1].ExitCode != 0 ||
		kube.Restarts(end.Pods("smoke")[0])["main"] != 1 {
		t.Errorf("main's runs are %v, want one that exited 137 and one that exited 0", runs)
	}
}

// The name of a Service resolves, and connections to it reach its pod.
func TestSmokeService(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	ns.ApplyText(t, `
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80}]
---
apiVersion: v1
kind: Pod
metadata:
  name: web
  labels: {app: web}
spec:
  containers:
  - name: nginx
    image: nginx:1.22
    readinessProbe: {tcpSocket: {port: 80}, periodSeconds: 1}
`)
	ns.UntilRunning(t, time.Minute, "web", "nginx", 0)
	ns.Exec(t, "web", "nginx", "sh", "-c", "echo from web > /usr/share/nginx/html/index.html")
	ns.ApplyText(t, smoke, kube.EditContainer("smoke", "main", func(c *corev1.Container) {
		c.Command = []string{"sh", "-c", "until wget -qO- http://web; do sleep 1; done"}
	}))
	end := ns.UntilEnd(t, time.Minute, "smoke")
	if got := ns.Log(t, end.Pods("smoke")[0].Name, "main", false); !strings.HasSuffix(got, "from web\n") {
		t.Errorf("main read %q through the Service, want \"from web\"", got)
	}
}

// The API server refuses an unknown field, and the decoder a duplicate key.
func TestSmokeDryRun(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	for name, text := range map[string]string{
		"unknown field": strings.Replace(smoke, "backoffLimit: 0", "backOffLimit: 0", 1),
		"key twice":     strings.Replace(smoke, "backoffLimit: 0", "backoffLimit: 0\n  backoffLimit: 1", 1),
		"no error":      smoke,
	} {
		err := ns.DryRunText(text)
		if wrong := name != "no error"; wrong != (err != nil) {
			t.Errorf("%s: the dry run's error is %v", name, err)
		}
	}
}
