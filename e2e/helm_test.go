package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// helm is a major version of Helm, v3 or v4. Both are programs of the module in the directory helm, whose build takes
// some minutes, the first time.
type helm struct {
	version string
	charts  string // a copy of ../manifests/helm, with what Helm puts beside the charts
}

func newHelm(t *testing.T, version string) helm {
	t.Helper()
	h := helm{version, t.TempDir()}
	if err := os.CopyFS(h.charts, os.DirFS("../manifests/helm")); err != nil {
		t.Fatal(err)
	}
	h.run(t, "dependency", "update", h.charts+"/example")
	h.run(t, "lint", "--strict", h.charts+"/sentinel-shim", h.charts+"/example")
	return h
}

// render renders the example chart as the release wrapped-report.
func (h helm) render(t *testing.T, flags ...string) string {
	t.Helper()
	return h.run(t, append([]string{"template", "wrapped-report", h.charts + "/example"}, flags...)...)
}

// run runs Helm with no configuration but its defaults, and returns what it printed.
func (h helm) run(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()
	program := "helm.sh/helm/" + h.version + "/cmd/helm"
	cmd := exec.CommandContext(ctx, "go", append([]string{"tool", program}, args...)...)
	cmd.Dir = "helm"
	cmd.Env = os.Environ()
	for _, kind := range []string{"CACHE", "CONFIG", "DATA"} {
		cmd.Env = append(cmd.Env, "HELM_"+kind+"_HOME="+filepath.Join(h.charts, kind))
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("helm %s: %v\n%s%s", strings.Join(args, " "), err, out, stderr.Bytes())
	}
	return string(out)
}

// podOf is the pod's specification of a rendered Job.
func podSpecOf(t *testing.T, text string) corev1.PodSpec {
	t.Helper()
	var job batchv1.Job
	if err := yaml.UnmarshalStrict([]byte(text), &job); err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	return job.Spec.Template.Spec
}

func TestHelm(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"v3", "v4"} {
		h := newHelm(t, version) // one after the other: most of what is built is the same
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			text := h.render(t)
			expectAdded(t, podSpecOf(t, text), podSpecOf(t, kustomize(t, "../manifests/kustomize/example/overlay")))
			testHelmValues(t, h)
			playRendered(t, "wrapped-report", text)
		})
	}
}

// expectAdded compares what the chart and the component add to a pod: the same.
func expectAdded(t *testing.T, chart, component corev1.PodSpec) {
	t.Helper()
	for _, pod := range []*corev1.PodSpec{&chart, &component} {
		for i, c := range pod.Containers {
			pod.Containers[i] = corev1.Container{Name: c.Name, VolumeMounts: c.VolumeMounts}
		}
	}
	if !reflect.DeepEqual(chart, component) {
		t.Errorf("the chart adds\n%+v\nand the component\n%+v", chart, component)
	}
}

// testHelmValues renders flags of every kind, and what a chart may say of the init container.
func testHelmValues(t *testing.T, h helm) {
	t.Helper()
	pod := podSpecOf(t, h.render(t,
		"--set-json", `main.sentinel={"wait-for": ["tcp://127.0.0.1:80", "file:///tmp/pod/b<c"]}`,
		"--set-json", `proxy.shim={"drain": "5s", "keep-on-failure": true, "stop-signal": 3}`,
		"--set-json", `sentinel-shim={"image": "example.com/shim:v1", "securityContext": {"runAsUser": null}}`))
	for i, want := range [][]string{
		{"/sentinel-shim/shim", "--drain=5s", "--keep-on-failure=true", "--stop-signal=3", "--"},
		{"/sentinel-shim/sentinel", "--wait-for=tcp://127.0.0.1:80", "--wait-for=file:///tmp/pod/b<c", "--"},
	} {
		if c := pod.Containers[i]; !slices.Equal(c.Command, want) {
			t.Errorf("%s has the command %q, want %q", c.Name, c.Command, want)
		}
	}
	programs := pod.InitContainers[0]
	if programs.Image != "example.com/shim:v1" || programs.SecurityContext.RunAsUser != nil {
		t.Errorf("the init container has not the image of the values, or a user, which they take away: %+v", programs)
	}
	pod = podSpecOf(t, h.render(t, "--set-json", "main.sentinel=null"))
	if c := pod.Containers[1]; !slices.Equal(c.Command, []string{"/sentinel-shim/sentinel", "--"}) {
		t.Errorf("%s has no flags, but the command %q", c.Name, c.Command)
	}
}
