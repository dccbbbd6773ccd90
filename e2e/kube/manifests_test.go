package kube

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
)

// These tests need no cluster. make lint runs them.

// Every manifest is valid: it has no unknown field, no duplicate key, and no value of a wrong type.
func TestManifestsAreValid(t *testing.T) {
	t.Parallel()
	for _, directory := range []string{"../../manifests", "../testdata"} {
		err := filepath.WalkDir(directory, func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if entry.IsDir() {
				if _, err := os.Stat(filepath.Join(path, "Chart.yaml")); err == nil {
					return fs.SkipDir // a Helm chart: its templates are not YAML
				}
			} else if filepath.Ext(path) == ".yaml" {
				expectValid(t, path)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func expectValid(t *testing.T, file string) {
	t.Helper()
	if err := strictly(readFile(t, file)); err != nil {
		t.Errorf("%s: %v", file, err)
	}
}

// strictly returns why the objects of a text are not valid.
func strictly(text string) error {
	objects, err := decode(text)
	errs := []error{err}
	strict := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	for _, object := range objects {
		if strings.HasPrefix(object.GetAPIVersion(), "kustomize.config.k8s.io/") {
			continue // not for the API server, but for kustomize, which is strict itself
		}
		body, err := object.MarshalJSON()
		if err == nil {
			_, _, err = strict.Decode(body, nil, nil)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %s: %w", object.GetKind(), object.GetName(), err))
		}
	}
	return errors.Join(errs...)
}

// The examples follow the advice of SECURITY.md: each Job and each emptyDir has a bound, and no container can change
// the programs. job.yaml, the smallest one, has the programs and the runs on one volume.
func TestManifestsAreSafe(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../manifests/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no manifests: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			objects, err := decode(readFile(t, file))
			if err != nil {
				t.Fatal(err)
			}
			job := objects[len(objects)-1].GetName()
			if err := EditJob(job, func(job *batchv1.JobSpec) { expectSafe(t, job) })(objects); err != nil {
				t.Error(err)
			}
		})
	}
}

func expectSafe(t *testing.T, job *batchv1.JobSpec) {
	t.Helper()
	if job.ActiveDeadlineSeconds == nil {
		t.Error("the Job has no activeDeadlineSeconds")
	}
	pod := job.Template.Spec
	for _, volume := range pod.Volumes {
		if volume.EmptyDir != nil && volume.EmptyDir.SizeLimit == nil {
			t.Errorf("the volume %s has no sizeLimit", volume.Name)
		}
	}
	for _, container := range slices.Concat(pod.InitContainers, pod.Containers) {
		if container.Name == "sentinel-shim" {
			expectRestricted(t, pod, container)
			continue
		}
		for _, mount := range container.VolumeMounts {
			if mount.Name == "sentinel-shim" && !mount.ReadOnly {
				t.Errorf("%s may write to the volume of the programs", container.Name)
			}
		}
	}
}

// expectRestricted fails the test if a container may do more than the Pod Security Standard "restricted" allows. What
// the container does not say itself is said for the whole pod.
func expectRestricted(t *testing.T, pod corev1.PodSpec, container corev1.Container) {
	t.Helper()
	got := corev1.SecurityContext{}
	if container.SecurityContext != nil {
		got = *container.SecurityContext
	}
	if of := pod.SecurityContext; of != nil && got.RunAsNonRoot == nil && got.SeccompProfile == nil {
		got.RunAsNonRoot, got.SeccompProfile = of.RunAsNonRoot, of.SeccompProfile
	}
	yes, no := true, false
	want := corev1.SecurityContext{
		RunAsNonRoot:             &yes,
		AllowPrivilegeEscalation: &no,
		ReadOnlyRootFilesystem:   &yes,
		Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	if !equality.Semantic.DeepEqual(got, want) {
		t.Errorf("the securityContext of %s is %v, want %v", container.Name, &got, &want)
	}
}
