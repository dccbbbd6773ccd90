package e2e

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/sentinel-shim/sentinel-shim/e2e/kube"
)

// The admission policies of manifests/one-label, installed for all tests of this file: Jobs as anybody writes them,
// without a word of this project but the label.

const (
	mainLabel = "sentinel-shim.github.io/main"
	oneLabel  = "../manifests/one-label"

	// page is a shell's command that needs the web server of stock.
	page = "until wget -q -O /dev/null http://127.0.0.1/; do sleep 0.1; done; "
)

var web = corev1.Container{Name: "web", Image: "nginx:1.22"}

// stock is a Job whose main, app, runs a shell's script beside these sidecars.
func stock(policy corev1.RestartPolicy, backoffLimit int32, script string, sidecars ...corev1.Container) *batchv1.Job {
	job := newJob(policy, backoffLimit, append(sidecars,
		corev1.Container{Name: "app", Image: busybox, Command: []string{"sh", "-c", script}})...)
	job.Spec.Template.Spec.InitContainers, job.Spec.Template.Spec.Volumes = nil, nil
	return job
}

// labelled puts the label onto a Job's pods.
func labelled(job *batchv1.Job) *batchv1.Job {
	job.Spec.Template.Labels = map[string]string{mainLabel: "app"}
	return job
}

// podOf is the pod that a Job creates.
func podOf(job *batchv1.Job) *corev1.Pod {
	pod := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: job.Name, Labels: job.Spec.Template.Labels},
		Spec:       job.Spec.Template.Spec,
	}
	// Without the volume of the token, whose name differs from time to time.
	pod.Spec.AutomountServiceAccountToken = new(bool)
	return pod
}

func TestOneLabel(t *testing.T) {
	t.Parallel()
	if !cluster.Serves("admissionregistration.k8s.io", "v1", "MutatingAdmissionPolicy") {
		t.Skip("needs MutatingAdmissionPolicy v1, which Kubernetes 1.36 has")
	}
	ns := cluster.Namespace(t)
	bare := podOf(stock(never, 0, "true", web))
	before := admit(t, ns, bare)
	cluster.Install(t, "-k", oneLabel)
	untilInEffect(t, ns)

	for name, test := range map[string]func(*testing.T){
		"HangsWithoutTheLabel": testHangsWithoutTheLabel,
		"Success": func(t *testing.T) {
			t.Parallel()
			ns, end := play(t, labelled(stock(never, 0, page, web)), complete, codes{"app": {0}, "web": {0}})
			expectLog(t, ns, end, scenario, "web", "docker-entrypoint.sh stopped by SIGQUIT")
			want := map[string]string{"app": "/sentinel-shim/sentinel", "web": "/sentinel-shim/shim"}
			if got := wrappers(&end.Pods(scenario)[0].Spec); !maps.Equal(got, want) {
				t.Errorf("the first words of the commands are %v, want %v", got, want)
			}
		},
		"Failure": func(t *testing.T) {
			t.Parallel()
			play(t, labelled(stock(never, 0, page+"exit 7", web)), backoffLimitExceeded, codes{"app": {7}, "web": {7}})
		},
		"FailsTwice": func(t *testing.T) {
			t.Parallel()
			play(t, labelled(stock(onFailure, 5, page+failing("2")+page, web)), complete,
				codes{"app": {3, 3, 0}, "web": {3, 3, 0}})
		},
		"HelmChart":     testHelmChart,
		"CronJob":       testLabelledCronJob,
		"Indexed":       testIndexed,
		"NativeSidecar": testLabelledNativeSidecar,
		"TwoMains":      testTwoMains,
		"NewEntry":      testNewEntry,
		"Refused":       testRefused,
		"Warned":        testWarned,
		"Reinvoked":     testReinvoked,
		"SecondPass":    testSecondPass,
		"Unlabelled": func(t *testing.T) {
			t.Parallel()
			if after := admit(t, ns, bare); after != before {
				t.Errorf("with the policies a pod without the label is\n%s\nand was without them\n%s", after, before)
			}
		},
	} {
		t.Run(name, test)
	}
}

