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

// How Jobs, attempts and sidecars have to end.
//
// An attempt is one run of main's container. Right before it ends, main itself writes its claim (see script), for
// example "exits 3" or "dies of KILL". The exit code of an attempt has to be
//
//   - the code of its claim, if nothing was done to its container;
//   - the code of its claim or 137, if its container, its sentinel or its command was killed, because either may have
//     come first; 137 if it has claimed nothing;
//   - any, if its pod was being deleted, by a fault or by the Job controller at the backoffLimit;
//   - any, if the node says that it has lost or never started the run (see lostByNode), in an outage of the kubelet or
//     containerd. Under Never its sidecars may exit with 124 then (--start-timeout).
//
// In every case, the exit code may be 0 only if main has claimed "exits 0". Whatever the kubelet starts again is a new
// attempt, and so is every further pod of the Job.
//
// A sidecar's run has to exit with the code of an attempt of its pod, or with 137 if it was killed itself; under
// --keep-on-failure, only with 0. It must not exit with 0 before an attempt of its pod has claimed "exits 0", because
// it would not be started again.
//
// A Job has to end as planned. One that is to succeed never meets its backoffLimit, so it completes whatever faults it
// gets. An attempt of it has claimed "exits 0", and the last run of every container of its last pod has exit code 0.
// Every other Job fails. In a Job without faults and without outages, each run of each container has exactly the
// planned code, and there are as many runs as planned; but a sidecar may have no run for an attempt that had failed
// before the sidecar started.
//
// A main that uses its sidecars and claims "loses a sidecar" or "is alone" was left by a sidecar that was not killed:
// a shim has taken the end of an earlier attempt for the end of this one.

// claim returns what a run of main has written about its end. It is empty if main has not come so far.
func claim(main kube.Run) string {
	lines := strings.Split(strings.TrimSpace(main.Message), "\n")
	return claimOf(lines[len(lines)-1])
}

// claimOf returns the claim in a line of the termination message: the attempt's number, a space, and the claim.
func claimOf(line string) string {
	if _, text, _ := strings.Cut(line, " "); text != "begun" {
		return text
	}
	return ""
}

// claimed returns the exit code of a claim; ok is false if the claim is not about a planned end.
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

// lostByNode are the kubelet's reasons for a run whose end it does not know, or that could not be started.
var lostByNode = []string{"StartError", "ContainerCannotRun", "Unknown", "ContainerStatusUnknown"}

// trial judges one Job.
type trial struct {
	plan
	end      *kube.State
	evidence string // all that main has written to /evidence/log
	injected []injection
	outages  []outage // those in the lifetime of the Job
	from, to time.Time

	violations []string
	lost       []kube.Run // runs that the node has lost
}

func (j *trial) violation(format string, args ...any) {
	j.violations = append(j.violations, fmt.Sprintf(format, args...))
}

// judge appends to violations whatever is not as it has to be.
func (j *trial) judge() {
	want := "Failed: BackoffLimitExceeded"
	if j.succeeds() {
		want = "Complete"
	}
	if got := kube.Outcome(j.end.Job(job)); got != want {
		j.violation("the Job ended as %q, want %q", got, want)
	}
	if j.succeeds() {
		j.judgeSuccess()
	} else if strings.Contains(j.evidence, "exits 0\n") {
		j.violation("an attempt claims that it exits with 0, but no attempt was planned to")
	}
	for _, pod := range j.end.Pods(job) {
		j.judgePod(pod)
	}
	if j.undisturbed() {
		j.judgeUndisturbed()
	}
}

// judgeSuccess checks the pod that has completed the Job.
func (j *trial) judgeSuccess() {
	pods := j.end.Pods(job)
	i := slices.IndexFunc(pods, func(pod *corev1.Pod) bool { return pod.Status.Phase == corev1.PodSucceeded })
	if i < 0 {
		j.violation("the Job is complete, but no pod has succeeded")
		return
	}
	for _, container := range pods[i].Spec.Containers {
		run, _ := j.end.Last(pods[i].Name, container.Name)
		if !run.Ended || run.ExitCode != 0 {
			j.violation("the Job is complete, but %v, want exit code 0", run)
		}
	}
	if run, _ := j.end.Last(pods[i].Name, primary); claim(run) != "exits 0" {
		j.violation("the Job is complete by %v, which claims %q, want \"exits 0\"", run, run.Message)
	}
	if !strings.Contains(j.evidence, pods[i].Name) || !strings.HasSuffix(j.evidence, "exits 0\n") {
		j.violation("the Job is complete, but main's last claim is not \"exits 0\"")
	}
}

