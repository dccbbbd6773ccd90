// Package programs measures two ways to bring sentinel and shim into a pod: an init container with --copy-to, and an
// image volume. It runs 50 pods at once, each way in turn, and writes the medians to docs/programs.md. It fails only
// if it could not measure. It needs the cluster of e2e/cluster for itself. Run it with make programs.
package programs

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/sentinel-shim/sentinel-shim/e2e/kube"
)

const (
	pods   = 50
	rounds = 3

	manifest = "../../manifests/restricted.yaml"
	document = "../../docs/programs.md"

	// The names in the manifest: of the Job, of its containers, and of the volume that has the two programs.
	job     = "price-update"
	primary = "main"
	sidecar = "metrics"
	volume  = "sentinel-shim"

	begun    = "main has begun" // the first line of main's command
	startMax = 5 * time.Minute  // until all containers run
	goneMax  = 3 * time.Minute  // from a Job's deletion until its pods are gone
)

// way is a way to bring the programs into a pod.
type way struct {
	name string
	edit func(*corev1.PodSpec) // changes the manifest, which has an init container with --copy-to
}

var ways = []way{
	{"init container", func(*corev1.PodSpec) {}},
	{"image volume", func(pod *corev1.PodSpec) {
		image := pod.InitContainers[0].Image
		pod.InitContainers = nil
		of := slices.IndexFunc(pod.Volumes, func(v corev1.Volume) bool { return v.Name == volume })
		pod.Volumes[of].VolumeSource = corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: image}}
	}},
}

func TestPrograms(t *testing.T) {
	cluster, err := kube.Connect()
	if err != nil {
		t.Fatal(err)
	}
	root := cluster.Root(t)
	group := podsGroup(t, cluster)

	// Pages of an image are in memory once, and belong to the first pod that has used them. This pod is none of those
	// that are measured.
	for _, w := range ways {
		t.Run("first use, "+w.name, func(t *testing.T) { w.measure(t, cluster, root, group, 1) })
	}
	got := map[string][]figures{}
	for range rounds {
		for _, w := range ways {
			t.Run(w.name, func(t *testing.T) {
				f := w.measure(t, cluster, root, group, pods)
				t.Log(f)
				got[w.name] = append(got[w.name], f)
			})
		}
	}
	for _, w := range ways {
		if len(got[w.name]) < rounds {
			t.Skipf("%s: only %d of %d rounds were measured, so docs/programs.md is not written",
				w.name, len(got[w.name]), rounds)
		}
	}
	if err := os.WriteFile(document, []byte(markdown(got, cluster.Version())), 0o644); err != nil {
		t.Fatal(err)
	}
}

// measure runs a Job with n pods until all of them do their work, and deletes it.
func (w way) measure(t *testing.T, cluster *kube.Cluster, root string, group cgroup, n int) figures {
	t.Helper()
	ns := cluster.Namespace(t)
	before := group.memory(t)
	created := time.Now()
	ns.Apply(t, manifest, kube.EditJob(job, func(spec *batchv1.JobSpec) { w.editJob(spec, int32(n)) }))
	running := ns.Until(t, startMax, "all containers to run", func(s *kube.State) bool {
		runs := slices.Concat(s.Runs(job, primary), s.Runs(job, sidecar))
		return len(runs) == 2*n && !slices.ContainsFunc(runs, func(r kube.Run) bool { return r.Ended })
	})
	var f figures
	for _, pod := range running.Pods(job) {
		began := ns.UntilLog(t, startMax, pod.Name, primary, begun)
		f.start = max(f.start, began.Sub(created))
	}
	f.memory = group.memory(t).minus(before)
	for _, pod := range running.Pods(job) {
		directory := filepath.Join(root, "var/lib/kubelet/pods", string(pod.UID), "volumes/kubernetes.io~empty-dir")
		f.disk += diskUsage(t, directory)
	}

	// A pod is gone when the kubelet has removed its containers, its volumes and its cgroup.
	ns.DeleteJob(t, job)
	ns.Until(t, goneMax, "the pods to be gone", func(s *kube.State) bool {
		return !slices.ContainsFunc(s.Pods(job), func(pod *corev1.Pod) bool { return !s.Deleted(pod) })
	})
	return f
}

// editJob makes both ways differ in nothing but the way of the programs. main works until it gets a SIGTERM; the
// sidecar is small, so that the programs' part in the memory is not lost in it.
func (w way) editJob(spec *batchv1.JobSpec, n int32) {
	spec.Parallelism, spec.Completions = &n, &n
	pod := &spec.Template.Spec
	w.edit(pod)
	for i := range pod.Containers {
		c := &pod.Containers[i]
		switch c.Name {
		case primary:
			c.Command = []string{"/sentinel-shim/sentinel", "--"}
			c.Args = []string{"sh", "-c", "echo " + begun + "; exec sleep 3600"}
		case sidecar:
			c.Image = "busybox:1.35"
			c.Args = []string{"httpd", "-f", "-p", "9125", "-h", "/etc"}
		}
	}
	// All pods have to fit on one small node.
	for _, containers := range [][]corev1.Container{pod.InitContainers, pod.Containers} {
		for i := range containers {
			containers[i].Resources.Requests = corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("1m"), corev1.ResourceMemory: resource.MustParse("1Mi"),
			}
		}
	}
}

// cgroup is the directory of a control group, and how the kernel names there what this package measures.
type cgroup struct{ directory, usage, anonymous, cache string }

// podsGroup returns the control group of all pods of the node.
func podsGroup(t *testing.T, cluster *kube.Cluster) cgroup {
	t.Helper()
	node := strings.TrimSpace(cluster.Kubectl(t, "get", "nodes", "--output", "jsonpath={.items[0].metadata.name}"))
	var config struct {
		Kubelet struct {
			CgroupRoot string `json:"cgroupRoot"`
		} `json:"kubeletconfig"`
	}
	text := cluster.Kubectl(t, "get", "--raw", "/api/v1/nodes/"+node+"/proxy/configz")
	if err := json.Unmarshal([]byte(text), &config); err != nil {
		t.Fatalf("the kubelet's configuration: %v\n%s", err, text)
	}
	path := filepath.Join(config.Kubelet.CgroupRoot, "kubepods")
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return cgroup{filepath.Join("/sys/fs/cgroup", path), "memory.current", "anon", "file"}
	}
	return cgroup{filepath.Join("/sys/fs/cgroup/memory", path), "memory.usage_in_bytes", "total_rss", "total_cache"}
}

// memory reads how much memory the group and all groups in it use.
func (g cgroup) memory(t *testing.T) memory {
	t.Helper()
	m := memory{all: number(t, g.read(t, g.usage))}
	for line := range strings.Lines(g.read(t, "memory.stat")) {
		switch key, value, _ := strings.Cut(line, " "); key {
		case g.anonymous:
			m.anonymous = number(t, value)
		case g.cache:
			m.cache = number(t, value)
		}
	}
	return m
}

func (g cgroup) read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(g.directory, file))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func number(t *testing.T, text string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// diskUsage returns how many bytes of the disk a directory and everything in it take.
func diskUsage(t *testing.T, directory string) int64 {
	t.Helper()
	var sum int64
	if err := filepath.WalkDir(directory, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		sum += info.Sys().(*syscall.Stat_t).Blocks * 512
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return sum
}
