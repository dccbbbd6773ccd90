package chaos

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
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
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sentinel-shim/sentinel-shim/e2e/kube"
)

const (
	hundred       = 100
	shimsPerJob   = 3
	hundredShims  = hundred * shimsPerJob
	hundredStart  = 8 * time.Minute // until all containers run
	hundredFinish = 4 * time.Minute // from then on until all Jobs have ended

	// shimUser is the UID of the shims. inotify instances are limited per UID, so the shims do not use up those of the
	// kubelet.
	shimUser = 10128
	// noEvents is the beginning of the warning of a shim that has no inotify instance.
	noEvents = "no events from the volume"
)

// A hundred Jobs with three sidecars each run at the same time. Their shims need more inotify instances than a user
// may have (128 by default). All mains end at the same instant, with different codes. Every shim sees the end of its
// main, even without inotify, and exits with main's code.
func TestHundredAtOnce(t *testing.T) {
	root := cluster.Root(t)
	gate := sharedDirectory(t, root)
	// The mains open a FIFO for reading, which blocks until there is a writer.
	fifo := filepath.Join(root, gate, "go")
	if err := errors.Join(syscall.Mkfifo(fifo, 0o666), os.Chmod(fifo, 0o666)); err != nil {
		t.Fatal(err)
	}
	limit := readNumber(t, "/proc/sys/fs/inotify/max_user_instances")

	ns := cluster.Namespace(t)
	began := time.Now()
	for i := range hundred {
		ns.ApplyText(t, asJSON(t, crowdJob(i, gate)))
	}
	ns.Until(t, hundredStart, "all containers to run, and all mains to wait", func(s *kube.State) bool {
		running := 0
		for i := range hundred {
			for _, run := range s.Runs(crowdName(i), "") {
				if run.Container != "sentinel-shim" && !run.Ended {
					running++
				}
			}
		}
		return running == hundred*(1+shimsPerJob) && len(waiting(t, filepath.Join(root, gate))) == hundred
	})
	took := time.Since(began)
	instances, shims := inotifyInstances(t)
	if shims != hundredShims {
		t.Errorf("%d shims run, want %d", shims, hundredShims)
	}
	if want := min(limit, hundredShims); instances != want {
		t.Errorf("the shims have %d inotify instances, want %d: the limit is %d", instances, want, limit)
	}

	// This releases all mains at once, even if the writer closes the FIFO before they have opened it.
	writer, err := os.OpenFile(fifo, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	released := time.Now()
	writer.Close()
	end := ns.Until(t, hundredFinish, "the end of all Jobs", func(s *kube.State) bool {
		for i := range hundred {
			if kube.Outcome(s.Job(crowdName(i))) == "" {
				return false
			}
		}
		return true
	})
	ended := time.Since(released)

	var reactions []reaction
	without := 0
	for i := range hundred {
		name, code := crowdName(i), crowdCode(i)
		want := "Complete"
		if code != 0 {
			want = "Failed: BackoffLimitExceeded"
		}
		if got := kube.Outcome(end.Job(name)); got != want {
			t.Errorf("%s ended as %q, want %q", name, got, want)
		}
		pods := end.Pods(name)
		if len(pods) != 1 {
			t.Fatalf("%s has %d pods, want 1", name, len(pods))
		}
		main := logOf(t, root, pods[0], primary)
		from := main.when(`"message":"sh exited"`)
		for _, container := range pods[0].Spec.Containers {
			run, _ := end.Last(name, container.Name)
			if !run.Ended || run.ExitCode != code || run.Attempt != 0 {
				t.Errorf("%v, want one run with exit code %d", run, code)
			}
			if container.Name == primary {
				continue
			}
			log := logOf(t, root, pods[0], container.Name)
			warnings := log.count(noEvents)
			if warnings > 1 {
				t.Errorf("%s of %s warned %d times that it has no inotify instance, want at most once:\n%s",
					container.Name, name, warnings, log)
			}
			without += min(warnings, 1)
			to := log.when("; httpd stopped by SIGTERM")
			if from.IsZero() || to.IsZero() {
				t.Errorf("%s or main of %s did not log its end:\n%s", container.Name, name, log)
				continue
			}
			reactions = append(reactions, reaction{name + " " + container.Name, to.Sub(from), warnings > 0})
		}
	}
	if want := max(0, hundredShims-limit); without != want {
		t.Errorf("%d shims warned that they have no inotify instance, want %d: the limit is %d", without, want, limit)
	}
	t.Logf("%d Jobs with %d containers ran at once, %v after the first was created; "+
		"%d shims had inotify instances (their user may have %d), %d had none\n"+
		"all Jobs had ended %v after their mains were released\n%s",
		hundred, hundred*(1+shimsPerJob), took.Round(time.Second),
		instances, limit, without,
		ended.Round(time.Second), describe(reactions))
}

func crowdName(i int) string { return fmt.Sprintf("crowd-%d", i) }

// crowdCode is the exit code of the i-th Job's main: 0 for every second Job, a different one for each of the others.
func crowdCode(i int) int {
	if i%2 == 0 {
		return 0
	}
	return i
}

// crowdJob is the i-th of the hundred Jobs. Its main waits until the FIFO "go" in the directory gate of the node is
// opened for writing.
func crowdJob(i int, gate string) *batchv1.Job {
	volume := corev1.VolumeMount{Name: "pod", MountPath: "/tmp/pod"}
	user := int64(shimUser)
	command := fmt.Sprintf("touch /gate/waiting-%d; read -r _ </gate/go; exit %d", i, crowdCode(i))
	var containers []corev1.Container
	for n := range shimsPerJob {
		containers = append(containers, corev1.Container{
			Name: sidecarName(n), Image: busybox,
			Command:         []string{"/tmp/pod/shim", "--name", sidecarName(n), "--"},
			Args:            []string{"httpd", "-f", "-p", port(n), "-h", "/etc"},
			VolumeMounts:    []corev1.VolumeMount{volume},
			SecurityContext: &corev1.SecurityContext{RunAsUser: &user},
		})
	}
	containers = append(containers, corev1.Container{
		Name: primary, Image: busybox,
		Command:      []string{"/tmp/pod/sentinel", "--"},
		Args:         []string{"sh", "-c", command},
		VolumeMounts: []corev1.VolumeMount{volume, {Name: "gate", MountPath: "/gate"}},
	})
	return &batchv1.Job{
		TypeMeta:   metav1.TypeMeta{APIVersion: "batch/v1", Kind: "Job"},
		ObjectMeta: metav1.ObjectMeta{Name: crowdName(i)},
		Spec: batchv1.JobSpec{
			BackoffLimit: new(int32),
			Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
				RestartPolicy: never,
				InitContainers: []corev1.Container{{
					Name: "sentinel-shim", Image: image, Args: []string{"--copy-to", "/tmp/pod"},
					VolumeMounts: []corev1.VolumeMount{volume},
				}},
				Containers: containers,
				Volumes: []corev1.Volume{
					{Name: "pod", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
					hostVolume("gate", gate),
				},
			}},
		},
	}
}

