//go:build !race

package shim

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// The schedules of simulated pods: every one of small pods, random ones of larger pods. They take too long for the race
// detector, which has nothing to find: a simulation has one thread.

var (
	longFlag      = flag.Bool("long", false, "also explore the pods that take minutes")
	schedulesFlag = flag.Int("schedules", 5000, "the number of random schedules, each of a pod of its own")
	seedFlag      = flag.Uint64("seed", 0, "the only random schedule to play and log; 0: all of them")
	scheduleFlag  = flag.String("schedule", "", "the schedule to replay and log, as printed with a violation")
)

// families are the pods whose schedules are explored exhaustively: each with and without events, shared locks,
// and a volume that the sidecars may write to.
//
// A kill may hit any process at any instant. "Each step" covers all interleavings of all steps; "each look"
// those in which a shim begins, looks and ends in one step. In "tandem", the kubelet restarts together the
// containers that have ended together.
var families = map[string]pod{
	"1 shim, Never, 1 kill, each step":           {policy: Never, attempts: 1, kills: 1},
	"1 shim, 2 attempts, 1 kill, each step":      {policy: OnFailure, attempts: 2, kills: 1},
	"1 shim, 3 attempts, 1 kill, each look":      {policy: OnFailure, attempts: 3, kills: 1, whole: true},
	"1 shim, 3 attempts in tandem, each step":    {policy: OnFailure, attempts: 3, prompt: true},
	"1 shim kept, 2 attempts, each step":         {policy: OnFailure, attempts: 2, shims: []follower{{keep: true}}},
	"1 shim kept, 3 attempts, 1 kill, each look": {policy: OnFailure, attempts: 3, kills: 1, whole: true, shims: []follower{{keep: true}}},
	"2 shims, Never, 1 kill, each look":          {policy: Never, attempts: 1, kills: 1, whole: true, shims: make([]follower, 2)},
	"2 shims, 3 attempts in tandem, each look":   {policy: OnFailure, attempts: 3, prompt: true, whole: true, shims: make([]follower, 2)},

	"2 mains, Never, 1 kill, each look":        {sentinels: 2, policy: Never, attempts: 1, kills: 1, whole: true},
	"2 mains, 2 attempts in tandem, each look": {sentinels: 2, policy: OnFailure, attempts: 2, prompt: true, whole: true},

	"ends in place: 1 shim, Never, 1 kill, each step":        {policy: Never, attempts: 1, kills: 1, refusesEnds: true},
	"ends in place: 1 shim, 3 attempts in tandem, each step": {policy: OnFailure, attempts: 3, prompt: true, refusesEnds: true},
	"ends in place: 1 shim kept, 2 attempts, each step":      {policy: OnFailure, attempts: 2, refusesEnds: true, shims: []follower{{keep: true}}},
}

// longFamilies take minutes: see -long.
var longFamilies = map[string]pod{
	"1 shim, 3 attempts, each step":  {policy: OnFailure, attempts: 3},
	"2 shims, 2 attempts, each look": {policy: OnFailure, attempts: 2, whole: true, shims: make([]follower, 2)},
}

// variant is how the containers of a pod share their volume.
type variant struct{ locks, events, writing bool }

func (v variant) String() string {
	var names []string
	for _, is := range []struct {
		so   bool
		name string
	}{{v.locks, "locks"}, {v.events, "events"}, {v.writing, "writing"}} {
		if !is.so {
			is.name = "no " + is.name
		}
		names = append(names, is.name)
	}
	return strings.Join(names, ", ")
}

// variants returns all variants, in a fixed order.
func variants() (all []variant) {
	for i := range 8 {
		all = append(all, variant{locks: i&1 != 0, events: i&2 != 0, writing: i&4 != 0})
	}
	return all
}

// in returns the pod of a family in a variant, if the family has it.
func (p pod) in(v variant) (_ pod, ok bool) {
	if p.prompt && !(v.locks && v.events) {
		return p, false // restarts are in tandem if main waits, and its end is not missed
	}
	p.sentinels, p.lostAfter, p.maxAge = max(1, p.sentinels), 2*simTick, 1
	p.locks, p.events = v.locks, v.events
	p.shims = slices.Clone(p.shims)
	if p.shims == nil {
		p.shims = make([]follower, 1)
	}
	for k := range p.shims {
		shim := &p.shims[k]
		shim.mains, shim.readOnly = []int{0, 1}[:p.sentinels], !v.writing
		if p.policy == Never {
			// Only this ends a pod whose main was killed before it had begun and does not come back.
			p.timed, shim.config.StartTimeout = true, simTick
		}
	}
	return p, true
}

// familyMember is the pod of a family in a variant.
type familyMember struct {
	family string
	variant
}

// longPods belong to families, but each takes as long as most others together: see -long.
var longPods = []familyMember{
	{"1 shim, 2 attempts, 1 kill, each step", variant{locks: false, events: true, writing: true}},
	{"1 shim, 2 attempts, 1 kill, each step", variant{locks: false, events: false, writing: true}},
	{"2 mains, Never, 1 kill, each look", variant{locks: false, events: true, writing: false}},
	{"2 mains, Never, 1 kill, each look", variant{locks: false, events: true, writing: true}},
	{"2 mains, Never, 1 kill, each look", variant{locks: false, events: false, writing: false}},
	{"2 mains, Never, 1 kill, each look", variant{locks: false, events: false, writing: true}},
}

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
				s.exhaustive = true
				if *scheduleFlag != "" {
					t.Log(s.replay(t, *scheduleFlag))
					return
				}
				x := newExplorer(s)
				if schedule, err := x.explore(); err != nil {
					t.Fatal(describeSchedule(s, schedule, err))
				}
				situations.Add(int64(len(x.from)))
				moves.Add(x.moves)
				t.Logf("%d situations, %d moves between them", len(x.from), x.moves)
			})
		}
	}
}

