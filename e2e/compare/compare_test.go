// Package compare measures strategies to end sidecars: those of manifests/compare, which are in common use, and this
// project's own. It runs each of them as real Jobs in the same situations and writes the results to
// manifests/compare/RESULTS.md. It fails only if it could not measure. Run it with make compare.
package compare

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/sentinel-shim/sentinel-shim/e2e/kube"
)

const (
	manifests = "../../manifests/compare/"
	job       = "report" // the Job's name in all manifests
	primary   = "main"

	// The situations in which main never succeeds say what bounds its attempts.
	failure      = "failure"
	failureNever = "failure, Never"

	// hangs is the time after which a Job counts as hanging, from the start of main's last attempt within the
	// backoffLimit. The longest Job that does not hang takes the kubelet's back-off of 40 s before the next attempt.
	hangs = 150 * time.Second
	// look is the time between two looks at a Job. The results do not depend on it: they have the kubelet's times.
	look = 200 * time.Millisecond
)

// strategies are the names of the manifests, in the order of the results.
var strategies = []string{
	"naive", "pkill-root", "pkill-same-user", "pkill-wrong-code", "shared-volume", "happy-sad-file", "quitquitquit",
	"kubexit", "native-sidecar", "restart-all-containers", "sentinel-shim", "native-sidecar-shim",
}

// situation is what happens to the Job of a strategy: how its manifest is edited, and what is done while it runs.
type situation struct {
	name, text string
	want       string   // how the Job has to end
	main       []string // the arguments of main's container; nil for those of the manifest
	sidecars   int      // how many there are; 0 for the one of the manifest
	late       bool     // the sidecar starts only after main has ended, if it is no native one
	killed     bool     // main's container is killed
	once       bool     // restartPolicy Never and backoffLimit 0
}

var situations = []situation{
	{
		name: "success", want: complete,
		text: "The manifest as it is: main uses its sidecar and exits 0.",
	},
	{
		name: failure, want: failed, main: works("3"),
		text: "main exits 3 in every attempt.",
	},
	{
		name: failureNever, want: failed, main: works("3"), once: true,
		text: "The same under `restartPolicy: Never` with `backoffLimit: 0`, so there should be a single attempt.\n" +
			"restart-all-containers keeps its rule. The shim of native-sidecar-shim gets `SHIM_RESTART_POLICY: Never`.",
	},
	{
		name: "two failures", want: complete, main: works("3 3 0"),
		text: "main exits 3 twice, and 0 in the third attempt.",
	},
	{
		name: "main first", want: complete, main: []string{"true"}, late: true,
		text: "main exits 0 before the sidecar starts: the sidecar needs a ConfigMap, which is created after main\n" +
			"has ended. The seconds count from the sidecar's start. A native sidecar starts before main, so it is\n" +
			"never late.",
	},
	{
		name: "killed, OnFailure", want: complete, main: works("hold 0"), killed: true,
		text: "Every process of main's container is killed at once, as by the OOM killer on cgroup v2; main exits\n" +
			"0 in the second attempt.",
	},
	{
		name: "killed, Never", want: failed, main: works("hold"), killed: true, once: true,
		text: "The same under `restartPolicy: Never` with `backoffLimit: 0`, edited as in \"failure, Never\".",
	},
	{
		name: "three sidecars", want: complete, main: works("3 0"), sidecars: 3,
		text: "main uses three sidecars; it exits 3, and 0 in the second attempt.",
	},
}

// withoutSidecar is main's termination message if the attempt had no sidecar, or lost it.
const withoutSidecar = "without a sidecar"

// works is a main that uses its sidecars: it waits for them, works through them for some seconds, and exits. The plan
// has an exit code for each attempt; the last one is also for all later attempts. With "hold" instead of a code, main
// works until it is killed. If an attempt has no sidecar for 10 seconds, or loses one while it works, main exits
// with 1.
func works(plan string) []string {
	return []string{"sh", "-c", `
ports=$2
up() { for port in $ports; do nc -w 1 127.0.0.1 $port -e true || return 1; done; }
lost() { echo '` + withoutSidecar + `' | tee /dev/termination-log; exit 1; }
echo >>/attempts/begun
attempt=$(wc -l </attempts/begun)
set -- $1
while [ $attempt -gt 1 ] && [ $# -gt 1 ]; do shift; attempt=$((attempt - 1)); done
tries=50
until up; do tries=$((tries - 1)); [ $tries -gt 0 ] || lost; sleep 0.2; done
echo working
looks=15
while [ $looks -gt 0 ]; do up || lost; sleep 0.2; [ $1 = hold ] || looks=$((looks - 1)); done
exit $1
`, "sh", plan}
}

