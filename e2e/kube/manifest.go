package kube

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// Edit changes the objects of a manifest before they are applied. It fails if there is nothing to change.
type Edit func([]*unstructured.Unstructured) error

// EditPod changes the pod specification in the object of this name: a Pod, a Job, a CronJob, a Deployment or
// a StatefulSet.
func EditPod(name string, change func(*corev1.PodSpec)) Edit {
	return editAt(name, [][]string{
		{"spec", "jobTemplate", "spec", "template", "spec"}, {"spec", "template", "spec"}, {"spec"},
	}, change)
}

// EditJob changes the Job specification in the Job or CronJob of this name.
func EditJob(name string, change func(*batchv1.JobSpec)) Edit {
	return editAt(name, [][]string{{"spec", "jobTemplate", "spec"}, {"spec"}}, change)
}

// EditContainer changes a container or init container of the object of this name.
func EditContainer(name, container string, change func(*corev1.Container)) Edit {
	return func(objects []*unstructured.Unstructured) error {
		found := false
		err := EditPod(name, func(spec *corev1.PodSpec) {
			for _, containers := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
				for i := range containers {
					if containers[i].Name == container {
						change(&containers[i])
						found = true
					}
				}
			}
		})(objects)
		if err == nil && !found {
			err = fmt.Errorf("%s has no container %s to edit", name, container)
		}
		return err
	}
}

// editAt changes the part of the object of this name that is at the first path which exists in it.
func editAt[T any](name string, paths [][]string, change func(*T)) Edit {
	return func(objects []*unstructured.Unstructured) error {
		for _, object := range objects {
			// A Service may have the same name, and it has a spec, too.
			if object.GetName() != name || !hasPods(object.GetKind()) {
				continue
			}
			for _, path := range paths {
				part, ok, _ := unstructured.NestedMap(object.Object, path...)
				if !ok {
					continue
				}
				converter, typed := runtime.DefaultUnstructuredConverter, new(T)
				if err := converter.FromUnstructuredWithValidation(part, typed, true); err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				change(typed)
				part, err := converter.ToUnstructured(typed)
				if err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				return unstructured.SetNestedMap(object.Object, part, path...)
			}
		}
		return fmt.Errorf("the manifest has no object named %s that this can edit", name)
	}
}

func hasPods(kind string) bool {
	switch kind {
	case "Pod", "Job", "CronJob", "Deployment", "StatefulSet":
		return true
	}
	return false
}

// Apply edits a file of manifests and applies it in this namespace. All namespaces in the file are replaced by
// this one; the labels of a Namespace object are set on it. The API server validates every field strictly.
func (ns *Namespace) Apply(t testing.TB, file string, edits ...Edit) {
	t.Helper()
	ns.ApplyText(t, readFile(t, file), edits...)
}

// ApplyText applies manifests as Apply does.
func (ns *Namespace) ApplyText(t testing.TB, text string, edits ...Edit) {
	t.Helper()
	if err := ns.apply(text, edits, false); err != nil {
		t.Fatal(err)
	}
}

// DryRun has the API server validate a file of manifests strictly, without applying it.
func (ns *Namespace) DryRun(t testing.TB, file string) {
	t.Helper()
	if err := ns.DryRunText(readFile(t, file)); err != nil {
		t.Errorf("%s: %v", file, err)
	}
}

// DryRunText validates manifests as DryRun does, and returns the error.
func (ns *Namespace) DryRunText(text string) error { return ns.apply(text, nil, true) }

func readFile(t testing.TB, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (ns *Namespace) apply(text string, edits []Edit, dryRun bool) error {
	objects, err := decode(text)
	if err != nil {
		return err
	}
	for _, edit := range edits {
		if err := edit(objects); err != nil {
			return err
		}
	}
	for _, object := range objects {
		if err := ns.applyObject(object, dryRun); err != nil {
			return fmt.Errorf("%s %s: %w", object.GetKind(), object.GetName(), err)
		}
	}
	return nil
}

func (ns *Namespace) applyObject(object *unstructured.Unstructured, dryRun bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	if object.GetKind() == "Namespace" {
		labels := object.GetLabels()
		object = &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace"}}
		object.SetName(ns.Name)
		object.SetLabels(labels)
	} else {
		object.SetNamespace(ns.Name)
	}
	kind := object.GroupVersionKind()
	mapping, err := ns.cluster.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		return err
	}
	if kind.Kind != "Namespace" && mapping.Scope.Name() != "namespace" {
		return errors.New("is not namespaced, so a test would leave it behind")
	}
	body, err := json.Marshal(object)
	if err != nil {
		return err
	}
	force := true
	options := metav1.PatchOptions{FieldManager: "e2e", FieldValidation: metav1.FieldValidationStrict, Force: &force}
	if dryRun {
		options.DryRun = []string{metav1.DryRunAll}
	}
	_, err = ns.cluster.dynamic.Resource(mapping.Resource).Namespace(object.GetNamespace()).
		Patch(ctx, object.GetName(), types.ApplyPatchType, body, options)
	return err
}

// decode reads YAML documents. A duplicate key is an error, because the API server would not see it.
func decode(text string) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	documents := utilyaml.NewYAMLReader(bufio.NewReader(strings.NewReader(text)))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		body, err := yaml.YAMLToJSONStrict(document)
		if err != nil {
			return nil, err
		}
		if bytes.Equal(body, []byte("null")) { // only comments
			continue
		}
		object := &unstructured.Unstructured{}
		if err := object.UnmarshalJSON(body); err != nil {
			return nil, err
		}
		objects = append(objects, object)
	}
}