func (j *trial) judgePod(pod *corev1.Pod) {
	mains := j.end.Runs(pod.Name, primary)
	// The exit codes that sidecars may have. They are taken from the evidence, because the API may have missed a run.
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
			j.violation("%v, but its claims are %q, want \"exits 0\" as the last", run, run.Message)
		}
		if strings.HasPrefix(claim(run), "loses") || strings.HasPrefix(claim(run), "is ") {
			j.violation("%v: main claims that it %s", run, claim(run))
		}
		switch {
		case !run.Ended || j.cutOff(pod, run):
		case j.isLost(run):
			codes = append(codes, 137)
			if j.policy == never { // perhaps it never started, and --start-timeout has ended the sidecars
				codes = append(codes, 124)
			}
		case j.wasHit(run):
			codes = append(codes, 137)
			if run.ExitCode != 137 && (!ok || run.ExitCode != said) {
				j.violation("%v; it was killed, and its claims are %q", run, run.Message)
			}
		case !ok || run.ExitCode != said:
			j.violation("%v; it was not killed, and its claims are %q", run, run.Message)
		}
	}
	for i, s := range j.sidecars {
		for _, run := range j.end.Runs(pod.Name, sidecarName(i)) {
			switch {
			case !run.Ended || j.cutOff(pod, run):
			case j.isLost(run):
			case j.wasHit(run) && run.ExitCode == 137:
			case s.keep && run.ExitCode == 0 && slices.Contains(codes, 0):
			case !s.keep && slices.Contains(codes, run.ExitCode):
			default:
				j.violation("%v, want the code of one of main's attempts, %v: %q", run, codes, run.Message)
			}
		}
	}
}

// cutOff reports whether the pod was being deleted when the run ended. The API's times are whole seconds.
func (j *trial) cutOff(pod *corev1.Pod, run kube.Run) bool {
	var cut []time.Time
	for _, i := range j.injected {
		if i.target == wholePod && i.run.Pod == pod.Name {
			cut = append(cut, i.at)
		}
	}
	for _, condition := range j.end.Job(job).Status.Conditions {
		if condition.Type == batchv1.JobFailureTarget && pod.DeletionTimestamp != nil {
			cut = append(cut, condition.LastTransitionTime.Time)
		}
	}
	return slices.ContainsFunc(cut, func(at time.Time) bool { return !run.Finished.Before(at.Truncate(time.Second)) })
}

// wasHit reports whether a fault was injected into the run.
func (j *trial) wasHit(run kube.Run) bool {
	return slices.ContainsFunc(j.injected, func(i injection) bool { return i.run.ID == run.ID })
}

// isLost reports whether the node has lost the run, which it may do in an outage.
func (j *trial) isLost(run kube.Run) bool {
	if !slices.Contains(lostByNode, run.Reason) || len(j.outages) == 0 {
		return false
	}
	if !slices.ContainsFunc(j.lost, func(other kube.Run) bool { return other.ID == run.ID }) {
		j.lost = append(j.lost, run)
	}
	return true
}

// undisturbed reports whether there were no faults and no outages.
func (j *trial) undisturbed() bool { return len(j.injected) == 0 && len(j.outages) == 0 }