func TestCompare(t *testing.T) {
	cluster, err := kube.Connect()
	if err != nil {
		t.Fatal(err)
	}
	kubexit := os.Getenv("KUBEXIT")
	if kubexit != "" && !filepath.IsAbs(kubexit) {
		t.Fatalf("KUBEXIT=%s is not an absolute path: name the program by its path on the node", kubexit)
	}

	var mu sync.Mutex
	got := results{}
	want := 0
	t.Run("run", func(t *testing.T) {
		for _, s := range situations {
			for _, strategy := range strategies {
				if strategy == "kubexit" && kubexit == "" {
					continue
				}
				want++
				t.Run(strategy+"/"+s.name, func(t *testing.T) {
					t.Parallel()
					result := measure(t, cluster, strategy, s, kubexit)
					t.Log(result)
					mu.Lock()
					defer mu.Unlock()
					got[key{strategy, s.name}] = result
				})
			}
		}
	})
	if len(got) < want {
		t.Skipf("only %d of %d Jobs were measured, so RESULTS.md is not written", len(got), want)
	}
	if err := os.WriteFile(manifests+"RESULTS.md", []byte(got.markdown(cluster.Version())), 0o644); err != nil {
		t.Fatal(err)
	}
}

// measure runs the Job of a strategy in a situation until it and all its containers have ended, or until it hangs.
func measure(t *testing.T, cluster *kube.Cluster, strategy string, s situation, kubexit string) result {
	t.Helper()
	ns := cluster.Namespace(t)
	logs := sidecarLogs{}
	native, attempts := false, 0
	ns.Apply(t, manifests+strategy+".yaml", kube.EditJob(job, func(spec *batchv1.JobSpec) {
		s.edit(spec, kubexit)
		native = slices.ContainsFunc(spec.Template.Spec.InitContainers, isSidecar)
		attempts = int(*spec.BackoffLimit) + 1
	}))
	deadline := time.Now().Add(hangs)
	if s.late {
		if !native {
			ns.Until(t, time.Until(deadline), "main to end", func(state *kube.State) bool {
				run, ok := state.Last(job, primary)
				return ok && run.Ended
			})
		}
		ns.ApplyText(t, `{apiVersion: v1, kind: ConfigMap, metadata: {name: late}}`)
	}
	if s.killed {
		run := ns.UntilRunning(t, time.Until(deadline), job, primary, 0)
		ns.UntilLog(t, time.Until(deadline), job, primary, "working")
		ns.Kill(t, run)
	}
	for begun := 0; ; time.Sleep(look) {
		state := ns.State()
		logs.read(cluster.Root(t), state)
		if n := len(state.Runs(job, primary)); n > begun && n <= attempts {
			begun, deadline = n, time.Now().Add(hangs)
		}
		if ended(state) || time.Now().After(deadline) {
			return resultOf(t, state, logs)
		}
	}
}

func ended(s *kube.State) bool {
	return kube.Outcome(s.Job(job)) != "" && !slices.ContainsFunc(s.Pods(job), func(pod *corev1.Pod) bool {
		return !s.Deleted(pod) && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed
	})
}

func (s situation) edit(spec *batchv1.JobSpec, kubexit string) {
	pod := &spec.Template.Spec
	substitute(pod, kubexit)
	for n := 2; n <= s.sidecars; n++ {
		pod.Containers = addSidecar(pod.Containers, n)
		pod.InitContainers = addSidecar(pod.InitContainers, n)
	}
	if s.sidecars > 1 && *spec.BackoffLimit > 3 {
		// Sidecars are restarted with main, and the manifest's limit allows for only one of them.
		*spec.BackoffLimit = 2*int32(1+s.sidecars) + 1
	}
	if s.once {
		neverRestart(pod)
		*spec.BackoffLimit = 0
	}
	var ports, adminPorts []string
	for _, container := range sidecarsOf(pod) {
		ports = append(ports, container.Args[valueOf(container, "--port")])
		if i := valueOf(container, "--admin-port"); i > 0 {
			adminPorts = append(adminPorts, container.Args[i])
		}
		if s.late {
			container.EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{
				LocalObjectReference: corev1.LocalObjectReference{Name: "late"},
			}}}
		}
	}
	for i := range pod.Containers {
		if main := &pod.Containers[i]; main.Name == primary && s.main != nil {
			main.Args = append(slices.Clone(s.main), strings.Join(ports, " "))
			main.VolumeMounts = append(main.VolumeMounts, corev1.VolumeMount{Name: "attempts", MountPath: "/attempts"})
			pod.Volumes = append(pod.Volumes, corev1.Volume{
				Name: "attempts", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}},
			})
		}
		for j := range pod.Containers[i].Env {
			if variable := &pod.Containers[i].Env[j]; variable.Name == "ADMIN_PORTS" {
				variable.Value = strings.Join(adminPorts, " ")
			}
		}
	}
}

