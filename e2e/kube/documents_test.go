package kube

import (
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/kubectl/pkg/describe"
	kustomize "sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/yaml"
)

// These tests of the documents need no cluster. make lint runs them.

// documents returns the paths of all documents.
func documents(t *testing.T) (paths []string) {
	t.Helper()
	for _, pattern := range []string{"../../*.md", "../../docs/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %q, %v", pattern, found, err)
		}
		paths = append(paths, found...)
	}
	return paths
}

var yamlBlock = regexp.MustCompile("(?ms)^( *)```yaml\n(.*?)^ *```$")

// Every block of YAML in a document is valid: whole objects, or a part of one, without an unknown field.
func TestSnippetsAreValid(t *testing.T) {
	t.Parallel()
	blocks := 0
	for _, path := range documents(t) {
		for _, found := range yamlBlock.FindAllStringSubmatch(readFile(t, path), -1) {
			blocks++
			text := unindent(found[1], found[2])
			if strings.Contains(text, "{{") {
				expectInChart(t, path, text)
			} else if err := validate(t, text); err != nil {
				t.Errorf("%s: %v:\n%s", path, err, text)
			}
		}
	}
	if blocks < 35 {
		t.Errorf("the documents have only %d blocks of YAML that this test sees", blocks)
	}
}

// unindent removes the block's own indentation, and then that of the text in it, which may be a part of a manifest.
func unindent(indent, text string) string {
	text = regexp.MustCompile(`(?m)^`+indent).ReplaceAllString(text, "")
	inner := text[:len(text)-len(strings.TrimLeft(text, " "))]
	return regexp.MustCompile(`(?m)^`+inner).ReplaceAllString(text, "")
}

// validate returns why a text is neither whole objects nor a part of a Job, of a pod or of a kustomization.
func validate(t *testing.T, text string) error {
	t.Helper()
	if regexp.MustCompile(`(?m)^apiVersion:`).MatchString(text) {
		return strictly(text)
	}
	var errs []string
	for kind, part := range map[string]any{
		"a Job's spec":    &batchv1.JobSpec{},
		"a pod's spec":    &corev1.PodSpec{},
		"a kustomization": &kustomize.Kustomization{},
	} {
		err := yaml.UnmarshalStrict([]byte(text), part)
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Sprintf("not %s: %v", kind, err))
	}
	slices.Sort(errs)
	return fmt.Errorf("%s", strings.Join(errs, "; "))
}

// expectInChart: a block with templates is a part of a chart, and no YAML. The library chart has the templates that it
// includes; the end-to-end tests render a chart that includes all of them.
func expectInChart(t *testing.T, path, text string) {
	t.Helper()
	chart := readFile(t, "../../manifests/helm/sentinel-shim/templates/_sentinel-shim.tpl")
	for _, found := range regexp.MustCompile(`include ("[^"]+")`).FindAllStringSubmatch(text, -1) {
		if !strings.Contains(chart, "define "+found[1]) {
			t.Errorf("%s: the chart does not define %s", path, found[1])
		}
	}
}

const entrypointKey = "entrypoint.sentinel-shim.github.io/"

// imageRow is a row of the table in docs/sidecars.md: image, ENTRYPOINT, CMD, STOPSIGNAL.
var imageRow = regexp.MustCompile("(?m)^\\| `([^`|]+)` \\| ([^|]+) \\| ([^|]+) \\| ([A-Z0-9–]+) \\| \\[")

