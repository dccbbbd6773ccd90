package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sentinel-shim/sentinel-shim/e2e/kube"
)

// statusOf returns the runs on a pod's volume as --status=json shows them: "NAME STATE CODE", separated by commas.
func statusOf(t *testing.T, ns *kube.Namespace, container, program string) string {
	t.Helper()
	pod := ns.State().Pods(scenario)[0].Name
	output := ns.Exec(t, pod, container, "/tmp/pod/"+program, "--status=json")
	var seen struct {
		Runs []struct {
			Name, State string
			Code        *int
			Since       time.Time
		}
	}
	if err := json.Unmarshal([]byte(output), &seen); err != nil {
		t.Fatalf("%s --status=json: %v:\n%s", program, err, output)
	}
	var all []string
	for _, run := range seen.Runs {
		text := run.Name + " " + run.State
		if run.Code != nil {
			text += fmt.Sprint(" ", *run.Code)
		}
		all = append(all, text)
		// An emptyDir's file system records when a file was created. The clocks of the nodes and of this machine may
		// differ a little.
		if since := time.Since(run.Since); since < -time.Minute || since > patience {
			t.Errorf("%s is %s since %s, which is %s ago", run.Name, run.State, run.Since, since)
		}
	}
	return strings.Join(all, ", ")
}

// Kubectl exec shows the runs of a pod, also in a container whose image has no shell.
func TestStatus(t *testing.T) {
	t.Parallel()
	// The image of the programs has nothing else in it. Main is a sentinel of its own, which waits for a file.
	main := corev1.Container{
		Name: "main", Image: image, Command: []string{"/tmp/pod/sentinel", "--"},
		Args: []string{
			"/sentinel", "--name", "inner", "--wait-for", "file:///tmp/pod/go", "--wait-timeout", patience.String(),
			"--", "/shim", "--version",
		},
		VolumeMounts: []corev1.VolumeMount{{Name: "pod", MountPath: "/tmp/pod"}},
	}
	ns := start(t, newJob(never, 0, proxy("--drain 25s"), main))
	ns.UntilLog(t, patience, scenario, "proxy", "main is running")
	ns.UntilLog(t, patience, scenario, "main", "waiting for file:///tmp/pod/go")
	want := "httpd running, inner running, main running"
	if got := statusOf(t, ns, "main", "sentinel"); got != want {
		t.Errorf("in main's container, the runs are %q, not %q", got, want)
	}
	if got := statusOf(t, ns, "proxy", "shim"); got != want {
		t.Errorf("in the proxy's container, the runs are %q, not %q", got, want)
	}
	table := ns.Exec(t, ns.State().Pods(scenario)[0].Name, "main", "/tmp/pod/sentinel", "--status")
	if rows := strings.Split(table, "\n"); len(rows) != 5 || strings.Join(strings.Fields(rows[0]), " ") !=
		"NAME STATE CODE SINCE AGE" || !strings.HasPrefix(rows[3], "main ") {
		t.Errorf("the table is\n%s", table)
	}

	ns.Exec(t, ns.State().Pods(scenario)[0].Name, "proxy", "sh", "-c",
		"touch /tmp/pod/go; until grep -q stopping /tmp/pod/httpd-running; do sleep 0.1; done")
	want = "httpd stopping, inner ended 0, main ended 0"
	if got := statusOf(t, ns, "proxy", "sentinel"); got != want {
		t.Errorf("during the drain, the runs are %q, not %q", got, want)
	}
	end := untilOver(t, ns, scenario, complete)
	for _, container := range []string{"main", "proxy"} {
		if run, _ := end.Last(scenario, container); run.ExitCode != 0 || run.Attempt != 0 {
			t.Errorf("%v, want exit code 0 in the first attempt", run)
		}
	}
}
