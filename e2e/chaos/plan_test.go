package chaos

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	image   = "ghcr.io/sentinel-shim/sentinel-shim:v0.1.0"
	busybox = "busybox:1.35"
	job     = "chaos" // the name of every Job; each has a namespace of its own
	primary = "main"  // the container, whatever the run is called on the volume

	onFailure = corev1.RestartPolicyOnFailure
	never     = corev1.RestartPolicyNever
)

// plan is everything that is chosen at random for one Job. The seed and the Job's number determine it.
type plan struct {
	number   int
	policy   corev1.RestartPolicy
	limit    int32     // backoffLimit
	attempts []attempt // main's runs; all later runs are like the last
	sidecars []sidecar
	faults   []fault

	name         string // of main's run on the volume
	mainFirst    bool   // main comes before its sidecars in the pod
	waitFor      bool   // --wait-for
	usesSidecars bool   // main works through its sidecars, and says if it loses one
	shared       bool   // shareProcessNamespace: a killed wrapper is not PID 1, so its command outlives it
	users        bool   // main and its sidecars have different users
	memory       bool   // the volume is a tmpfs
}

// attempt is what main does in one of its runs: it works for a while, and then exits with a code or dies of a signal.
type attempt struct {
	work time.Duration
	end  string // "0", "3", "KILL"
}

const tenth = 100 * time.Millisecond // the time for which main works is a multiple of it

// code is the exit code that the container has to have after the attempt.
func (a attempt) code() int {
	switch a.end {
	case "TERM":
		return 143
	case "KILL":
		return 137
	case "SEGV":
		return 139
	}
	code, _ := strconv.Atoi(a.end)
	return code
}

// sidecar is one wrapped sidecar, a web server.
type sidecar struct {
	kind     string // a key of servers
	drain    time.Duration
	keep     bool // --keep-on-failure
	declared bool // --restart-policy
	readOnly bool
}

// servers are shell scripts that serve the port $1. Upon SIGTERM, plain ends, stubborn does not, trap exits with 0,
// and orphan ends but leaves its server behind.
var servers = map[string]string{
	"plain":    `exec httpd -f -p $1 -h /etc`,
	"stubborn": `trap '' TERM; exec httpd -f -p $1 -h /etc`,
	"trap":     `trap 'exit 0' TERM; httpd -f -p $1 -h /etc & wait`,
	"orphan":   `httpd -f -p $1 -h /etc & exec sleep 3600`,
}

// stubbornFor is the --grace-period of a stubborn sidecar.
const stubbornFor = 2 * time.Second

// startTimeout is the --start-timeout under Never: much longer than an outage.
const startTimeout = 2 * time.Minute

// fault is what is to be killed or deleted, and when.
type fault struct {
	target  target
	sidecar int // the index of the sidecar, if the target is one
	// atEnd: the delay counts from main's end on the volume, else from the start of the container's run.
	atEnd bool
	delay time.Duration
}

type target string

const (
	mainContainer    target = "main's container"
	sidecarContainer target = "a sidecar's container"
	sentinelProcess  target = "the sentinel"
	shimProcess      target = "a shim"
	mainProcess      target = "main's process"
	sidecarProcess   target = "a sidecar's process"
	wholePod         target = "the pod (deleted)"
)

var targets = []target{
	mainContainer, sidecarContainer, sentinelProcess, shimProcess, mainProcess, sidecarProcess, wholePod,
}

