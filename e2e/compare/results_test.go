package compare

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/sentinel-shim/sentinel-shim/e2e/kube"
)

// The first word of kube.Outcome.
const (
	complete = "Complete"
	failed   = "Failed"
)

// result is what was measured of a Job.
type result struct {
	outcome    string    // see kube.Outcome; empty if the Job hangs
	seen       time.Time // when the other fields were read
	cut        time.Time // when the Job controller deleted the live pod, to a whole second; zero if it did not
	containers []string  // main first, then the sidecars in the order of the pod
	runs       map[string][]kube.Run
}

type key struct{ strategy, situation string }

type results map[key]result

// resultOf reads a result from the last state of a Job.
func resultOf(t *testing.T, s *kube.State) result {
	t.Helper()
	r := result{
		outcome: kube.Outcome(s.Job(job)), seen: time.Now(),
		containers: []string{primary}, runs: map[string][]kube.Run{},
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
	return fmt.Sprintf("%s; %s; %s; %s", cmp.Or(r.outcome, "hangs"), r.attempts(), r.codes(), r.lag())
}

// cutOff reports whether the Job controller deleted the pod before the run had ended. How such a run ends says nothing
// about the strategy.
func (r result) cutOff(run kube.Run) bool {
	return !r.cut.IsZero() && !run.Finished.Before(r.cut)
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

func (r result) restarts() string {
	return r.each(func(runs []kube.Run) string { return fmt.Sprint(max(0, len(runs)-1)) })
}

func (r result) codes() string {
	return r.each(func(runs []kube.Run) string {
		var words []string
		for _, run := range runs {
			switch {
			case !run.Ended:
				words = append(words, "running")
			case r.cutOff(run):
				words = append(words, fmt.Sprintf("(%d)", run.ExitCode))
			default:
				words = append(words, fmt.Sprint(run.ExitCode))
			}
		}
		return cmp.Or(strings.Join(words, " "), "not started")
	})
}

func (r result) each(cell func([]kube.Run) string) string {
	var parts []string
	for _, container := range r.containers {
		parts = append(parts, container+" "+cell(r.runs[container]))
	}
	return strings.Join(parts, ", ")
}

// lag returns the whole seconds from the end of main's last run to the end of the last container. If a sidecar started
// only after main's end, the time counts from the sidecar's start.
func (r result) lag() string {
	main := r.runs[primary][len(r.runs[primary])-1]
	if !main.Ended {
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

// tandem reports whether all containers had the same runs: as many as main, with main's exit codes.
func (r result) tandem() bool {
	codes := func(container string) []int {
		var codes []int
		for _, run := range r.whole(container) {
			codes = append(codes, run.ExitCode)
		}
		return codes
	}
	return !slices.ContainsFunc(r.containers, func(container string) bool {
		return !slices.Equal(codes(container), codes(primary))
	})
}

// verdict returns the cell of the short table.
func (r result) verdict(s situation) string {
	outcome, _, _ := strings.Cut(r.outcome, ":")
	switch {
	case outcome == "":
		return "**hangs**"
	case outcome != s.want && outcome == complete:
		return "**completes**"
	case outcome != s.want:
		return "**fails**"
	case r.withoutSidecar() > 0:
		return "**no sidecar**"
	case !r.tandem():
		return "not in tandem"
	}
	return "ok"
}

// markdown returns RESULTS.md: the short table, then one table for each situation.
func (got results) markdown(version string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `# What each strategy does in each situation

Written by %s, which runs each manifest of this directory as a real Job in each situation, here on
Kubernetes %s. Every figure is what the kubelet and the Job controller reported.

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
- **not in tandem**: the Job ended as main did and every attempt had its sidecar, but the sidecar's restarts or exit
  codes were not main's.
- **no sidecar**: the Job ended as main did, but in some attempt main had no sidecar, or lost it while it worked.
- **fails**, **completes**: the Job ended so, although main did not.
- **hangs**: the Job had not ended after %d s.

Below, an exit code in parentheses is that of a run that the Job controller ended because the restarts had reached the
backoffLimit; such an attempt does not count. Times are whole seconds, as Kubernetes reports them. A loop that looks
once a second races with the restart of main, so the number of its attempts without a sidecar varies.
`, int(hangs.Seconds()))
	for _, s := range situations {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n", s.name, s.text)
		b.WriteString("| strategy | outcome | attempts without a sidecar | restarts | exit codes, run by run " +
			"| seconds from main's end to the last container's end |\n" +
			"|---|---|---|---|---|---|\n")
		for _, strategy := range strategies {
			r, ok := got[key{strategy, s.name}]
			if !ok {
				fmt.Fprintf(&b, "| %s | not run | | | | |\n", strategy)
				continue
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n",
				strategy, cmp.Or(r.outcome, "**hangs**"), r.attempts(), r.restarts(), r.codes(), r.lag())
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

// serverVersion returns the Kubernetes version of the cluster that the variable KUBECONFIG names.
func serverVersion() (string, error) {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return "", err
	}
	client, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return "", err
	}
	version, err := client.ServerVersion()
	if err != nil {
		return "", err
	}
	return version.GitVersion, nil
}
