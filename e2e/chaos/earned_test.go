package chaos

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/sentinel-shim/sentinel-shim/e2e/kube"
)

// What is earned.
//
// An attempt is one run of main's container. Its evidence is what main has written by itself (see script) right
// before it ended: "exits 3", "dies of KILL". An attempt earns
//
//   - the code that it says, if nothing was done to its container;
//   - that code or 137, if its container, its sentinel or its process was killed, because the one may have come just
//     before the other; 137 if it had said nothing;
//   - nothing, if its pod was being deleted, by a strike or by the Job controller at the backoffLimit;
//   - nothing, if the node itself says that it has lost or never started the run (see lostByNode) in an outage of
//     the kubelet or containerd. Under Never its sidecars may have 124 then (--start-timeout).
//
// Whatever was done, it never earns 0 without having said "exits 0". What the kubelet starts again, and every further
// pod of the Job, is a new attempt.
//
// A sidecar's run earns the code of an attempt of its pod, and 137 if it was killed itself; under --keep-on-failure,
// 0 alone. It never earns 0 before an attempt of its pod has said "exits 0": it would not be started again.
//
// A Job earns the end of its plan. If that is a success, its backoffLimit is never met, so it completes, whatever
// strikes it: with an attempt that has said "exits 0", and exit code 0 in the last run of every container of its last
// pod. Else it fails. And in a Job that nothing was done to, with no outage in its time, each run of each container
// has exactly the code of the plan, and there are no more runs and no fewer, but for the attempts that have failed
// before a sidecar has started.
//
// A watchful main that says "loses a sidecar" or "is alone" has been left by a sidecar that nobody struck: a shim has
// taken an earlier attempt's end for this one's.

// claim is what a run of main says of its end, empty if it has not come so far.
func claim(main kube.Run) string {
	lines := strings.Split(strings.TrimSpace(main.Message), "\n")
	return claimOf(lines[len(lines)-1])
}

// claimOf is the claim in a line of the termination message: an attempt's number, and what it says.
func claimOf(line string) string {
	if _, text, _ := strings.Cut(line, " "); text != "begun" {
		return text
	}
	return ""
}

// claimed returns the exit code that goes with a claim; ok is false if it is not one of an end that was planned.
func claimed(claim string) (code int, ok bool) {
	how, what, _ := strings.Cut(claim, " ")
	switch {
	case how == "exits":
		code, err := strconv.Atoi(what)
		return code, err == nil
	case how == "dies":
		return attempt{end: strings.TrimPrefix(what, "of ")}.code(), true
	}
	return 0, false
}

// lostByNode are the kubelet's reasons for a run that it cannot tell the end of, or that could not be started.
var lostByNode = []string{"StartError", "ContainerCannotRun", "Unknown", "ContainerStatusUnknown"}

// trial judges one Job.
type trial struct {
	plan
	end      *kube.State
	evidence string
	blows    []blow
	outages  []outage // in the Job's time
	from, to time.Time

	wrong []string // the violations
	lost  []kube.Run
}

func (j *trial) violation(format string, args ...any) {
	j.wrong = append(j.wrong, fmt.Sprintf(format, args...))
}

func (j *trial) judge() {
	want := "Failed: BackoffLimitExceeded"
	if j.succeeds() {
		want = "Complete"
	}
	if got := kube.Outcome(j.end.Job(job)); got != want {
		j.violation("the Job ended as %q, and has earned %q", got, want)
	}
	if j.succeeds() {
		j.judgeSuccess()
	} else if strings.Contains(j.evidence, "exits 0\n") {
		j.violation("an attempt says that it exits 0, which none was to do")
	}
	for _, pod := range j.end.Pods(job) {
		j.judgePod(pod)
	}
	if j.calm() {
		j.judgeCalm()
	}
}

// judgeSuccess looks at the pod that the Job is complete by.
func (j *trial) judgeSuccess() {
	pods := j.end.Pods(job)
	i := slices.IndexFunc(pods, func(pod *corev1.Pod) bool { return pod.Status.Phase == corev1.PodSucceeded })
	if i < 0 {
		j.violation("no pod has succeeded")
		return
	}
	for _, container := range pods[i].Spec.Containers {
		run, _ := j.end.Last(pods[i].Name, container.Name)
		if !run.Ended || run.ExitCode != 0 {
			j.violation("the Job is complete with %v", run)
		}
	}
	if run, _ := j.end.Last(pods[i].Name, primary); claim(run) != "exits 0" {
		j.violation("the Job is complete with %v, which says %q", run, run.Message)
	}
	if !strings.Contains(j.evidence, pods[i].Name) || !strings.HasSuffix(j.evidence, "exits 0\n") {
		j.violation("the Job is complete, and main has not said at last that it exits 0")
	}
}

