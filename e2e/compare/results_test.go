package compare

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"

	"github.com/sentinel-shim/sentinel-shim/e2e/kube"
)

// The first word of kube.Outcome.
const (
	complete = "Complete"
	failed   = "Failed"
)

// What the tables say of a Job that does not end.
const (
	hanging    = "**hangs**"
	notBounded = "**not bounded**"
)

// result is what was measured of a Job.
type result struct {
	outcome    string    // see kube.Outcome; empty if the Job hangs
	seen       time.Time // when the other fields were read
	cut        time.Time // when the Job controller deleted the live pod, to a whole second; zero if it did not
	limit      int32     // the backoffLimit
	containers []string  // main first, then the sidecars in the order of the pod
	runs       map[string][]kube.Run
	logs       sidecarLogs
}

type key struct{ strategy, situation string }

type results map[key]result

// sidecarLogs are the logs of all runs so far, by the name of the file relative to the pod's directory of logs. The
// kubelet removes a log soon after its run.
type sidecarLogs map[string]string

func (logs sidecarLogs) read(root string, s *kube.State) {
	for _, pod := range s.Pods(job) {
		directory := filepath.Join(root, "var/log/pods", pod.Namespace+"_"+pod.Name+"_"+string(pod.UID))
		files, _ := filepath.Glob(filepath.Join(directory, "*", "*.log"))
		for _, file := range files {
			name, _ := filepath.Rel(directory, file)
			if log, err := os.ReadFile(file); err == nil { // else it has just been removed
				logs[name] = string(log)
			}
		}
	}
}

func (logs sidecarLogs) of(run kube.Run) string {
	return logs[filepath.Join(run.Container, fmt.Sprintf("%d.log", run.Attempt))]
}

// gotTERM is what the sidecars of the manifests, Redis and the Cloud SQL Auth Proxy, log when they get SIGTERM.
var gotTERM = []string{"Received SIGTERM", "SIGTERM signal received"}

// signal returns the signal that a run's program got, as far as its log or its exit code says so.
func (logs sidecarLogs) signal(run kube.Run) string {
	log := logs.of(run)
	switch {
	case log == "":
		return "unknown"
	case slices.ContainsFunc(gotTERM, func(line string) bool { return strings.Contains(log, line) }):
		return "TERM"
	case run.Ended && run.ExitCode == 128+9:
		return "KILL"
	}
	return "none"
}

// resultOf reads a result from the last state of a Job.
func resultOf(t *testing.T, s *kube.State, logs sidecarLogs) result {
	t.Helper()
	r := result{
		outcome: kube.Outcome(s.Job(job)), seen: time.Now(), limit: *s.Job(job).Spec.BackoffLimit,
		containers: []string{primary}, runs: map[string][]kube.Run{}, logs: logs,
	}
	pods := s.Pods(job)
	if len(pods) != 1 {
		t.Fatalf("the Job has %d pods, want 1", len(pods))
	}
	for _, condition := range s.Job(job).Status.Conditions {
		// A pod that has ended by itself is not deleted. The pod's DeletionTimestamp is no use as the time, because it
		// changes.
		if condition.Type == batchv1.JobFailureTarget && pods[0].DeletionTimestamp != nil {
			r.cut = condition.LastTransitionTime.Time
		}
	}
	for _, sidecar := range sidecarsOf(&pods[0].Spec) {
		r.containers = append(r.containers, sidecar.Name)
	}
	for _, container := range r.containers {
		r.runs[container] = s.Runs(job, container)
		for i, run := range r.runs[container] {
			if run.Attempt != i || i > 0 && run.ID == r.runs[container][i-1].ID {
				t.Fatalf("the runs of %s are %v: one of them was missed", container, r.runs[container])
			}
		}
	}
	if len(r.runs[primary]) == 0 {
		t.Fatal("main has no runs")
	}
	return r
}

func (r result) String() string {
	return fmt.Sprintf("%s; %s; %s; %s; %s", r.end(), r.attempts(), r.codes(), r.signals(), r.lag())
}

// end returns how the Job ended, or that it did not.
func (r result) end() string {
	switch {
	case !r.isBounded():
		return notBounded
	case r.outcome == "":
		return hanging
	}
	return r.outcome
}

// cutOff reports whether the Job controller deleted the pod before the run had ended. How such a run ends says nothing
// about the strategy.
func (r result) cutOff(run kube.Run) bool {
	return !r.cut.IsZero() && !run.Removed() && !run.Finished.Before(r.cut)
}