// TestDefectsAreFound: the simulation finds each of these plausible mistakes.
func TestDefectsAreFound(t *testing.T) {
	writing := variant{locks: true, events: true, writing: true}
	for defect, c := range map[defect]struct {
		family    string
		variant   variant
		invariant invariant
	}{
		noBarrier:    {"1 shim, 2 attempts, 1 kill, each step", writing, notOlder},
		noConfirming: {"1 shim, 2 attempts, 1 kill, each step", writing, notOlder},
		endsStay:     {"1 shim, 2 attempts, 1 kill, each step", variant{locks: true, writing: true}, notOlder},
		alwaysStale:  {"1 shim, Never, 1 kill, each step", writing, allFail},
		neverStale:   {"1 shim, 3 attempts in tandem, each step", writing, tandem},
		noHeartbeat:  {"1 shim, Never, 1 kill, each step", variant{events: true, writing: true}, notLost},
		noLockWait:   {"1 shim, Never, 1 kill, each step", variant{locks: true, events: true}, podEnds},
		zeroIfKilled: {"1 shim, Never, 1 kill, each step", writing, onlySuccess},
	} {
		t.Run(string(defect), func(t *testing.T) {
			t.Parallel()
			p, _ := families[c.family].in(c.variant)
			p.defect = defect
			s := newSim(p)
			s.exhaustive = true
			x := newExplorer(s)
			schedule, err := x.explore()
			if err == nil {
				t.Fatalf("%d situations, and it was not found", len(x.from))
			}
			if invariantOf(err) != c.invariant {
				t.Fatalf("found as something else than a violation of %q:\n%v", c.invariant, describeSchedule(s, schedule, err))
			}
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
		made, err := s.playRandom(r)
		t.Logf("%+v\n%v", s.pod, describeSchedule(s, made, err))
		return
	}
	var moves atomic.Int64
	const batches = 8
	for batch := range batches {
		t.Run(fmt.Sprint(batch), func(t *testing.T) {
			t.Parallel()
			for seed := 1 + batch; seed <= *schedulesFlag; seed += batches {
				s, r := randomSim(uint64(seed))
				made, err := s.playRandom(r)
				if err != nil {
					t.Fatalf("%+v\n%v\nto replay it: go test ./shim -v -run TestRandomSchedules -args -seed %d",
						s.pod, describeSchedule(s, made, err), seed)
				}
				moves.Add(int64(len(made)))
			}
		})
	}
	t.Cleanup(func() { t.Logf("%d schedules, %d moves", *schedulesFlag, moves.Load()) })
}

// randomSim returns the pod of a seed, and the source of randomness for its schedule.
func randomSim(seed uint64) (*sim, *rand.Rand) {
	r := rand.New(rand.NewPCG(seed, 0))
	p := randomPod(r)
	p.refusesEnds = rand.New(rand.NewPCG(seed, 1)).IntN(6) == 0 // a source of its own keeps the pods of older seeds
	return newSim(p), r
}

// randomPod returns a random pod, without refusesEnds.
func randomPod(r *rand.Rand) pod {
	one := func(n int) bool { return r.IntN(n) == 0 }
	p := pod{
		sentinels: 1, policy: OnFailure, attempts: 1 + r.IntN(4),
		events: one(2), locks: !one(3), coarse: one(5), stepped: one(3),
		kills: r.IntN(3), freezes: r.IntN(3), deleted: one(6), foreign: one(6),
		timed: true, maxAge: 1000, lostAfter: 4 * simTick,
	}
	if one(4) {
		p.sentinels = 2
	}
	if one(3) {
		p.policy = Never
	}
	if p.foreign && p.policy == Never {
		// Only --start-timeout notices a main that is killed before it has begun, and it takes a foreign
		// main for one that has not begun.
		p.kills = 0
	}
	for i := range 1 + r.IntN(4) {
		f := follower{mains: []int{r.IntN(p.sentinels)}, readOnly: one(5)}
		switch {
		case p.sentinels == 2 && one(2):
			f.mains = []int{0, 1}
		case i > 0 && one(4) && !p.shims[i-1].readOnly && p.policy == Never:
			f.mains = []int{p.sentinels + i - 1} // a chain
		}
		if f.keep = p.policy == OnFailure && one(4); !f.keep && one(3) {
			f.declared = p.policy
		}
		if one(3) {
			f.config.Drain = time.Duration(r.IntN(3)) * simTick
		}
		if one(2) {
			f.config.Hold = time.Duration(r.IntN(4)) * simTick
		}
		if p.policy == Never && !p.foreign {
			f.config.StartTimeout = 20 * simTick
		}
		p.shims = append(p.shims, f)
	}
	return p
}

// maxMoves bounds a random schedule. Every pod ends long before.
const maxMoves = 20_000

// playRandom plays a pod to its end.
func (s *sim) playRandom(r *rand.Rand) (made []podMove, err error) {
	w := s.newSituation()
	var moves []podMove
	for !s.over(&w) {
		if len(made) == maxMoves {
			return made, violated(podEnds, "after %d moves it has not", maxMoves)
		}
		moves = s.movesOf(&w, moves[:0])
		if len(moves) == 0 {
			return made, violated(podEnds, "nothing can happen any more")
		}
		m := moves[r.IntN(len(moves))]
		made = append(made, m)
		if err := s.do(&w, m); err != nil {
			return made, err
		}
	}
	return made, s.checkEnd(&w)
}