func (j *trial) judgePod(pod *corev1.Pod) {
	mains := j.end.Runs(pod.Name, primary)
	// What the sidecars may have. Of a run the API may never tell, of its attempt the evidence does.
	var codes []int
	for line := range strings.Lines(j.evidence) {
		if name, text, _ := strings.Cut(strings.TrimSpace(line), " "); name == pod.Name {
			if code, ok := claimed(claimOf(text)); ok {
				codes = append(codes, code)
			}
		}
	}
	for _, run := range mains {
		said, ok := claimed(claim(run))
		if run.Ended && run.ExitCode == 0 && claim(run) != "exits 0" {
			j.violation("%v, and says %q", run, run.Message)
		}
		if strings.HasPrefix(claim(run), "loses") || strings.HasPrefix(claim(run), "is ") {
			j.violation("%v: %s", run, claim(run))
		}
		switch {
		case !run.Ended || j.cutOff(pod, run):
		case j.isLost(run):
			codes = append(codes, 137)
			if j.policy == never { // it may not even have begun: --start-timeout
				codes = append(codes, 124)
			}
		case j.isStruck(run):
			codes = append(codes, 137)
			if run.ExitCode != 137 && (!ok || run.ExitCode != said) {
				j.violation("%v, was killed, and says %q", run, run.Message)
			}
		case !ok || run.ExitCode != said:
			j.violation("%v, and says %q", run, run.Message)
		}
	}
	for i, s := range j.sidecars {
		for _, run := range j.end.Runs(pod.Name, sidecarName(i)) {
			switch {
			case !run.Ended || j.cutOff(pod, run):
			case j.isLost(run):
			case j.isStruck(run) && run.ExitCode == 137:
			case s.keep && run.ExitCode == 0 && slices.Contains(codes, 0):
			case !s.keep && slices.Contains(codes, run.ExitCode):
			default:
				j.violation("%v, which no attempt of main has earned it (they have earned %v): %q", run, codes, run.Message)
			}
		}
	}
}

// cutOff reports whether the pod was being deleted when the run ended. The API tells whole seconds.
func (j *trial) cutOff(pod *corev1.Pod, run kube.Run) bool {
	var cut []time.Time
	for _, b := range j.blows {
		if b.target == wholePod && b.run.Pod == pod.Name {
			cut = append(cut, b.at)
		}
	}
	for _, condition := range j.end.Job(job).Status.Conditions {
		if condition.Type == batchv1.JobFailureTarget && pod.DeletionTimestamp != nil {
			cut = append(cut, condition.LastTransitionTime.Time)
		}
	}
	return slices.ContainsFunc(cut, func(at time.Time) bool { return !run.Finished.Before(at.Truncate(time.Second)) })
}

func (j *trial) isStruck(run kube.Run) bool {
	return slices.ContainsFunc(j.blows, func(b blow) bool { return b.run.ID == run.ID })
}

// isLost reports whether the node has lost the run, as it may in an outage.
func (j *trial) isLost(run kube.Run) bool {
	if !slices.Contains(lostByNode, run.Reason) || len(j.outages) == 0 {
		return false
	}
	if !slices.ContainsFunc(j.lost, func(other kube.Run) bool { return other.ID == run.ID }) {
		j.lost = append(j.lost, run)
	}
	return true
}

// calm reports whether nothing was done to the Job.
func (j *trial) calm() bool { return len(j.blows) == 0 && len(j.outages) == 0 }

func (j *trial) judgeCalm() {
	mains := j.whole(primary)
	var want []int
	for _, a := range j.attempts {
		want = append(want, a.code())
	}
	if !j.succeeds() {
		n := int(j.limit) + 1 // one for each pod
		if j.policy == onFailure {
			n = max(1, len(mains)) // how many there are before the limit is met depends on who is restarted first
		}
		for len(want) < n {
			want = append(want, want[len(want)-1])
		}
		want = want[:n]
	}
	if got := codes(mains); !slices.Equal(got, want) {
		j.violation("nothing was done to the Job: main's exit codes are %v, want %v", got, want)
	}
	for i, s := range j.sidecars {
		runs := j.whole(sidecarName(i))
		switch {
		case !j.succeeds() && j.policy == onFailure:
			// The limit has cut off the one or the other: judgePod has looked at what is left.
		case s.keep && !slices.Equal(codes(runs), []int{0}):
			j.violation("nothing was done to the Job: the exit codes of %s, which is to be kept, are %v", sidecarName(i), codes(runs))
		case !s.keep && !j.inTandem(mains, runs):
			j.violation("nothing was done to the Job: the exit codes of %s are %v, main's are %v", sidecarName(i), codes(runs), want)
		}
	}
}

// inTandem reports whether a sidecar's runs belong to main's, one to one, with the same codes. One that starts when an
// attempt has failed already may have left it out, and be the next one's: the failure was an earlier attempt's.
func (j *trial) inTandem(mains, runs []kube.Run) bool {
	for _, main := range mains {
		switch {
		case len(runs) > 0 && runs[0].ExitCode == main.ExitCode:
			runs = runs[1:]
		case len(runs) > 0 && j.policy == onFailure && main.ExitCode != 0 && !main.Finished.After(runs[0].Started):
		default:
			return false
		}
	}
	return len(runs) == 0
}