// untilInEffect waits until the API server knows the policies.
func untilInEffect(t *testing.T, ns *kube.Namespace) {
	t.Helper()
	good := asJSON(t, podOf(labelled(stock(never, 0, "true", web))))
	bad := labelled(stock(never, 0, "true", corev1.Container{Name: "own", Image: "example.com/own"}))
	tight := asJSON(t, labelled(stock(onFailure, 1, "true", web)))
	untilKnown(t, func() (bool, string) {
		pod, err := ns.Admit(good)
		wrapped := err == nil && strings.Contains(asJSON(t, pod), "/sentinel-shim/shim")
		_, podErr := ns.Admit(asJSON(t, podOf(bad)))
		_, jobErr := ns.Admit(asJSON(t, bad))
		warned, _ := ns.Admit(tight)
		return wrapped && podErr != nil && jobErr != nil && len(warned.Warnings) > 0, fmt.Sprintf(
			"a good pod: wrapped %v, error %v; a bad pod: %v; its Job: %v; the warnings for another Job: %q",
			wrapped, err, podErr, jobErr, warned.Warnings)
	})
}

// untilKnown waits until the API server acts as the policies that were applied say. No event tells that, so it asks
// again and again. What was seen last explains why it has waited in vain.
func untilKnown(t *testing.T, known func() (ok bool, seen string)) {
	t.Helper()
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(time.Minute)
	for {
		ok, seen := known()
		if ok {
			return
		}
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("the API server does not do what was applied: %s", seen)
		}
	}
}

// admit returns what the API server makes of a pod, without what differs from time to time.
func admit(t *testing.T, ns *kube.Namespace, pod *corev1.Pod) string {
	t.Helper()
	admitted, err := ns.Admit(asJSON(t, pod))
	if err != nil {
		t.Fatal(err)
	}
	admitted.SetUID("")
	admitted.SetCreationTimestamp(metav1.Time{})
	admitted.SetManagedFields(nil)
	return asJSON(t, admitted)
}

// admittedPod is the pod that the API server makes of a Job's pod.
func admittedPod(t *testing.T, ns *kube.Namespace, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	admitted, err := ns.Admit(asJSON(t, pod))
	if err != nil {
		t.Fatal(err)
	}
	got := &corev1.Pod{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(admitted.Object, got); err != nil {
		t.Fatal(err)
	}
	return got
}

// wrappers are the first words of the commands of all containers, init containers too, by the container's name.
func wrappers(pod *corev1.PodSpec) map[string]string {
	first := map[string]string{}
	for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
		if len(c.Command) > 0 {
			first[c.Name] = c.Command[0]
		}
	}
	return first
}

// It hangs for as long as anybody waits. What is seen here is that the sidecar runs on for longer than a sidecar takes
// that has been told of main's end.
func testHangsWithoutTheLabel(t *testing.T) {
	t.Parallel()
	ns := start(t, stock(never, 0, page, web))
	ended := func(s *kube.State) bool {
		run, ok := s.Last(scenario, "app")
		return ok && run.Ended
	}
	ns.Until(t, patience, "app to end", ended)
	time.Sleep(promptly)
	state := ns.State()
	if run, _ := state.Last(scenario, "web"); run.Ended || kube.Outcome(state.Job(scenario)) != "" {
		t.Errorf("%v, and the Job is %q: want it to hang", run, kube.Outcome(state.Job(scenario)))
	}
}