// newPlan chooses a plan. Three of four Jobs are to succeed; they never meet their backoffLimit. So the outcome of
// each Job is known in advance, whatever faults it gets.
func newPlan(seed uint64, number int) plan {
	r := rand.New(rand.NewPCG(seed, uint64(number)))
	chance := func(percent int) bool { return r.IntN(100) < percent }
	between := func(low, high time.Duration) time.Duration {
		return low + time.Duration(r.Int64N(int64((high-low)/time.Millisecond)))*time.Millisecond
	}
	p := plan{number: number, policy: onFailure, limit: 100, name: "main"}
	if chance(35) {
		p.policy = never
	}
	if chance(20) {
		p.name = "etl"
	}
	p.mainFirst, p.shared, p.users, p.memory = chance(40), chance(40), chance(30), chance(30)

	failure := func() string {
		return []string{"1", "3", "42", "255", "TERM", "KILL", "SEGV", "124", "137"}[r.IntN(9)]
	}
	// Each failure and each fault costs a back-off of 10 s, 20 s or 40 s: at most three of them.
	faults := []int{0, 0, 0, 1, 1, 1, 2, 2, 3}[r.IntN(9)]
	failures := min(r.IntN(3), 3-faults)
	work := func() time.Duration {
		if chance(20) {
			return 0
		}
		return between(100*time.Millisecond, 6*time.Second).Truncate(tenth)
	}
	for range failures {
		p.attempts = append(p.attempts, attempt{work(), failure()})
	}
	if chance(75) {
		p.attempts = append(p.attempts, attempt{work(), "0"})
	} else {
		p.attempts = append(p.attempts, attempt{work(), failure()})
		p.limit = int32(r.IntN(3))
		if p.policy == never {
			p.limit = int32(r.IntN(2))
		}
	}

	for range 1 + r.IntN(3) {
		s := sidecar{kind: []string{"plain", "plain", "stubborn", "trap", "orphan"}[r.IntN(5)]}
		s.declared = chance(25)
		s.keep = p.policy == onFailure && chance(20)
		if chance(20) {
			s.drain = between(500*time.Millisecond, 3*time.Second)
		}
		if chance(10) {
			// Its shim cannot record that it has run before, so the policy has to be declared.
			s.readOnly, s.declared = true, true
			// Main cannot see that this sidecar is still stopping, so one that stops slowly has to be kept.
			s.keep = s.keep || p.policy == onFailure && (s.drain > 0 || s.kind == "stubborn")
		}
		p.sidecars = append(p.sidecars, s)
	}

	for range faults {
		f := fault{target: targets[r.IntN(len(targets))], sidecar: r.IntN(len(p.sidecars)), atEnd: chance(30)}
		if f.atEnd {
			f.delay = between(0, 60*time.Millisecond)
		} else {
			f.delay = between(0, p.attempts[0].work+2*time.Second)
		}
		p.faults = append(p.faults, f)
	}
	// Main would lose a sidecar that is killed, and one that stops without main's knowledge, on a read-only mount.
	p.usesSidecars = chance(60) &&
		!slices.ContainsFunc(p.faults, fault.hitsSidecar) &&
		!slices.ContainsFunc(p.sidecars, func(s sidecar) bool { return s.readOnly })
	// Not under OnFailure. If main has ended with 0 and its container is killed before it has ended, too, then the
	// kubelet starts it again. Its sidecars have ended with 0 and do not come back, so it would wait for ever.
	p.waitFor = p.usesSidecars && p.policy == never && chance(50)
	return p
}

// hitsSidecar reports whether the fault ends a sidecar while main may go on.
func (f fault) hitsSidecar() bool {
	return f.target == sidecarContainer || f.target == shimProcess || f.target == sidecarProcess
}

// container is the name of the container that the fault is meant for; main's if it is meant for the whole pod.
func (f fault) container() string {
	if f.hitsSidecar() {
		return sidecarName(f.sidecar)
	}
	return primary
}

func (f fault) String() string {
	text := string(f.target)
	if f.hitsSidecar() {
		text = strings.Replace(text, "a s", sidecarName(f.sidecar)+", the s", 1)
	}
	from := "its start"
	if f.atEnd {
		from = "main's end"
	}
	return fmt.Sprintf("%s %v after %s", text, f.delay, from)
}

// succeeds reports whether the Job has to complete: main's last attempt decides.
func (p plan) succeeds() bool { return p.attempts[len(p.attempts)-1].end == "0" }

func sidecarName(i int) string { return fmt.Sprintf("sidecar-%d", i+1) }
func port(i int) string        { return strconv.Itoa(8081 + i) }

func (p plan) String() string {
	var words []string
	add := func(is bool, word string) {
		if is {
			words = append(words, word)
		}
	}
	for _, a := range p.attempts {
		words = append(words, fmt.Sprintf("%v→%s", a.work, a.end))
	}
	text := fmt.Sprintf("%s, backoffLimit %d; main: %s", p.policy, p.limit, strings.Join(words, ", "))
	words = nil
	add(p.name != "main", "named "+p.name)
	add(p.mainFirst, "listed first")
	add(p.usesSidecars, "uses its sidecars")
	add(p.waitFor, "--wait-for")
	add(p.shared, "shared pid namespace")
	add(p.users, "two users")
	add(p.memory, "tmpfs")
	if words != nil {
		text += " (" + strings.Join(words, ", ") + ")"
	}
	for i, s := range p.sidecars {
		words = []string{s.kind}
		add(s.drain > 0, "drain "+s.drain.String())
		add(s.keep, "keep-on-failure")
		add(s.declared, "policy declared")
		add(s.readOnly, "read-only")
		text += fmt.Sprintf("; %s: %s", sidecarName(i), strings.Join(words, ", "))
	}
	for _, f := range p.faults {
		text += "; fault: " + f.String()
	}
	return text
}

// script is main. Before it does something, it says so in two places: in a file outside the pod, which is the same for
// the whole Job, and in its container's termination message, which Kubernetes keeps with the run. Neither goes through
// a wrapper. The Job is idempotent: an attempt after one that has said "exits 0" exits with 0 at once.
const script = `
attempt=$(($(grep -c begun /evidence/log) + 1))
say() { echo "$POD $attempt $*" >>/evidence/log; echo "$attempt $*" >>/dev/termination-log; }
say begun
if grep -q 'exits 0$' /evidence/log; then say exits 0; exit 0; fi
shift $((attempt < $# ? attempt - 1 : $# - 1))
tenths=${1%:*} end=${1#*:}
there() { for port in $PORTS; do nc -w 1 127.0.0.1 $port -e true || return 1; done; }
tries=400
until there; do tries=$((tries - 1)); [ $tries -gt 0 ] || { say is alone; exit 98; }; sleep 0.3; done
while [ $tenths -gt 3 ]; do
  sleep 0.3; tenths=$((tenths - 3))
  there || { say loses a sidecar; exit 99; }
done
sleep 0.$tenths
case $end in
[0-9]*) say exits $end; exit $end ;;
*) say dies of $end; kill -$end $$; sleep 60; exit 97 ;;
esac
`