// whole are a container's runs that were not cut off, over all pods.
func (j *trial) whole(container string) []kube.Run {
	var whole []kube.Run
	for _, pod := range j.end.Pods(job) {
		for _, run := range j.end.Runs(pod.Name, container) {
			if run.Ended && !j.cutOff(pod, run) {
				whole = append(whole, run)
			}
		}
	}
	return whole
}

func codes(runs []kube.Run) []int {
	var codes []int
	for _, run := range runs {
		codes = append(codes, run.ExitCode)
	}
	return codes
}

// slowestEnd returns how long after main's last run a sidecar has ended that had no reason to wait. The API tells
// whole seconds.
func (j *trial) slowestEnd() time.Duration {
	var slowest time.Duration
	if !j.calm() {
		return 0
	}
	for _, pod := range j.end.Pods(job) {
		main, _ := j.end.Last(pod.Name, primary)
		for i, s := range j.sidecars {
			run, _ := j.end.Last(pod.Name, sidecarName(i))
			if main.Ended && run.Ended && s.drain == 0 && s.kind != "stubborn" && run.Started.Before(main.Finished) && !j.cutOff(pod, run) {
				slowest = max(slowest, run.Finished.Sub(main.Finished))
			}
		}
	}
	return slowest
}

// story is what happened to the Job, for who wants to know why.
func (j *trial) story() string {
	var text strings.Builder
	fmt.Fprintf(&text, "plan: %v\nstrikes:\n", j.plan)
	for _, b := range j.blows {
		fmt.Fprintf(&text, "  %v\n", b)
	}
	text.WriteString("outages in its time:\n")
	for _, o := range j.outages {
		fmt.Fprintf(&text, "  %v\n", o)
	}
	fmt.Fprintf(&text, "runs:\n")
	for _, run := range j.end.Runs(job, "") {
		fmt.Fprintf(&text, "  %v %q\n", run, run.Message)
	}
	fmt.Fprintf(&text, "main's evidence (pod, attempt, what it says):\n%s", j.evidence)
	return text.String()
}

// slowest is the longest of some durations, and the number of its Job.
type slowest struct {
	took   time.Duration
	number int
}

func (s slowest) String() string {
	if s.took == 0 {
		return "less than a second"
	}
	return fmt.Sprintf("%v (Job %d)", s.took.Round(time.Second), s.number)
}

func (s *slowest) add(took time.Duration, number int) {
	if took > s.took {
		*s = slowest{took, number}
	}
}

// tally is what was done and survived.
type tally struct {
	mu                         sync.Mutex
	jobs, pods, runs, restarts int
	calm, wrong                int
	outcomes                   map[string]int
	hit, late                  map[target]int
	lost                       map[string]int
	slowestEnd, slowestJob     slowest
}

func newTally() *tally {
	return &tally{outcomes: map[string]int{}, hit: map[target]int{}, late: map[target]int{}, lost: map[string]int{}}
}

func (s *tally) add(j *trial) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.jobs++
	s.outcomes[kube.Outcome(j.end.Job(job))]++
	if j.calm() {
		s.calm++
	}
	s.wrong += len(j.wrong)
	for _, pod := range j.end.Pods(job) {
		s.pods++
		for _, n := range kube.Restarts(pod) {
			s.restarts += n
		}
	}
	s.runs += len(j.end.Runs(job, ""))
	for _, b := range j.blows {
		if b.err == nil {
			s.hit[b.target]++
		} else {
			s.late[b.target]++
		}
	}
	for _, run := range j.lost {
		s.lost[run.Reason]++
	}
	s.slowestEnd.add(j.slowestEnd(), j.number)
	s.slowestJob.add(j.to.Sub(j.from), j.number)
}

func (s *tally) String() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%d Jobs in %d pods: %d container runs, %d restarts\n", s.jobs, s.pods, s.runs, s.restarts)
	for _, outcome := range sortedKeys(s.outcomes) {
		fmt.Fprintf(&text, "  %-30s %5d\n", outcome, s.outcomes[outcome])
	}
	fmt.Fprintf(&text, "  %-30s %5d\n", "of them nothing was done to", s.calm)
	text.WriteString("killed\n")
	for _, target := range targets {
		fmt.Fprintf(&text, "  %-30s %5d   too late %d\n", target, s.hit[target], s.late[target])
	}
	text.WriteString("runs that the node lost in an outage\n")
	for _, reason := range sortedKeys(s.lost) {
		fmt.Fprintf(&text, "  %-30s %5d\n", reason, s.lost[reason])
	}
	fmt.Fprintf(&text, "slowest Job: %v\n", s.slowestJob)
	fmt.Fprintf(&text, "slowest end of an undisturbed sidecar after main's, in the API's whole seconds: %v\n", s.slowestEnd)
	fmt.Fprintf(&text, "violations: %d", s.wrong)
	return text.String()
}

func sortedKeys(m map[string]int) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
