package kube

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// Serves reports whether the API server has this kind of object, for example Job in version v1 of the group batch.
func (c *Cluster) Serves(group, version, kind string) bool {
	_, err := c.mapper.RESTMapping(schema.GroupKind{Group: group, Kind: kind}, version)
	return err == nil
}

// Install applies objects that belong to no namespace, or to one of their own, as kubectl apply does: option is -k for
// a directory with a kustomization.yaml, and -f for a file. At the test's end they are deleted, and it waits until they
// are gone. The other tests run beside them, so they must select none of the other tests' pods.
//
// It fails if one of the objects is there already: it would be deleted at the end, and may be somebody's.
func (c *Cluster) Install(t testing.TB, option, path string) {
	t.Helper()
	if there := c.Kubectl(t, "get", option, path, "--ignore-not-found", "--output", "name"); there != "" {
		t.Fatalf("%s is installed already: kubectl delete %s %s, if it is what an interrupted test has left",
			strings.Join(strings.Fields(there), " "), option, path)
	}
	t.Cleanup(func() {
		if _, err := c.kubectl("delete", option, path, "--ignore-not-found", "--timeout", "90s"); err != nil {
			t.Error(err)
		}
	})
	c.Kubectl(t, "apply", option, path)
}

// InstallText installs manifests that are not in a file.
func (c *Cluster) InstallText(t testing.TB, text string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "manifests.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Install(t, "-f", file)
}

// Kubectl runs kubectl and returns what it printed to its standard output.
func (c *Cluster) Kubectl(t testing.TB, args ...string) string {
	t.Helper()
	out, err := c.kubectl(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// kubectl runs the kubectl of e2e/cluster, if the cluster is from there, else that of the PATH.
func (c *Cluster) kubectl(args ...string) (string, error) {
	program := "kubectl"
	if c.scripts != "" {
		program = filepath.Join(c.own, "bin/kubectl")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, args...).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			out = append(out, exit.Stderr...)
		}
		return "", fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// Admitted is what the API server makes of an object that is created: with its defaults, and with what the admission
// policies and webhooks have changed.
type Admitted struct {
	*unstructured.Unstructured
	Warnings []string // what kubectl shows as "Warning: ..."
}

// Admit has the API server admit an object without creating it. The error is the API server's refusal.
func (ns *Namespace) Admit(text string) (Admitted, error) {
	objects, err := decode(text)
	if err != nil {
		return Admitted{}, err
	}
	if len(objects) != 1 {
		return Admitted{}, fmt.Errorf("%d objects to admit, want one", len(objects))
	}
	kind := objects[0].GroupVersionKind()
	mapping, err := ns.cluster.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		return Admitted{}, err
	}
	var warned warnings
	config := rest.CopyConfig(ns.cluster.config)
	config.WarningHandler = &warned
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return Admitted{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	object, err := client.Resource(mapping.Resource).Namespace(ns.Name).Create(ctx, objects[0], metav1.CreateOptions{
		DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict,
	})
	return Admitted{object, warned.texts}, err
}

// warnings collects the warnings of one request.
type warnings struct {
	mu    sync.Mutex
	texts []string
}

// HandleWarningHeader is called for each warning of a response.
func (w *warnings) HandleWarningHeader(_ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.texts = append(w.texts, text)
}