// The document and the admission policy say the same of the public images.
func TestEntrypointsInDocument(t *testing.T) {
	t.Parallel()
	objects, err := decode(readFile(t, "../../manifests/one-label/entrypoints.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	left := objects[0].GetAnnotations()
	document := readFile(t, "../../docs/sidecars.md")
	images := make(map[string]bool)
	for _, row := range imageRow.FindAllStringSubmatch(document, -1) {
		image := row[1]
		images[image] = true
		key := entrypointKey + strings.NewReplacer("/", "_", ":", "_").Replace(image)
		if _, ok := left[key]; !ok {
			key = entrypointKey + image[strings.LastIndex(image, "/")+1:]
		}
		entry, ok := left[key]
		delete(left, key)
		if !ok {
			t.Errorf("manifests/one-label has no entry for the image %s of docs/sidecars.md", image)
			continue
		}
		if want := entryOf(words(row[2]), words(row[3]), row[4]); strings.TrimRight(entry, "\n") != want {
			t.Errorf("docs/sidecars.md says of %s\n%s\nand manifests/one-label says\n%s", image, want, entry)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(left)) {
		t.Errorf("docs/sidecars.md has no image for %s of manifests/one-label", key)
	}
	for _, found := range yamlBlock.FindAllStringSubmatch(document, -1) {
		var pod corev1.PodSpec
		if err := yaml.UnmarshalStrict([]byte(found[2]), &pod); err != nil || len(pod.Containers) == 0 {
			t.Errorf("docs/sidecars.md: no containers: %v\n%s", err, found[2])
			continue
		}
		if image := regexp.MustCompile(`:[^:/]+$`).ReplaceAllString(pod.Containers[0].Image, ""); !images[image] {
			t.Errorf("docs/sidecars.md: the image %s of a snippet is not in the table", image)
		}
	}
}

// words returns the words of a cell.
func words(cell string) (words []string) {
	for _, word := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cell, -1) {
		words = append(words, word[1])
	}
	return words
}

// entryOf returns the annotation for an image.
func entryOf(entrypoint, cmd []string, signal string) string {
	var lines []string
	if signal != "–" {
		lines = append(lines, "SHIM_STOP_SIGNAL="+signal)
	}
	lines = append(lines, entrypoint...)
	if len(cmd) > 0 {
		lines = append(append(lines, ""), cmd...)
	}
	return strings.Join(lines, "\n")
}

// What docs/troubleshooting.md quotes of kubectl describe is what kubectl prints of such a pod.
func TestDescriptionsInDocument(t *testing.T) {
	t.Parallel()
	block := regexp.MustCompile("(?ms)^```text\n(  [a-z-]+:\n.*?)^```$")
	blocks := block.FindAllStringSubmatch(readFile(t, "../../docs/troubleshooting.md"), -1)
	if len(blocks) < 5 {
		t.Errorf("docs/troubleshooting.md quotes only %d descriptions that this test sees", len(blocks))
	}
	for _, found := range blocks {
		lines := strings.Split(strings.TrimRight(found[1], "\n"), "\n")
		pod := described(lines)
		describer := describe.PodDescriber{Interface: fake.NewClientset(pod)}
		text, err := describer.Describe(pod.Namespace, pod.Name, describe.DescriberSettings{})
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range lines {
			if !strings.Contains(text, "\n"+line+"\n") {
				t.Errorf("docs/troubleshooting.md quotes of kubectl describe\n%s\nbut kubectl prints\n%s", line, text)
			}
		}
	}
}

// described returns the pod that lines of a description are about.
func described(lines []string) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "report"}}
	var (
		status *corev1.ContainerStatus
		state  *corev1.ContainerState
	)
	for _, line := range lines {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		value = strings.TrimSpace(value)
		switch {
		case value == "":
			pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: name})
			pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{Name: name})
			status = &pod.Status.ContainerStatuses[len(pod.Status.ContainerStatuses)-1]
		case name == "Image":
			pod.Spec.Containers[len(pod.Spec.Containers)-1].Image = value
		case name == "Restart Count":
			_, _ = fmt.Sscan(value, &status.RestartCount)
		case name == "State" || name == "Last State":
			state = &status.State
			if name == "Last State" {
				state = &status.LastTerminationState
			}
			if value == "Waiting" {
				state.Waiting = &corev1.ContainerStateWaiting{}
			} else {
				state.Terminated = &corev1.ContainerStateTerminated{}
			}
		case name == "Reason" && state.Waiting != nil:
			state.Waiting.Reason = value
		case name == "Reason":
			state.Terminated.Reason = value
		case name == "Message":
			state.Terminated.Message = value
		case name == "Exit Code":
			_, _ = fmt.Sscan(value, &state.Terminated.ExitCode)
		}
	}
	return pod
}