// whole returns the runs of a container that were not cut off.
func (r result) whole(container string) []kube.Run {
	return slices.DeleteFunc(slices.Clone(r.runs[container]), r.cutOff)
}

// withoutSidecar returns how many attempts of main had no sidecar, or lost it.
func (r result) withoutSidecar() int {
	n := 0
	for _, run := range r.whole(primary) {
		if strings.Contains(run.Message, withoutSidecar) {
			n++
		}
	}
	return n
}

func (r result) attempts() string {
	return fmt.Sprintf("%d of %d", r.withoutSidecar(), len(r.whole(primary)))
}

// isBounded reports whether main had no more attempts than the backoffLimit allows for.
func (r result) isBounded() bool { return r.outcome != "" || len(r.runs[primary]) <= int(r.limit)+1 }

// bound returns how many attempts a main had that never succeeds, and what ended them.
func (r result) bound() string {
	switch n := len(r.whole(primary)); {
	case !r.isBounded():
		return fmt.Sprintf("%s: %d in %d s", notBounded, n, int(hangs.Seconds()))
	case r.outcome == "":
		return fmt.Sprintf("%d, and the Job hangs", n)
	default:
		return fmt.Sprint(n)
	}
}

func (r result) restarts() string {
	return r.each(r.containers, func(runs []kube.Run) string { return fmt.Sprint(max(0, len(runs)-1)) })
}

func (r result) codes() string {
	return r.each(r.containers, func(runs []kube.Run) string {
		return r.words(runs, func(run kube.Run) string {
			switch {
			case !run.Ended:
				return "running"
			case run.Removed():
				return "removed"
			}
			return fmt.Sprint(run.ExitCode)
		})
	})
}

func (r result) signals() string {
	return r.each(r.containers[1:], func(runs []kube.Run) string { return r.words(runs, r.logs.signal) })
}

// words returns a word for each run, in parentheses if the run was cut off. More than four runs with one word are
// written as "word × 5".
func (r result) words(runs []kube.Run, word func(kube.Run) string) string {
	var words []string
	for _, run := range runs {
		if r.cutOff(run) {
			words = append(words, "("+word(run)+")")
		} else {
			words = append(words, word(run))
		}
	}
	for i := 0; i < len(words); i++ {
		same := i + 1
		for same < len(words) && words[same] == words[i] {
			same++
		}
		if same-i > 4 {
			words = slices.Replace(words, i, same, fmt.Sprintf("%s × %d", words[i], same-i))
		}
	}
	return cmp.Or(strings.Join(words, " "), "not started")
}

func (r result) each(containers []string, cell func([]kube.Run) string) string {
	var parts []string
	for _, container := range containers {
		parts = append(parts, container+" "+cell(r.runs[container]))
	}
	return strings.Join(parts, ", ")
}

// lag returns the whole seconds from the end of main's last run to the end of the last container. If a sidecar started
// only after main's end, the time counts from the sidecar's start.
func (r result) lag() string {
	main := r.runs[primary][len(r.runs[primary])-1]
	if !main.Ended || main.Removed() {
		return "main still runs"
	}
	from, to := main.Finished, main.Finished
	for _, container := range r.containers {
		for i, run := range r.runs[container] {
			if i == 0 && run.Started.After(from) {
				from = run.Started
			}
			if run.Finished.After(to) {
				to = run.Finished
			}
		}
	}
	if r.outcome == "" {
		return fmt.Sprintf("> %d", int(r.seen.Sub(from).Seconds()))
	}
	return fmt.Sprint(int(to.Sub(from).Seconds()))
}

// tandem reports whether all containers had as many runs as main, and sameCodes whether these had main's exit codes.
func (r result) tandem() (tandem, sameCodes bool) {
	tandem, sameCodes = true, true
	mains := r.whole(primary)
	for _, container := range r.containers[1:] {
		runs := r.whole(container)
		tandem = tandem && len(runs) == len(mains)
		sameCodes = sameCodes && slices.EqualFunc(runs, mains, func(run, main kube.Run) bool {
			return run.ExitCode == main.ExitCode && !run.Removed()
		})
	}
	return tandem, sameCodes
}

