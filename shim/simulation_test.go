//go:build !race

package shim

import (
	"flag"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

// The schedules of simulated pods: every one of small pods, random ones of larger pods. They take too long for the race
// detector, which has nothing to find: a simulation has one thread.

var (
	longFlag      = flag.Bool("long", false, "also explore the pods that take minutes")
	schedulesFlag = flag.Int("schedules", 5000, "the number of random schedules, each of a pod of its own")
	seedFlag      = flag.Uint64("seed", 0, "the only random schedule to play and log; 0: all of them")
	scheduleFlag  = flag.String("schedule", "", "the schedule to replay and log, as printed with a violation")
)

func TestEverySchedule(t *testing.T) {
	var situations, moves atomic.Int64
	t.Cleanup(func() { t.Logf("%d situations, %d moves between them", situations.Load(), moves.Load()) })
	pods := maps.Clone(families)
	if *longFlag {
		maps.Copy(pods, longFamilies)
	}
	for _, long := range longPods {
		if _, ok := families[long.family].in(long.variant); !ok || families[long.family].policy == Undeclared {
			t.Errorf("longPods: there is no pod %q in the variant %q", long.family, long.variant)
		}
	}
	for _, family := range slices.Sorted(maps.Keys(pods)) {
		for _, v := range variants() {
			p, ok := pods[family].in(v)
			if !ok || !*longFlag && slices.Contains(longPods, familyMember{family, v}) {
				continue
			}
			t.Run(family+"/"+v.String(), func(t *testing.T) {
				t.Parallel()
				s := newSim(p)
				if *scheduleFlag != "" {
					replayFlag(t, s)
					return
				}
				x := newExplorer(s)
				if schedule, err := x.explore(); err != nil {
					f := s.found(schedule, err, x.cannotEnd)
					t.Fatalf("%v\n%s", f, replayCommand(t.Name(), "-long", f))
				}
				situations.Add(int64(len(x.from)))
				moves.Add(x.moves)
				t.Logf("%d situations, %d moves between them", len(x.from), x.moves)
			})
		}
	}
}

// replayCommand returns the command that plays the schedule of a violation again, with the flags that select its pod.
func replayCommand(test, flags string, f *finding) string {
	var levels []string
	for level := range strings.SplitSeq(test, "/") {
		levels = append(levels, "^"+regexp.QuoteMeta(level)+"$")
	}
	return fmt.Sprintf("to replay it: go test ./shim -v -run '%s' -args %s -schedule '%s'",
		strings.Join(levels, "/"), flags, oneLine(f.steps))
}

// replayFlag plays -schedule. The test fails if the schedule is not possible or if an invariant is violated.
func replayFlag(t *testing.T, s *sim) {
	t.Helper()
	schedule, err := s.read(*scheduleFlag)
	if err != nil {
		t.Fatalf("-schedule: %v", err)
	}
	r := newReplay(s)
	r.deadEnd = func(at *situation) error {
		if !s.exhaustive {
			return nil // there may be too much to explore
		}
		return exploreFrom(s, at)
	}
	err = r.takeAll(schedule)
	t.Logf("%v\n%s", s.pod, lines(s.write(schedule)))
	if err != nil {
		t.Error(err)
	}
}

// TestDefectsAreFound: the simulation finds each of these plausible mistakes. No move can be left out of the
// schedule that it shows, and the schedule is the same one when it is read again.
func TestDefectsAreFound(t *testing.T) {
	for defect, c := range map[defect]struct {
		family    string
		variant   variant
		invariant invariant
	}{
		noBarrier:    {"1 shim, 2 attempts, 1 kill, each step", allShared, notOlder},
		noConfirming: {"1 shim, 2 attempts, 1 kill, each step", allShared, notOlder},
		endsStay:     {"1 shim, 2 attempts, 1 kill, each step", noEvents, notOlder},
		alwaysStale:  {"1 shim, Never, 1 kill, each step", allShared, allFail},
		neverStale:   {"1 shim, 3 attempts in tandem, each step", allShared, tandem},
		notNative:    {"native: 1 shim, 3 attempts in tandem, each step", allShared, tandem},
		noHeartbeat:  {"1 shim, Never, 1 kill, each step", noLocks, notLost},
		noLockWait:   {"1 shim, Never, 1 kill, each step", readOnly, podEnds},
		zeroIfKilled: {"1 shim, Never, 1 kill, each step", allShared, onlySuccess},
	} {
		t.Run(string(defect), func(t *testing.T) {
			t.Parallel()
			p, _ := families[c.family].in(c.variant)
			p.defect = defect
			s := newSim(p)
			x := newExplorer(s)
			schedule, err := x.explore()
			if err == nil {
				t.Fatalf("%d situations, and it was not found", len(x.from))
			}
			f := s.found(schedule, err, x.cannotEnd)
			if invariantOf(f) != c.invariant {
				t.Fatalf("found as something else than a violation of %q:\n%v", c.invariant, f)
			}
			checkText(t, s, f)
			checkShort(t, s, f, x.cannotEnd)
		})
	}
}

// TestRandomSchedules plays random schedules of pods that are too large to explore. Each seed is a pod of its
// own, with up to four shims, two mains, chains of shims, mains without a sentinel, --drain and --hold,
// processes that are stopped for a while, clocks that are coarse or go back, ends that can only be recorded in
// place, and a deletion of the pod.
func TestRandomSchedules(t *testing.T) {
	if *seedFlag != 0 {
		s, r := randomSim(*seedFlag)
		if *scheduleFlag != "" {
			replayFlag(t, s)
			return
		}
		made, err := s.playRandom(r)
		t.Logf("%v\n%s", s.pod, lines(s.write(unforced(s, made))))
		if err != nil {
			t.Error(err)
		}
		return
	}
	const batches = 8
	var moves atomic.Int64
	var longest [batches]int
	for batch := range batches {
		t.Run(fmt.Sprint(batch), func(t *testing.T) {
			t.Parallel()
			for seed := 1 + batch; seed <= *schedulesFlag; seed += batches {
				s, r := randomSim(uint64(seed))
				made, err := s.playRandom(r)
				if err != nil {
					f := s.found(made, err, s.doesNotEnd)
					command := replayCommand("TestRandomSchedules", fmt.Sprint("-seed ", seed), f)
					t.Fatalf("%v\n%v\n%s", s.pod, f, command)
				}
				moves.Add(int64(len(made)))
				longest[batch] = max(longest[batch], len(made))
			}
		})
	}
	t.Cleanup(func() {
		t.Logf("%d schedules, %d moves, %d in the longest", *schedulesFlag, moves.Load(), slices.Max(longest[:]))
	})
}
