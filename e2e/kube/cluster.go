// Package kube lets a test drive real Jobs: apply a manifest with changes, wait for what a watch
// reports, and read what every run of every container came to. A test that fails leaves behind the
// description of its pods, the logs of all their containers and the listing of their volumes.
//
// Nothing in it sleeps: every wait ends with an event of the API server, or with its timeout, which
// fails the test and names the state that was last seen.
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

// Cluster is a connection to a cluster. It may be used by several tests at the same time.
type Cluster struct {
	config  *rest.Config
	client  kubernetes.Interface
	dynamic dynamic.Interface
	mapper  *restmapper.DeferredDiscoveryRESTMapper

	// scripts is the directory e2e/cluster if the cluster was brought up by the scripts in it, else empty.
	scripts string
}

// Connect connects to the cluster that the variable KUBECONFIG names. An error says what is missing.
func Connect() (*Cluster, error) {
	path := os.Getenv("KUBECONFIG")
	if path == "" {
		return nil, fmt.Errorf("KUBECONFIG is not set: run the tests with e2e/run, which brings up a cluster if need be")
	}
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return nil, fmt.Errorf("KUBECONFIG: %w", err)
	}
	config.QPS = -1 // tests run side by side: no rationing on the client's side
	c := &Cluster{config: config}
	if c.client, err = kubernetes.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("KUBECONFIG %s: %w", path, err)
	}
	if c.dynamic, err = dynamic.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("KUBECONFIG %s: %w", path, err)
	}
	if _, err := c.client.Discovery().ServerVersion(); err != nil {
		return nil, fmt.Errorf("the cluster of KUBECONFIG %s does not answer: %w", path, err)
	}
	c.mapper = restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(c.client.Discovery()))
	if directory := filepath.Dir(path); filepath.Base(directory) == ".state" {
		c.scripts = filepath.Join(directory, "../cluster")
	}
	return c, nil
}

// Node runs a command inside the node and returns what it printed. It skips the test where the cluster
// is not the one of e2e/cluster, because there is then no way into the node.
func (c *Cluster) Node(t testing.TB, command ...string) string {
	t.Helper()
	c.needScripts(t)
	out, err := c.TryNode(command...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TryNode is Node for a command that may fail: one that kills what may have ended by itself. The cluster
// has to be that of e2e/cluster, as Root makes sure.
func (c *Cluster) TryNode(command ...string) (string, error) { return c.script("node", command...) }

// Daemon starts, stops, kills or restarts (the verb) one of the node's daemons, for example kubelet or
// containerd, as e2e/cluster/daemon does. A test that does so must not run beside others. It skips the
// test where the cluster is not the one of e2e/cluster.
func (c *Cluster) Daemon(t testing.TB, verb, name string) {
	t.Helper()
	c.needScripts(t)
	if _, err := c.script("daemon", verb, name); err != nil {
		t.Fatal(err)
	}
}

// Root is the node's root directory, as this machine sees it. It skips the test where the cluster is not the one
// of e2e/cluster.
func (c *Cluster) Root(t testing.TB) string {
	t.Helper()
	c.needScripts(t)
	return c.root()
}

func (c *Cluster) root() string { return filepath.Join(c.scripts, "../.state/run/root") }

func (c *Cluster) needScripts(t testing.TB) {
	t.Helper()
	if c.scripts == "" {
		t.Skip("needs a way into the node, which only the cluster of e2e/cluster has: unset KUBECONFIG")
	}
}

// TryDaemon is Daemon for who reports an error by itself. The cluster has to be that of e2e/cluster.
func (c *Cluster) TryDaemon(verb, name string) error {
	_, err := c.script("daemon", verb, name)
	return err
}

func (c *Cluster) script(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(c.scripts, name), args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("e2e/cluster/%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// Namespace creates a namespace for one test, with the labels given as key and value by turns. At the
// test's end the namespace is deleted; before that, if the test has failed, everything in it that
// explains why is logged.
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
	// Until it is there, a pod is refused.
	ns.Until(t, requestTimeout, "the default service account", func(s *State) bool { return s.usable })
	return ns
}
