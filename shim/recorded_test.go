package shim

import (
	"slices"
	"strings"
	"testing"
)

// recorded are schedules as a violation prints them. On a pod with the defect, they violate the invariant. On one
// without, they do not: they are not possible, or do no harm.
var recorded = []struct {
	defect
	familyMember
	invariant invariant
	schedule  string
}{
	{
		noBarrier, familyMember{"1 shim, 2 attempts, 1 kill, each step", allShared}, notOlder, `
		start main
		main: create a private file
		start sidecar1
		sidecar1: watch
		sidecar1: begin
		sidecar1: lstat main-running
		main: begin
		main: launch
		sidecar1: look
		sidecar1: act
		sidecar1: wake
		main: command exits 0
		main: rename main-running to main-terminated
		kill main # it has recorded a success, and comes back all the same
		sidecar1: look
		sidecar1: act
		sidecar1: look
		sidecar1: act
		start main
		main: begin
		main: launch
		`,
	},
	{
		noConfirming, familyMember{"1 shim, 2 attempts, 1 kill, each step", allShared}, notOlder, `
		start main
		main: create a private file
		start sidecar1
		sidecar1: watch
		sidecar1: begin
		sidecar1: lstat main-running
		main: begin
		main: launch
		sidecar1: look
		sidecar1: act
		sidecar1: wake
		main: command exits 0
		main: rename main-running to main-terminated
		kill main
		sidecar1: look
		sidecar1: look at the sidecar # and nothing is announced yet
		start main
		main: begin
		main: barrier
		main: launch
		sidecar1: act
		sidecar1: act
		`,
	},
	{
		endsStay, familyMember{"1 shim, 2 attempts, 1 kill, each step", noEvents}, notOlder, `
		start main
		main: begin
		main: launch
		start sidecar1
		sidecar1: watch
		main: command exits 0
		main: rename main-running to main-terminated
		kill main
		start main
		main: rename .main-0 to main-running
		sidecar1: begin
		sidecar1: look
		sidecar1: do not start the sidecar
		`,
	},
	{
		noLockWait, familyMember{"1 shim, Never, 1 kill, each step", readOnly}, podEnds, `
		start main
		kill main
		`,
	},
}

// regressions are schedules that once led to a violation. Each step has to be possible.
var regressions = map[string]struct {
	familyMember
	schedule string
}{
	"killed in Begin, a sentinel leaves a trace of the earlier run": {
		familyMember{"1 shim, 3 attempts, 1 kill, each look", allShared}, `
		start main
		main: begin
		main: launch
		main: command exits 3
		main: end
		main: exit
		start main
		main: rename .main-0 to main-running
		kill main
		start main
		main: begin
		main: barrier
		`,
	},
}

func TestRecordedSchedules(t *testing.T) {
	for _, c := range recorded {
		t.Run(string(c.defect), func(t *testing.T) {
			p, _ := families[c.family].in(c.variant)
			healthy := newSim(p)
			p.defect = c.defect
			broken := newSim(p)

			schedule, err := broken.read(c.schedule)
			if err != nil {
				t.Fatalf("with the defect: %v", err)
			}
			if err := broken.violationAfter(schedule); invariantOf(err) != c.invariant {
				t.Errorf("with the defect, the violation is %v, want one of %q", err, c.invariant)
			}
			checkText(t, broken, &finding{schedule: schedule, steps: broken.write(schedule)})

			if schedule, err = healthy.read(c.schedule); err == nil {
				err = healthy.violationAfter(schedule)
			}
			if invariantOf(err) != "" {
				t.Errorf("without the defect: %v", err)
			}
		})
	}
	for name, c := range regressions {
		t.Run(name, func(t *testing.T) {
			p, _ := families[c.family].in(c.variant)
			s := newSim(p)
			schedule, err := s.read(c.schedule)
			if err == nil {
				err = s.violationAfter(schedule)
			}
			if err != nil {
				t.Errorf("%v\n%s", err, lines(s.write(schedule)))
			}
		})
	}
}

// violationAfter plays a schedule, and explores all that can happen after it.
func (s *sim) violationAfter(schedule []podMove) error {
	r := newReplay(s)
	r.deadEnd = func(at *situation) error { return exploreFrom(s, at) }
	return r.takeAll(schedule)
}

// TestImpossibleSteps: a step that is not possible is an error that says what is possible.
func TestImpossibleSteps(t *testing.T) {
	p, _ := families["1 shim, Never, 1 kill, each step"].in(allShared)
	for schedule, want := range map[string]string{
		"start main; start main": `step "start main" is not possible after 1 moves: possible are ["main: begin" `,
		"start main; main: launch": `step "main: launch" does not come after 1 moves: instead, ` +
			`["main: create a private file" `,
		"kill main": `step "kill main" is not possible after 0 moves: possible are ["start main" `,
	} {
		if _, err := newSim(p).read(schedule); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: the error is %v, want %s", schedule, err, want)
		}
	}
}

// checkText checks that a schedule that is written as text is the same schedule when it is read.
func checkText(t *testing.T, s *sim, f *finding) {
	t.Helper()
	for _, text := range []string{lines(f.steps), oneLine(f.steps)} {
		if read, err := s.read(text); err != nil || !slices.Equal(read, f.schedule) {
			t.Errorf("the schedule is another one when it is read again (error: %v):\n%s", err, text)
		}
	}
}