// neverRestart sets the restart policy Never wherever a manifest sets one that is not part of its strategy.
func neverRestart(pod *corev1.PodSpec) {
	pod.RestartPolicy = corev1.RestartPolicyNever
	for i := range pod.Containers {
		if main := &pod.Containers[i]; main.RestartPolicy != nil {
			*main.RestartPolicy = corev1.ContainerRestartPolicyNever
		}
	}
	for i := range pod.InitContainers {
		// A native sidecar's own policy is Always, so its shim has to be told.
		if sidecar := &pod.InitContainers[i]; slices.Contains(sidecar.Command, "--native-sidecar") {
			sidecar.Env = append(sidecar.Env, corev1.EnvVar{
				Name: "SHIM_RESTART_POLICY", Value: string(corev1.RestartPolicyNever),
			})
		}
	}
}

// substitute replaces what the test does not have: an account of Google Cloud, and a registry with kubexit's image.
func substitute(pod *corev1.PodSpec, kubexit string) {
	for i := range pod.Containers {
		if strings.Contains(pod.Containers[i].Image, "cloud-sql-proxy") {
			pod.Containers[i].Env = append(pod.Containers[i].Env,
				corev1.EnvVar{Name: "CSQL_PROXY_TOKEN", Value: "any"},
				corev1.EnvVar{Name: "CSQL_PROXY_LAZY_REFRESH", Value: "true"})
		}
	}
	for i := range pod.InitContainers {
		if init := &pod.InitContainers[i]; init.Name == "kubexit" {
			init.Image = "busybox:1.35"
			init.VolumeMounts = append(init.VolumeMounts,
				corev1.VolumeMount{Name: "binary", MountPath: "/bin/kubexit"})
			file := corev1.HostPathFile
			pod.Volumes = append(pod.Volumes, corev1.Volume{Name: "binary", VolumeSource: corev1.VolumeSource{
				HostPath: &corev1.HostPathVolumeSource{Path: kubexit, Type: &file},
			}})
		}
	}
}

// addSidecar adds the nth copy of the sidecar, with its own name and ports, if the list has the sidecar.
func addSidecar(containers []corev1.Container, n int) []corev1.Container {
	for i, container := range containers {
		if !isSidecar(container) {
			continue
		}
		added := container.DeepCopy()
		added.Name = fmt.Sprintf("%s-%d", container.Name, n)
		for i, word := range added.Command {
			if word == container.Name {
				added.Command[i] = added.Name
			}
		}
		for i, variable := range added.Env {
			if variable.Value == container.Name {
				added.Env[i].Value = added.Name
			}
		}
		for _, flag := range []string{"--port", "--admin-port"} {
			if i := valueOf(added, flag); i > 0 {
				first, _ := strconv.Atoi(added.Args[i])
				added.Args[i] = strconv.Itoa(first + n - 1)
			}
		}
		return slices.Insert(containers, i+n-1, *added)
	}
	return containers
}

// valueOf returns the index of a flag's value in the arguments of a sidecar, and 0 if it does not have the flag.
func valueOf(c *corev1.Container, flag string) int { return slices.Index(c.Args, flag) + 1 }

func isSidecar(c corev1.Container) bool { return slices.Contains(c.Args, "--port") }

func sidecarsOf(pod *corev1.PodSpec) []*corev1.Container {
	var sidecars []*corev1.Container
	for _, containers := range [][]corev1.Container{pod.InitContainers, pod.Containers} {
		for i := range containers {
			if isSidecar(containers[i]) {
				sidecars = append(sidecars, &containers[i])
			}
		}
	}
	return sidecars
}
