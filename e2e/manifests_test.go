package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sentinel-shim/sentinel-shim/e2e/kube"
)

// manifest is what has to happen when a file of the directory manifests is applied.
type manifest struct {
	job string
	// prepare brings up what the manifest needs but does not contain, and returns edits that make the manifest use it.
	prepare func(*testing.T, *kube.Namespace) []kube.Edit
	// success are the exit codes of all runs, attempts those if main fails twice before.
	success, attempts codes
	// check checks what else the first lines of the file promise.
	check func(*testing.T, *kube.Namespace, *kube.State)
}

var manifests = map[string]manifest{
	"job.yaml": {
		job:      "report",
		success:  codes{"main": {0}, "proxy": {0}},
		attempts: codes{"main": {3, 3, 0}, "proxy": {3, 3, 0}},
		check: func(t *testing.T, ns *kube.Namespace, end *kube.State) {
			expectLog(t, ns, end, "report", "main", "Welcome to nginx!")
		},
	},
	"cloud-sql-proxy.yaml": {
		job:      "schema-migration",
		prepare:  cloudSQL,
		success:  codes{"main": {0}, "cloud-sql-proxy": {0}},
		attempts: codes{"main": {3, 3, 0}, "cloud-sql-proxy": {3, 3, 0}},
		check:    checkSchema,
	},
	"haproxy.yaml": {
		job:      "orders-migration",
		prepare:  shopDB,
		success:  codes{"main": {0}, "haproxy": {0}},
		attempts: codes{"main": {3, 3, 0}, "haproxy": {3, 3, 0}},
		check: func(t *testing.T, ns *kube.Namespace, end *kube.State) {
			expectLog(t, ns, end, "orders-migration", "haproxy", "haproxy stopped by SIGUSR1")
			migrateAgain(t, ns)
			expectSQL(t, ns, "SELECT count(*) FROM orders", "1000")
		},
	},
	"metrics-forwarder.yaml": {
		job:      "order-import",
		prepare:  statsd,
		success:  codes{"main": {0}, "metrics-forwarder": {0}},
		attempts: codes{"main": {3, 3, 0}, "metrics-forwarder": {0}},
		check:    checkMetrics,
	},
	"queue-forwarder.yaml": {
		job:      "queue-forwarder",
		success:  codes{"forwarder": {0}, "queue": {0}},
		attempts: codes{"forwarder": {3, 3, 0}, "queue": {3, 3, 0}},
		check: func(t *testing.T, ns *kube.Namespace, end *kube.State) {
			expectLog(t, ns, end, "queue-forwarder", "forwarder", "forwarded order 3")
			expectLog(t, ns, end, "queue-forwarder", "queue", "forwarder exited 0; redis-server stopped by SIGTERM")
		},
	},
	"three-sidecars.yaml": {
		job:      "page-check",
		success:  codes{"main": {0}, "proxy": {0}, "cache": {0}, "metrics": {0}},
		attempts: codes{"main": {3, 3, 0}, "proxy": {3, 3, 0}, "cache": {3, 3, 0}, "metrics": {3, 3, 0}},
		check: func(t *testing.T, ns *kube.Namespace, end *kube.State) {
			expectLog(t, ns, end, "page-check", "proxy", "nginx stopped by SIGQUIT")
			expectLog(t, ns, end, "page-check", "cache", "redis-server stopped by SIGINT")
			expectLog(t, ns, end, "page-check", "metrics", "statsd_exporter stopped by SIGTERM")
		},
	},
	"two-mains.yaml": {
		job:     "imports",
		success: codes{"orders": {0}, "customers": {0}, "proxy": {0}},
		check: func(t *testing.T, ns *kube.Namespace, end *kube.State) {
			expectLog(t, ns, end, "imports", "proxy", "orders exited 0, customers exited 0; nginx stopped by SIGQUIT")
		},
	},
	"chain.yaml": {
		job:      "crawl",
		success:  codes{"main": {0}, "proxy": {0}, "log-shipper": {0}},
		attempts: codes{"main": {3, 3, 0}, "proxy": {3, 3, 0}, "log-shipper": {3, 3, 0}},
		check: func(t *testing.T, ns *kube.Namespace, end *kube.State) {
			expectLog(t, ns, end, "crawl", "log-shipper", "GET /?last-page")
			expectLog(t, ns, end, "crawl", "log-shipper", "proxy exited 0; tail stopped by SIGTERM")
		},
	},
	"restricted.yaml": {
		job:      "price-update",
		prepare:  enforceRestricted,
		success:  codes{"main": {0}, "metrics": {0}},
		attempts: codes{"main": {3, 3, 0}, "metrics": {3, 3, 0}},
	},
	"native-sidecar.yaml": {
		job:      "native-report",
		success:  codes{"main": {0}, "proxy": {0}},
		attempts: codes{"main": {3, 3, 0}, "proxy": {3, 3, 0}},
		check: func(t *testing.T, ns *kube.Namespace, end *kube.State) {
			expectLog(t, ns, end, "native-report", "main", "Welcome to nginx!")
			expectLog(t, ns, end, "native-report", "proxy", "is kept until the kubelet's SIGTERM")
		},
	},
	"image-volume.yaml": {
		job:      "stock-report",
		success:  codes{"main": {0}, "proxy": {0}},
		attempts: codes{"main": {3, 3, 0}, "proxy": {3, 3, 0}},
		check: func(t *testing.T, ns *kube.Namespace, end *kube.State) {
			expectLog(t, ns, end, "stock-report", "main", "Welcome to nginx!")
		},
	},
	"keep-on-failure.yaml": {
		job:     "warm-cache",
		success: codes{"main": {1, 1, 0}, "cache": {0}},
	},
}