// manifest returns the Job in JSON. evidence is the directory on the node that main writes to.
func (p plan) manifest(t *testing.T, evidence string) string {
	t.Helper()
	volume := corev1.VolumeMount{Name: "pod", MountPath: "/tmp/pod"}
	var env []corev1.EnvVar
	set := func(name, value string) { env = append(env, corev1.EnvVar{Name: name, Value: value}) }

	main := corev1.Container{
		Name: primary, Image: busybox,
		Command: []string{"/tmp/pod/sentinel", "--name", p.name},
		// In args, Kubernetes replaces $$ by $.
		Args:         []string{"--", "sh", "-c", strings.ReplaceAll(script, "$$", "$$$$"), "sh"},
		VolumeMounts: []corev1.VolumeMount{volume, {Name: "evidence", MountPath: "/evidence"}},
	}
	for _, a := range p.attempts {
		main.Args = append(main.Args, fmt.Sprintf("%d:%s", a.work/tenth, a.end))
	}
	if p.usesSidecars {
		var ports []string
		for i := range p.sidecars {
			ports = append(ports, port(i))
			if p.waitFor {
				main.Command = append(main.Command, "--wait-for", "tcp://127.0.0.1:"+port(i))
			}
		}
		set("PORTS", strings.Join(ports, " "))
	}
	main.Env = append(env, corev1.EnvVar{Name: "POD", ValueFrom: &corev1.EnvVarSource{
		FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"},
	}})
	if p.users {
		uid := int64(10001)
		main.SecurityContext = &corev1.SecurityContext{RunAsUser: &uid}
	}

	var containers []corev1.Container
	for i, s := range p.sidecars {
		env = nil
		set("SHIM_MAIN", p.name)
		if s.kind == "stubborn" {
			set("SHIM_GRACE_PERIOD", stubbornFor.String())
		}
		if s.drain > 0 {
			set("SHIM_DRAIN", s.drain.String())
		}
		if s.keep {
			set("SHIM_KEEP_ON_FAILURE", "true")
		}
		if s.declared {
			set("SHIM_RESTART_POLICY", string(p.policy))
		}
		if p.policy == never {
			// An outage may keep main's container from starting at all, and it is not started again.
			set("SHIM_START_TIMEOUT", startTimeout.String())
		}
		c := corev1.Container{
			Name: sidecarName(i), Image: busybox, Env: env,
			Command:      []string{"/tmp/pod/shim", "--name", sidecarName(i), "--"},
			Args:         []string{"sh", "-c", servers[s.kind], "sh", port(i)},
			VolumeMounts: []corev1.VolumeMount{volume},
		}
		c.VolumeMounts[0].ReadOnly = s.readOnly
		if p.users {
			uid := int64(10002)
			c.SecurityContext = &corev1.SecurityContext{RunAsUser: &uid}
		}
		containers = append(containers, c)
	}
	if p.mainFirst {
		containers = slices.Insert(containers, 0, main)
	} else {
		containers = append(containers, main)
	}

	emptyDir := &corev1.EmptyDirVolumeSource{}
	if p.memory {
		emptyDir.Medium = corev1.StorageMediumMemory
	}
	return asJSON(t, &batchv1.Job{
		TypeMeta:   metav1.TypeMeta{APIVersion: "batch/v1", Kind: "Job"},
		ObjectMeta: metav1.ObjectMeta{Name: job},
		Spec: batchv1.JobSpec{
			BackoffLimit: &p.limit,
			Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
				RestartPolicy:         p.policy,
				ShareProcessNamespace: &p.shared,
				InitContainers: []corev1.Container{{
					Name: "sentinel-shim", Image: image, Args: []string{"--copy-to", "/tmp/pod"},
					VolumeMounts: []corev1.VolumeMount{volume},
				}},
				Containers: containers,
				Volumes: []corev1.Volume{
					{Name: "pod", VolumeSource: corev1.VolumeSource{EmptyDir: emptyDir}},
					hostVolume("evidence", evidence),
				},
			}},
		},
	})
}

// hostVolume returns a volume that is a directory of the node.
func hostVolume(name, path string) corev1.Volume {
	directory := corev1.HostPathDirectory
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
		HostPath: &corev1.HostPathVolumeSource{Path: path, Type: &directory},
	}}
}

func asJSON(t *testing.T, object any) string {
	t.Helper()
	text, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