// A Job as Helm charts have them: a hook that migrates the database, in a namespace that enforces "restricted".
func testHelmChart(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	enforceRestricted(t, ns)
	ns.ApplyText(t, asJSON(t, corev1.ConfigMap{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: metav1.ObjectMeta{Name: "settings"},
		Data: map[string]string{"PORT": "5432", "SENTINEL_WAIT_FOR": "tcp://127.0.0.1:5432"},
	}))
	yes, no := true, false
	locked := &corev1.SecurityContext{
		AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes,
		Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
	}
	probe := func(path string) *corev1.Probe {
		return &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 60, ProbeHandler: corev1.ProbeHandler{
			HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromString("health")},
		}}
	}
	script := `set -e; nc 127.0.0.1 "$PORT" </dev/null; touch /tmp/done; ` + failing("1")
	job := labelled(stock(onFailure, 5, script,
		corev1.Container{
			Name: "cloud-sql-proxy", Image: "gcr.io/cloud-sql-connectors/cloud-sql-proxy:2.27.0",
			Args: []string{
				"--token=any", "--lazy-refresh", "--port=5432", "--health-check", "--http-address=0.0.0.0",
				"my-project:europe-west1:shop",
			},
			Ports:        []corev1.ContainerPort{{Name: "health", ContainerPort: 9090}},
			StartupProbe: probe("/startup"), LivenessProbe: probe("/liveness"),
		}))
	job.Labels = map[string]string{"helm.sh/chart": "shop-1.0.0", "app.kubernetes.io/managed-by": "Helm"}
	job.Annotations = map[string]string{
		"helm.sh/hook": "pre-install,pre-upgrade", "helm.sh/hook-weight": "-5",
		"helm.sh/hook-delete-policy": "before-hook-creation",
	}
	pod := &job.Spec.Template.Spec
	uid := int64(10001)
	pod.SecurityContext = &corev1.PodSecurityContext{
		RunAsNonRoot: &yes, RunAsUser: &uid, FSGroup: &uid,
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	pod.Volumes = []corev1.Volume{{
		Name: "tmp", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}},
	}}
	pod.InitContainers = []corev1.Container{{
		Name: "wait", Image: busybox, Command: []string{"true"}, SecurityContext: locked,
	}}
	for i := range pod.Containers {
		c := &pod.Containers[i]
		c.SecurityContext = locked
		c.EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{
			LocalObjectReference: corev1.LocalObjectReference{Name: "settings"},
		}}}
		// The volume of the runs is then mounted below another mount.
		c.VolumeMounts = []corev1.VolumeMount{{Name: "tmp", MountPath: "/tmp"}}
	}
	ns.ApplyText(t, asJSON(t, job))
	end := expect(t, ns, scenario, complete, codes{"app": {3, 0}, "cloud-sql-proxy": {3, 0}})
	expectLog(t, ns, end, scenario, "cloud-sql-proxy", "cloud-sql-proxy stopped by SIGTERM")
}

func testLabelledCronJob(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	ns.ApplyText(t, asJSON(t, batchv1.CronJob{
		TypeMeta:   metav1.TypeMeta{APIVersion: "batch/v1", Kind: "CronJob"},
		ObjectMeta: metav1.ObjectMeta{Name: scenario},
		Spec: batchv1.CronJobSpec{
			Schedule: "* * * * *", ConcurrencyPolicy: batchv1.ForbidConcurrent,
			JobTemplate: batchv1.JobTemplateSpec{Spec: labelled(stock(onFailure, 0, page, web)).Spec},
		},
	}))
	hasFired := func(s *kube.State) bool { return len(s.Jobs()) > 0 }
	fired := ns.Until(t, 2*time.Minute, "the CronJob to have fired", hasFired)
	expect(t, ns, fired.Jobs()[0].Name, complete, codes{"app": {0}, "web": {0}})
}

// Each pod of an Indexed Job has runs of its own.
func testIndexed(t *testing.T) {
	t.Parallel()
	job := labelled(stock(never, 0, page+`[ "$JOB_COMPLETION_INDEX" != 1 ] || exit 5`, web))
	three, mode, none := int32(3), batchv1.IndexedCompletion, int32(0)
	job.Spec.Completions, job.Spec.Parallelism, job.Spec.CompletionMode = &three, &three, &mode
	job.Spec.BackoffLimit, job.Spec.BackoffLimitPerIndex = nil, &none
	ns := start(t, job)
	end := untilOver(t, ns, scenario, "Failed: FailedIndexes")
	for _, pod := range end.Pods(scenario) {
		want := 0
		if pod.Annotations[batchv1.JobCompletionIndexAnnotation] == "1" {
			want = 5
		}
		for _, run := range end.Runs(pod.Name, "") {
			if run.ExitCode != want {
				t.Errorf("%v, want an exit code of %d", run, want)
			}
		}
	}
	if pods := end.Pods(scenario); len(pods) != 3 {
		t.Errorf("%d pods, want one for each of 3 indexes", len(pods))
	}
}