// Every manifest does what its first lines promise.
func TestManifests(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../manifests/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no manifests: %v", err)
	}
	for _, file := range files {
		name := filepath.Base(file)
		if name == "cronjob.yaml" {
			continue // TestCronJob
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, ok := manifests[name]
			if !ok {
				t.Fatalf("%s has no entry in the variable manifests of this test", file)
			}
			m.play(t, name, m.success)
		})
	}
}

// The backoffLimit of every manifest allows three attempts, as the comment beside it says.
func TestManifestsThreeAttempts(t *testing.T) {
	t.Parallel()
	for name, m := range manifests {
		if m.attempts != nil {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				m.play(t, name, m.attempts, failTwice(m.job))
			})
		}
	}
}

func (m manifest) play(t *testing.T, name string, want codes, edits ...kube.Edit) {
	t.Helper()
	ns := cluster.Namespace(t)
	if m.prepare != nil {
		edits = append(edits, m.prepare(t, ns)...)
	}
	apply(t, ns, name, edits...)
	end := expect(t, ns, m.job, complete, want)
	if m.check != nil {
		m.check(t, ns, end)
	}
}

// failTwice makes the mains of a manifest exit with 3 in the first two attempts.
func failTwice(job string) kube.Edit {
	return kube.EditPod(job, func(pod *corev1.PodSpec) {
		for i, c := range pod.Containers {
			if isMain(c) {
				pod.Containers[i].Args = append([]string{"sh", "-c", failing("2") + `exec "$@"`, c.Name}, c.Args...)
			}
		}
	})
}

// apply lets the API server validate a manifest as it is in the repository, and then applies it with the edits.
func apply(t *testing.T, ns *kube.Namespace, name string, edits ...kube.Edit) {
	t.Helper()
	ns.DryRun(t, "../manifests/"+name)
	ns.Apply(t, "../manifests/"+name, append(edits, hasRecommendedLabels)...)
}

// hasRecommendedLabels is an edit that changes nothing. It fails if an object or a template does not have the labels
// that Kubernetes recommends.
func hasRecommendedLabels(objects []*unstructured.Unstructured) error {
	for _, object := range objects {
		if err := checkLabels(object.GetKind(), object.Object); err != nil {
			return err
		}
	}
	return nil
}

func checkLabels(where string, object map[string]any) error {
	for key, value := range object {
		part, ok := value.(map[string]any)
		if !ok {
			continue
		}
		if key != "metadata" {
			if err := checkLabels(where+"."+key, part); err != nil {
				return err
			}
			continue
		}
		labels, _, _ := unstructured.NestedStringMap(part, "labels")
		for _, label := range []string{"name", "component", "part-of"} {
			if labels["app.kubernetes.io/"+label] == "" {
				return fmt.Errorf("%s has no label app.kubernetes.io/%s", where, label)
			}
		}
	}
	return nil
}

func expectLog(t *testing.T, ns *kube.Namespace, end *kube.State, job, container, want string) {
	t.Helper()
	if log := ns.Log(t, end.Pods(job)[0].Name, container, false); !strings.Contains(log, want) {
		t.Errorf("%s did not log %q:\n%s", container, want, log)
	}
}

// With concurrencyPolicy Forbid, a Job that does not end would keep all later Jobs from being created.
func TestCronJob(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	apply(t, ns, "cronjob.yaml", func(objects []*unstructured.Unstructured) error {
		return unstructured.SetNestedField(objects[0].Object, "* * * * *", "spec", "schedule")
	})
	const firings = 3
	fired := ns.Until(t, (firings+1)*time.Minute, "the CronJob to have fired three times", func(s *kube.State) bool {
		return len(s.Jobs()) >= firings
	})
	for i, job := range fired.Jobs() {
		expect(t, ns, job.Name, complete, codes{"main": {0}, "proxy": {0}})
		if i == 0 {
			continue
		}
		previous := fired.Jobs()[i-1]
		if since := job.CreationTimestamp.Sub(previous.CreationTimestamp.Time); since > 90*time.Second {
			t.Errorf("Job %s was created %v after the one before, want 1m0s: a firing was missed", job.Name, since)
		}
		if slices.ContainsFunc(fired.Pods(previous.Name), func(pod *corev1.Pod) bool { return isLive(fired, pod) }) {
			t.Errorf("a pod of Job %s still ran when Job %s was created", previous.Name, job.Name)
		}
	}
}

