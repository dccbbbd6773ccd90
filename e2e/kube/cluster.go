// Package kube lets a test run real Jobs: it applies manifests with changes, waits for states that the
// API server reports, and returns every run of every container. A test that fails logs the description
// of its pods, the logs of all their containers and a listing of their volumes.
//
// Every wait ends with an event of the API server, or fails the test after a timeout.
package kube

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

// requestTimeout bounds one request to the API server.
const requestTimeout = 30 * time.Second

// Cluster is a connection to a cluster. Several tests may use it at the same time.
type Cluster struct {
	config  *rest.Config
	client  kubernetes.Interface
	dynamic dynamic.Interface
	mapper  *restmapper.DeferredDiscoveryRESTMapper
	version *version.Info

	// scripts is the directory e2e/cluster if its scripts have brought up the cluster, else empty. own is then the
	// directory in which they keep this cluster.
	scripts, own string
}

// Connect connects to the cluster that the variable KUBECONFIG names.
func Connect() (*Cluster, error) {
	path := os.Getenv("KUBECONFIG")
	if path == "" {
		return nil, fmt.Errorf("KUBECONFIG is not set: run the tests with e2e/run, which brings up a cluster")
	}
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return nil, fmt.Errorf("KUBECONFIG: %w", err)
	}
	config.QPS = -1 // no rate limit in the client: many tests share it
	c := &Cluster{config: config}
	if c.client, err = kubernetes.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("KUBECONFIG %s: %w", path, err)
	}
	if c.dynamic, err = dynamic.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("KUBECONFIG %s: %w", path, err)
	}
	if c.version, err = c.client.Discovery().ServerVersion(); err != nil {
		return nil, fmt.Errorf("the cluster of KUBECONFIG %s does not answer: %w", path, err)
	}
	c.mapper = restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(c.client.Discovery()))
	// .state/VERSION/kubeconfig, see e2e/cluster/lib.sh
	if directory := filepath.Dir(path); filepath.Base(filepath.Dir(directory)) == ".state" {
		c.scripts, c.own = filepath.Join(directory, "../../cluster"), directory
	}
	return c, nil
}

// Version returns the version of Kubernetes that the API server has, for example v1.36.3.
func (c *Cluster) Version() string { return c.version.GitVersion }

// Node runs a command on the node and returns its output. It skips the test if the cluster is not the
// one of e2e/cluster: there is then no way to reach the node.
func (c *Cluster) Node(t testing.TB, command ...string) string {
	t.Helper()
	c.needScripts(t)
	out, err := c.TryNode(command...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TryNode is Node for a command that may fail, for example because the process that it kills has already
// ended. The cluster has to be the one of e2e/cluster (call Root or Node first).
func (c *Cluster) TryNode(command ...string) (string, error) { return c.script("node", command...) }

// Daemon runs e2e/cluster/daemon: it starts, stops, kills or restarts (the verb) a daemon of the node, for
// example kubelet or containerd. Such a test must not run in parallel with others. It skips the test if the
// cluster is not the one of e2e/cluster.
func (c *Cluster) Daemon(t testing.TB, verb, name string) {
	t.Helper()
	c.needScripts(t)
	if _, err := c.script("daemon", verb, name); err != nil {
		t.Fatal(err)
	}
}

// Root returns the path of the node's root directory on this machine. It skips the test if the cluster is not
// the one of e2e/cluster.
func (c *Cluster) Root(t testing.TB) string {
	t.Helper()
	c.needScripts(t)
	return c.root()
}

func (c *Cluster) root() string { return filepath.Join(c.own, "run/root") }

func (c *Cluster) needScripts(t testing.TB) {
	t.Helper()
	if c.scripts == "" {
		t.Skip("needs a way into the node, which only the cluster of e2e/cluster has: unset KUBECONFIG")
	}
}

// TryDaemon is Daemon, but returns the error. The cluster has to be the one of e2e/cluster.
func (c *Cluster) TryDaemon(verb, name string) error {
	_, err := c.script("daemon", verb, name)
	return err
}

func (c *Cluster) script(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(c.scripts, name), args...)
	cmd.Env = append(os.Environ(), "KUBERNETES="+filepath.Base(c.own))
	var stdout, stderr strings.Builder // apart: ctr writes warnings
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("e2e/cluster/%s %s: %w\n%s%s", name, strings.Join(args, " "), err, &stdout, &stderr)
	}
	return stdout.String(), nil
}

// Namespace creates a namespace for one test, with labels (key, value, key, value...). The end of the test
// deletes it. If the test has failed, what helps to explain the failure is logged first.
func (c *Cluster) Namespace(t testing.TB, labels ...string) *Namespace {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	object := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-", Labels: map[string]string{}}}
	for i := 0; i+1 < len(labels); i += 2 {
		object.Labels[labels[i]] = labels[i+1]
	}
	object, err := c.client.CoreV1().Namespaces().Create(ctx, object, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("creating a namespace: %v", err)
	}
	ns := newNamespace(c, object.Name)
	stop := make(chan struct{})
	t.Cleanup(func() {
		if t.Failed() {
			ns.dump(t)
		}
		close(stop)
		ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
		defer cancel()
		if err := c.client.CoreV1().Namespaces().Delete(ctx, ns.Name, metav1.DeleteOptions{}); err != nil {
			t.Errorf("deleting namespace %s: %v", ns.Name, err)
		}
	})

	factory := informers.NewSharedInformerFactoryWithOptions(c.client, 0, informers.WithNamespace(ns.Name))
	watched := []cache.SharedIndexInformer{
		factory.Core().V1().Pods().Informer(),
		factory.Core().V1().ServiceAccounts().Informer(),
		factory.Batch().V1().Jobs().Informer(),
	}
	for _, informer := range watched {
		if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(object any) { ns.observe(object, false) },
			UpdateFunc: func(_, object any) { ns.observe(object, false) },
			DeleteFunc: func(object any) { ns.observe(object, true) },
		}); err != nil {
			t.Fatalf("watching namespace %s: %v", ns.Name, err)
		}
	}
	factory.Start(stop)
	// Without it, the API server refuses pods.
	ns.Until(t, requestTimeout, "the default service account", func(s *State) bool { return s.usable })
	return ns
}