// verdict returns the cell of the short table.
func (r result) verdict(s situation) string {
	outcome, _, _ := strings.Cut(r.outcome, ":")
	tandem, sameCodes := r.tandem()
	switch {
	case outcome == "":
		return r.end()
	case outcome != s.want && outcome == complete:
		return "**completes**"
	case outcome != s.want:
		return "**fails**"
	case r.withoutSidecar() > 0:
		return "**no sidecar**"
	case !tandem:
		return "not in tandem"
	case !sameCodes:
		return "other codes"
	}
	return "ok"
}

// markdown returns RESULTS.md: the short table, then one table for each situation.
func (got results) markdown(version string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `# What each strategy does in each situation

Written by %s, which runs each manifest of this directory as a real Job in each situation, here on
Kubernetes %s. Every figure is what the kubelet and the Job controller reported. The signals are what the
sidecars logged.

`, "`make compare`", version)
	fmt.Fprintf(&b, "| |%s\n|---|%s\n",
		row(situations, func(s situation) string { return s.name }), strings.Repeat("---|", len(situations)))
	for _, strategy := range strategies {
		fmt.Fprintf(&b, "| [%s](%s.yaml) |%s\n", strategy, strategy, row(situations, func(s situation) string {
			r, ok := got[key{strategy, s.name}]
			if !ok {
				return "not run"
			}
			return r.verdict(s)
		}))
	}
	fmt.Fprintf(&b, `
- **ok**: the Job ended as main did, every attempt had its sidecar, and all containers had the same attempts with the
  same exit codes.
- **other codes**: the Job ended as main did, every attempt had its sidecar, and all containers had the same attempts;
  but the sidecar's exit codes were not main's.
- **not in tandem**: the Job ended as main did and every attempt had its sidecar, but the sidecar was not restarted
  with main.
- **no sidecar**: the Job ended as main did, but in some attempt main had no sidecar, or lost it while it worked.
- **fails**, **completes**: the Job ended so, although main did not.
- **hangs**: the Job had not ended %[1]d s after the start of main's last attempt.
- **not bounded**: the same, but because main was started again more often than the backoffLimit allows.

The first three end the Job as it should end. If a sidecar may go on while main is started again, and nobody looks at
its exit code, "not in tandem" and "other codes" are as good as "ok", and native sidecars are enough.

Below, an exit code or a signal in parentheses is that of a run that the Job controller ended because the restarts had
reached the backoffLimit; such an attempt does not count. **removed** is a run that the kubelet ended to restart all
containers; it reports 137 for it, whatever the exit code was. Times are whole seconds, as Kubernetes reports them. A
loop that looks once a second races with the restart of main, so the number of its attempts without a sidecar varies.

The signals are those that the sidecar's own program got, run by run. **TERM**: it has logged SIGTERM. **KILL**: it has
logged no signal, and its container ended with 137. **none**: neither. It was not started, was asked to stop in another
way, still ran, or ended before it could log the signal. **unknown**: the log was gone before it could be read.

## What bounds the attempts

How often main was started when it exits 3 in every attempt, without the attempt that the Job controller cut off. Under
Never, restarts within a pod do not count for the backoffLimit, so nothing stops a rule that restarts containers.

| strategy | OnFailure, the manifest's backoffLimit | attempts | Never, backoffLimit 0: attempts |
|---|---|---|---|
`, int(hangs.Seconds()))
	for _, strategy := range strategies {
		onFailure, ok := got[key{strategy, failure}]
		if !ok {
			fmt.Fprintf(&b, "| %s | not run | | |\n", strategy)
			continue
		}
		never := got[key{strategy, failureNever}]
		fmt.Fprintf(&b, "| %s | %d | %s | %s |\n", strategy, onFailure.limit, onFailure.bound(), never.bound())
	}
	for _, s := range situations {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n", s.name, s.text)
		b.WriteString("| strategy | outcome | attempts without a sidecar | restarts | exit codes, run by run " +
			"| signals to the sidecar | seconds from main's end to the last container's end |\n" +
			"|---|---|---|---|---|---|---|\n")
		for _, strategy := range strategies {
			r, ok := got[key{strategy, s.name}]
			if !ok {
				fmt.Fprintf(&b, "| %s | not run | | | | | |\n", strategy)
				continue
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s |\n", strategy,
				r.end(), r.attempts(), r.restarts(), r.codes(), r.signals(), r.lag())
		}
	}
	return b.String()
}

func row[T any](cells []T, text func(T) string) string {
	var b strings.Builder
	for _, cell := range cells {
		fmt.Fprintf(&b, " %s |", text(cell))
	}
	return b.String()
}