// The image of Dockerfile.cloud-sql-proxy contains the shim, so the container needs no command.
func TestDockerfileCloudSQLProxy(t *testing.T) {
	t.Parallel()
	m := manifests["cloud-sql-proxy.yaml"]
	image := kube.EditContainer(m.job, "cloud-sql-proxy", func(c *corev1.Container) {
		c.Image, c.Command, c.Args = "localhost/cloud-sql-proxy-with-shim:2.27.0", nil, c.Args[1:]
	})
	m.play(t, "cloud-sql-proxy.yaml", m.success, image)
}

// The main orders is started again alone, while the main customers goes on. The proxy stays for both.
func TestTwoMainsOneFailsTwice(t *testing.T) {
	t.Parallel()
	m := manifests["two-mains.yaml"]
	m.play(t, "two-mains.yaml", codes{"orders": {3, 3, 0}, "customers": {0}, "proxy": {0}},
		shell(m.job, "orders", failing("2")),
		shell(m.job, "customers", "until grep -qx 0 /tmp/pod/orders-terminated; do sleep 0.1; done"))
}

// The proxy exits with the first code in the order of --main that is not 0, although customers ends first.
func TestTwoMainsFail(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	apply(t, ns, "two-mains.yaml",
		kube.EditJob("imports", func(job *batchv1.JobSpec) {
			job.BackoffLimit, job.Template.Spec.RestartPolicy = new(int32), never
		}),
		shell("imports", "orders", "until [ -e /tmp/pod/customers-terminated ]; do sleep 0.1; done; exit 4"),
		shell("imports", "customers", "exit 5"))
	expect(t, ns, "imports", backoffLimitExceeded, codes{"orders": {4}, "customers": {5}, "proxy": {4}})
}

// shell makes a container of a Job run a shell script instead of its command.
func shell(job, container, script string) kube.Edit {
	return kube.EditContainer(job, container, func(c *corev1.Container) { c.Args = []string{"sh", "-c", script} })
}

// enforceRestricted makes the namespace enforce the Pod Security Standard "restricted". It checks that the API server
// now refuses the pod of the other scenarios.
func enforceRestricted(t *testing.T, ns *kube.Namespace) []kube.Edit {
	t.Helper()
	ns.ApplyText(t, `
apiVersion: v1
kind: Namespace
metadata: {name: restricted, labels: {pod-security.kubernetes.io/enforce: restricted}}
`)
	err := ns.DryRunText(asJSON(t, corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{Name: "unrestricted"},
		Spec: newJob(never, 0, proxy(""), worker(query)).Spec.Template.Spec,
	}))
	if err == nil || !strings.Contains(err.Error(), `violates PodSecurity "restricted`) {
		t.Errorf("applying a pod that violates \"restricted\": %v, want it to be refused", err)
	}
	return nil
}

// checkMetrics checks that what main sent right before its end has arrived, because the forwarder was kept for it.
func checkMetrics(t *testing.T, ns *kube.Namespace, end *kube.State) {
	t.Helper()
	metrics := ns.Exec(t, "statsd", "shell", "wget", "-q", "-O", "-", "http://127.0.0.1:9102/metrics")
	if !strings.Contains(metrics, "\norders_imported 1000\n") {
		t.Errorf("the metric that main sent did not arrive:\n%s", metrics)
	}
	if got := lag(end, "order-import", "metrics-forwarder"); got < 4*time.Second {
		t.Errorf("the forwarder ended %v after main, want the 5s of --drain", got)
	}
}

func expectSQL(t *testing.T, ns *kube.Namespace, query, want string) {
	t.Helper()
	got := strings.TrimSpace(ns.Exec(t, "shop-db", "postgres", "psql", "-U", "postgres", "-t", "-A", "-c", query))
	if got != want {
		t.Errorf("%s: %q, want %q", query, got, want)
	}
}

// migrateAgain runs the migration once more. A main whose container is killed after its commit comes back, too.
func migrateAgain(t *testing.T, ns *kube.Namespace) {
	t.Helper()
	const again = "orders-migration-again"
	ns.Apply(t, "../manifests/haproxy.yaml", func(objects []*unstructured.Unstructured) error {
		objects[1].SetName(again)
		return nil
	})
	expect(t, ns, again, complete, codes{"main": {0}, "haproxy": {0}})
}

func checkSchema(t *testing.T, ns *kube.Namespace, end *kube.State) {
	t.Helper()
	expectLog(t, ns, end, "schema-migration", "main", "http://127.0.0.1:9090/readiness answered")
	expectLog(t, ns, end, "schema-migration", "cloud-sql-proxy", "cloud-sql-proxy stopped by SIGTERM")
	expectSQL(t, ns, "SELECT string_agg(column_name, ' ' ORDER BY ordinal_position) "+
		"FROM information_schema.columns WHERE table_name = 'customers'", "id email created")
}