// waiting returns a file for each main that waits.
func waiting(t *testing.T, gate string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(gate, "waiting-*"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// inotifyInstances returns how many shims of shimUser run, and how many inotify instances they have.
func inotifyInstances(t *testing.T) (instances, shims int) {
	t.Helper()
	for _, p := range processesOf(func(cgroup string) bool { return strings.Contains(cgroup, "/kubepods/") }) {
		directory := fmt.Sprintf("/proc/%d", p.pid)
		status, err := os.ReadFile(directory + "/status")
		if err != nil || !p.is("shim") || !strings.Contains(string(status), fmt.Sprintf("\nUid:\t%d\t", shimUser)) {
			continue
		}
		shims++
		descriptors, err := filepath.Glob(directory + "/fd/*")
		if err != nil {
			t.Fatal(err)
		}
		for _, descriptor := range descriptors {
			if to, _ := os.Readlink(descriptor); to == "anon_inode:inotify" {
				instances++
			}
		}
	}
	return instances, shims
}

func readNumber(t *testing.T, path string) int {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return number
}

// containerLog is a container's log file: each line begins with the time at which the runtime received it, to the
// nanosecond.
type containerLog []string

// logOf reads the log of a container's first run from the node, which is faster than through the API server.
func logOf(t *testing.T, root string, pod *corev1.Pod, container string) containerLog {
	t.Helper()
	directory := fmt.Sprintf("%s_%s_%s", pod.Namespace, pod.Name, pod.UID)
	file, err := os.Open(filepath.Join(root, "var/log/pods", directory, container, "0.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var log containerLog
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		log = append(log, lines.Text())
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return log
}

// when returns when the runtime received the last line that contains text. It is zero if there is no such line.
func (l containerLog) when(text string) time.Time {
	for _, line := range slices.Backward(l) {
		if strings.Contains(line, text) {
			stamp, _, _ := strings.Cut(line, " ")
			at, _ := time.Parse(time.RFC3339Nano, stamp)
			return at
		}
	}
	return time.Time{}
}

func (l containerLog) count(text string) int {
	n := 0
	for _, line := range l {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

func (l containerLog) String() string { return strings.Join(l, "\n") }

// reaction is the time from the sentinel's last line (main has ended) to the shim's last line (its sidecar has
// stopped).
type reaction struct {
	who       string
	took      time.Duration
	noInotify bool
}

func describe(reactions []reaction) string {
	slices.SortFunc(reactions, func(a, b reaction) int { return cmp.Compare(a.took, b.took) })
	var text strings.Builder
	text.WriteString("from main's end to its sidecar's, by the last lines of sentinel and shim:")
	for _, noInotify := range []bool{false, true} {
		of := slices.DeleteFunc(slices.Clone(reactions), func(r reaction) bool { return r.noInotify != noInotify })
		if len(of) == 0 {
			continue
		}
		with := "with inotify   "
		if noInotify {
			with = "without inotify"
		}
		slowest := of[len(of)-1]
		fmt.Fprintf(&text, "\n  %s %4d shims: median %v, slowest %v (%s)", with, len(of),
			of[len(of)/2].took.Round(time.Millisecond/10), slowest.took.Round(time.Millisecond/10), slowest.who)
	}
	return text.String()
}