func (j *trial) judgeUndisturbed() {
	mains := j.whole(primary)
	var want []int
	for _, a := range j.attempts {
		want = append(want, a.code())
	}
	if !j.succeeds() {
		n := int(j.limit) + 1 // one for each pod
		if j.policy == onFailure {
			// How many runs there are when the limit is met depends on which container is restarted first.
			n = max(1, len(mains))
		}
		for len(want) < n {
			want = append(want, want[len(want)-1])
		}
		want = want[:n]
	}
	if got := codes(mains); !slices.Equal(got, want) {
		j.violation("the Job was not disturbed, but main's exit codes are %v, want %v", got, want)
	}
	for i, s := range j.sidecars {
		runs := j.whole(sidecarName(i))
		switch {
		case !j.succeeds() && j.policy == onFailure:
			// The limit may have cut off any container; judgePod has judged the other runs.
		case s.keep && !slices.Equal(codes(runs), []int{0}):
			j.violation("the Job was not disturbed, but %s, with --keep-on-failure, has the exit codes %v, want [0]",
				sidecarName(i), codes(runs))
		case !s.keep && !j.inTandem(mains, runs):
			j.violation("the Job was not disturbed, but the exit codes of %s are %v, and main's are %v",
				sidecarName(i), codes(runs), want)
		}
	}
}

// inTandem reports whether a sidecar has one run for each run of main, with the same exit code. Under OnFailure there
// may be no run for an attempt that had failed before the sidecar started: its shim has then waited for the next one.
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

// whole returns a container's runs in all pods that were not cut off.
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

// slowestEnd returns the longest time from the end of main's last run to that of a sidecar which did not have to wait,
// in an undisturbed Job. The API's times are whole seconds.
func (j *trial) slowestEnd() time.Duration {
	var slowest time.Duration
	if !j.undisturbed() {
		return 0
	}
	for _, pod := range j.end.Pods(job) {
		main, _ := j.end.Last(pod.Name, primary)
		for i, s := range j.sidecars {
			run, _ := j.end.Last(pod.Name, sidecarName(i))
			prompt := s.drain == 0 && s.kind != "stubborn" && run.Started.Before(main.Finished)
			if main.Ended && run.Ended && prompt && !j.cutOff(pod, run) {
				slowest = max(slowest, run.Finished.Sub(main.Finished))
			}
		}
	}
	return slowest
}

// report describes everything that happened to the Job.
func (j *trial) report() string {
	var text strings.Builder
	fmt.Fprintf(&text, "plan: %v\nfaults:\n", j.plan)
	for _, i := range j.injected {
		fmt.Fprintf(&text, "  %v\n", i)
	}
	text.WriteString("outages:\n")
	for _, o := range j.outages {
		fmt.Fprintf(&text, "  %v\n", o)
	}
	fmt.Fprintf(&text, "runs:\n")
	for _, run := range j.end.Runs(job, "") {
		fmt.Fprintf(&text, "  %v %q\n", run, run.Message)
	}
	fmt.Fprintf(&text, "what main wrote (pod, attempt, claim):\n%s", j.evidence)
	return text.String()
}

// slowest is the longest of several durations, with the number of its Job.
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

// tally counts what happened to all Jobs.
type tally struct {
	mu                         sync.Mutex
	jobs, pods, runs, restarts int
	undisturbed, violations    int
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
	if j.undisturbed() {
		s.undisturbed++
	}
	s.violations += len(j.violations)
	for _, pod := range j.end.Pods(job) {
		s.pods++
		for _, n := range kube.Restarts(pod) {
			s.restarts += n
		}
	}
	s.runs += len(j.end.Runs(job, ""))
	for _, i := range j.injected {
		if i.err == nil {
			s.hit[i.target]++
		} else {
			s.late[i.target]++
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
	fmt.Fprintf(&text, "  %-30s %5d\n", "of them undisturbed", s.undisturbed)
	text.WriteString("killed\n")
	for _, target := range targets {
		fmt.Fprintf(&text, "  %-30s %5d   too late %d\n", target, s.hit[target], s.late[target])
	}
	text.WriteString("runs that the node lost in an outage\n")
	for _, reason := range sortedKeys(s.lost) {
		fmt.Fprintf(&text, "  %-30s %5d\n", reason, s.lost[reason])
	}
	fmt.Fprintf(&text, "slowest Job: %v\n", s.slowestJob)
	fmt.Fprintf(&text, "slowest end of a sidecar after main's in an undisturbed Job, in whole seconds: %v\n",
		s.slowestEnd)
	fmt.Fprintf(&text, "violations: %d", s.violations)
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