// An init container with restartPolicy Always is wrapped, another one is not.
func testLabelledNativeSidecar(t *testing.T) {
	t.Parallel()
	always := corev1.ContainerRestartPolicyAlways
	native := web
	native.RestartPolicy = &always
	native.StartupProbe = &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 60, ProbeHandler: corev1.ProbeHandler{
		HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt32(80)},
	}}
	job := labelled(stock(onFailure, 5, page+failing("1")))
	job.Spec.Template.Spec.InitContainers = []corev1.Container{
		{Name: "setup", Image: busybox, Command: []string{"true"}}, native,
	}
	_, end := play(t, job, complete, codes{"app": {3, 0}, "web": {3, 0}})
	pod := &end.Pods(scenario)[0].Spec
	want := map[string]string{"app": "/sentinel-shim/sentinel", "web": "/sentinel-shim/shim", "setup": "true"}
	if got := wrappers(pod); !maps.Equal(got, want) {
		t.Errorf("the first words of the commands are %v, want %v", got, want)
	}
}

// The label names one main. The other one is wrapped by hand, and its command is left as it is.
func testTwoMains(t *testing.T) {
	t.Parallel()
	proxy := web
	proxy.Env = []corev1.EnvVar{{Name: "SHIM_MAIN", Value: "app second"}}
	second := corev1.Container{
		Name: "second", Image: busybox,
		Command: []string{"/sentinel-shim/sentinel", "--name", "second", "--"},
		Args:    []string{"sh", "-c", page + "until [ -e /tmp/pod/app-terminated ]; do sleep 0.1; done; " + page},
	}
	_, end := play(t, labelled(stock(never, 0, page, proxy, second)), complete,
		codes{"app": {0}, "second": {0}, "web": {0}})
	if got := end.Pods(scenario)[0].Spec.Containers[1]; !slices.Equal(got.Command, second.Command) || got.Env != nil {
		t.Errorf("the container that was wrapped by hand has the command %q and the variables %v", got.Command, got.Env)
	}
}

// A user annotates the namespace with the entrypoint of an image, and from then on its containers are wrapped.
func testNewEntry(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	exporter := corev1.Container{Name: "exporter", Image: "registry.example.com/team/exporter:1.2"}
	pod := podOf(labelled(stock(never, 0, "true", exporter)))
	_, err := ns.Admit(asJSON(t, pod))
	expectRefusal(t, "a pod whose image is not known", err, []string{"registry.example.com_team_exporter"})
	cluster.Kubectl(t, "annotate", "namespace", "sentinel-shim",
		"entrypoint.sentinel-shim.github.io/registry.example.com_team_exporter="+
			"SHIM_DRAIN=5s\n/exporter\n\n--port\n9100")
	untilKnown(t, func() (bool, string) {
		_, err := ns.Admit(asJSON(t, pod))
		return err == nil, fmt.Sprint(err)
	})
	got := admittedPod(t, ns, pod).Spec.Containers[0]
	if want := []string{"/sentinel-shim/shim", "--", "/exporter"}; !slices.Equal(got.Command, want) {
		t.Errorf("the command is %q, want %q", got.Command, want)
	}
	if want := []string{"--port", "9100"}; !slices.Equal(got.Args, want) {
		t.Errorf("the args are %q, want %q", got.Args, want)
	}
	want := []corev1.EnvVar{
		{Name: "SHIM_MAIN", Value: "app"}, {Name: "SHIM_NAME", Value: "exporter"}, {Name: "SHIM_DRAIN", Value: "5s"},
	}
	if !slices.Equal(got.Env, want) {
		t.Errorf("the variables are %v, want %v", got.Env, want)
	}
}

// A refusal says what to do, for the pod and already for its Job.
func testRefused(t *testing.T) {
	t.Parallel()
	own := func(change func(*corev1.PodSpec)) *batchv1.Job {
		sidecar := corev1.Container{Name: "own", Image: "registry.example.com:5000/team/own:1.2"}
		job := labelled(stock(never, 0, "true", sidecar))
		change(&job.Spec.Template.Spec)
		return job
	}
	for name, c := range map[string]struct {
		job  *batchv1.Job
		want []string // nothing: it is not refused
		pod  bool     // only the pod is refused, not its Job
	}{
		"NoEntry": {own(func(*corev1.PodSpec) {}), []string{
			"container own", "image registry.example.com:5000/team/own:1.2", "annotate the namespace sentinel-shim",
			"entrypoint.sentinel-shim.github.io/registry.example.com_5000_team_own", "a command",
		}, false},
		"NoEntryDigest": {own(func(pod *corev1.PodSpec) {
			pod.Containers[0].Image = "team/own@sha256:" + strings.Repeat("0", 64)
		}), []string{"container own", "github.io/team_own,"}, false},
		"Command": {own(func(pod *corev1.PodSpec) { pod.Containers[0].Command = []string{"/own"} }), nil, false},
		"NoSuchMain": {own(func(pod *corev1.PodSpec) {
			pod.Containers[0].Command, pod.Containers[1].Name = []string{"/own"}, "application"
		}), []string{"names the container app", "own, application"}, false},
		"VolumeOutlivesPod": {own(func(pod *corev1.PodSpec) {
			pod.Containers[0].Command = []string{"/own"}
			pod.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/tmp/pod"}}
			pod.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
				HostPath: &corev1.HostPathVolumeSource{Path: "/tmp"},
			}}}
		}), []string{"share one emptyDir at /tmp/pod"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns := cluster.Namespace(t)
			_, err := ns.Admit(asJSON(t, podOf(c.job)))
			expectRefusal(t, "the pod", err, c.want)
			if _, err := ns.Admit(asJSON(t, c.job)); c.pod {
				expectRefusal(t, "the Job", err, nil)
			} else {
				expectRefusal(t, "the Job", err, c.want)
			}
		})
	}
}

func expectRefusal(t *testing.T, what string, err error, want []string) {
	t.Helper()
	if (err == nil) != (len(want) == 0) {
		t.Fatalf("%s: error %v, want one with %q", what, err, want)
	}
	for _, part := range want {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%s is refused with %q, which does not have %q", what, err, part)
		}
	}
}

func testWarned(t *testing.T) {
	t.Parallel()
	outliving := web
	outliving.Env = []corev1.EnvVar{{Name: "SHIM_KEEP_ON_FAILURE", Value: "true"}}
	slow := web
	slow.Env = []corev1.EnvVar{{Name: "SHIM_HOLD", Value: "1m"}}
	for name, c := range map[string]struct {
		job  *batchv1.Job
		want []string // parts of the warnings, in their order
	}{
		"Attempts1":     {stock(onFailure, 2, "true", web), []string{"backoffLimit 2 leaves main no second attempt"}},
		"Attempts2":     {stock(onFailure, 3, "true", web), nil},
		"NoRetry":       {stock(onFailure, 0, "true", web), nil},
		"Never":         {stock(never, 1, "true", web), nil},
		"KeepOnFailure": {stock(onFailure, 2, "true", outliving), nil},
		"Hold": {stock(never, 0, "true", slow), []string{
			"SHIM_HOLD and SHIM_GRACE_PERIOD of container web add up to 70s",
		}},
		"Both": {stock(onFailure, 1, "true", slow), []string{
			"set it to 3 or more, or to 0", "terminationGracePeriodSeconds 30 is too short",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns := cluster.Namespace(t)
			for _, object := range []any{labelled(c.job), batchv1.CronJob{
				TypeMeta:   metav1.TypeMeta{APIVersion: "batch/v1", Kind: "CronJob"},
				ObjectMeta: metav1.ObjectMeta{Name: scenario},
				Spec: batchv1.CronJobSpec{
					Schedule: "0 3 * * *", JobTemplate: batchv1.JobTemplateSpec{Spec: c.job.Spec},
				},
			}} {
				admitted, err := ns.Admit(asJSON(t, object))
				if err != nil {
					t.Fatal(err)
				}
				if !slices.EqualFunc(admitted.Warnings, c.want, strings.Contains) {
					t.Errorf("the warnings are %q, want these: %q", admitted.Warnings, c.want)
				}
			}
		})
	}
}

// injecting is a policy that adds a container to pods of its own label, unless they have it.
const injecting = `
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: NAME}
spec:
  failurePolicy: Fail
  reinvocationPolicy: IfNeeded
  matchConstraints:
    objectSelector: {matchLabels: {e2e.sentinel-shim.github.io/inject: "true"}}
    resourceRules:
    - {apiGroups: [""], apiVersions: [v1], resources: [pods], operations: [CREATE]}
  mutations:
  - patchType: JSONPatch
    jsonPatch:
      expression: |-
        object.spec.containers.exists(c, c.name == "NAME") ? [] : [JSONPatch{op: "add", path: "/spec/containers/-",
          value: Object.spec.containers{name: "NAME", image: "busybox:1.35", command: ["sleep", "600"]}}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: NAME}
spec: {policyName: NAME}
`

// What another policy adds is wrapped, too, whichever of them comes first.
func testReinvoked(t *testing.T) {
	t.Parallel()
	names := []string{"e2e-inject-before-sentinel-shim", "zz-inject-after-sentinel-shim"}
	for _, name := range names {
		cluster.InstallText(t, strings.ReplaceAll(injecting, "NAME", name))
	}
	job := labelled(stock(never, 0, page, web))
	job.Spec.Template.Labels["e2e.sentinel-shim.github.io/inject"] = "true"
	ns := cluster.Namespace(t)
	want := map[string]string{
		"app": "/sentinel-shim/sentinel", "web": "/sentinel-shim/shim",
		names[0]: "/sentinel-shim/shim", names[1]: "/sentinel-shim/shim",
	}
	untilKnown(t, func() (bool, string) {
		pod, err := ns.Admit(asJSON(t, podOf(job)))
		if err != nil {
			return false, err.Error()
		}
		seen := asJSON(t, pod)
		return strings.Contains(seen, names[0]) && strings.Contains(seen, names[1]), seen
	})
	ns.ApplyText(t, asJSON(t, job))
	end := expect(t, ns, scenario, complete, codes{"app": {0}, "web": {0}, names[0]: {0}, names[1]: {0}})
	pod := end.Pods(scenario)[0].Spec
	if got := wrappers(&pod); !maps.Equal(got, want) {
		t.Errorf("the first words of the commands are %v, want %v", got, want)
	}
	expectNothingTwice(t, &pod)
}

// A pod that is wrapped already stays as it is.
func testSecondPass(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	always := corev1.ContainerRestartPolicyAlways
	set := corev1.Container{
		Name: "set", Image: busybox, Command: []string{"sleep", "600"}, RestartPolicy: &always,
		Env: []corev1.EnvVar{{Name: "SHIM_NAME", Value: "another"}, {Name: "SHIM_DRAIN", Value: "1s"}},
	}
	unset := podOf(labelled(stock(never, 0, "true", web)))
	unset.Spec.InitContainers = []corev1.Container{set}
	once := admittedPod(t, ns, unset)
	twice := admittedPod(t, ns, &corev1.Pod{TypeMeta: unset.TypeMeta, ObjectMeta: unset.ObjectMeta, Spec: once.Spec})
	if first, second := asJSON(t, once.Spec), asJSON(t, twice.Spec); first != second {
		t.Errorf("the second pass makes\n%s\nof\n%s", second, first)
	}
	expectNothingTwice(t, &once.Spec)
	want := []corev1.EnvVar{
		{Name: "SHIM_NAME", Value: "another"}, {Name: "SHIM_DRAIN", Value: "1s"},
		{Name: "SHIM_MAIN", Value: "app"}, {Name: "SHIM_NATIVE_SIDECAR", Value: "true"},
	}
	if got := once.Spec.InitContainers[0].Env; !slices.Equal(got, want) {
		t.Errorf("the variables of the native sidecar are %v, want %v", got, want)
	}
}

// expectNothingTwice looks at the names of volumes, mounts and variables.
func expectNothingTwice(t *testing.T, pod *corev1.PodSpec) {
	t.Helper()
	seen := map[string]bool{}
	once := func(parts ...string) {
		key := strings.Join(parts, " ")
		if seen[key] {
			t.Errorf("there is a second %s", key)
		}
		seen[key] = true
	}
	for _, volume := range pod.Volumes {
		once("volume", volume.Name)
	}
	for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
		for _, mount := range c.VolumeMounts {
			once("mount of", c.Name, "at", mount.MountPath)
		}
		for _, variable := range c.Env {
			once("variable of", c.Name, "named", variable.Name)
		}
	}
}
