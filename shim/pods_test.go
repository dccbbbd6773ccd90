package shim

import (
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// The pods whose schedules are explored or played.

// families are the pods whose schedules are explored exhaustively: each with and without events, shared locks,
// and a volume that the sidecars may write to.
//
// A kill may hit any process at any instant. "Each step" covers all interleavings of all steps; "each look"
// those in which a shim begins, looks and ends in one step. In "tandem", the kubelet restarts together the
// containers that have ended together.
var families = map[string]pod{
	"1 shim, Never, 1 kill, each step":        {policy: Never, attempts: 1, kills: 1},
	"1 shim, 2 attempts, 1 kill, each step":   {policy: OnFailure, attempts: 2, kills: 1},
	"1 shim, 3 attempts, 1 kill, each look":   {policy: OnFailure, attempts: 3, kills: 1, whole: true},
	"1 shim, 3 attempts in tandem, each step": {policy: OnFailure, attempts: 3, prompt: true},
	"1 shim kept, 2 attempts, each step":      {policy: OnFailure, attempts: 2, shims: keptShim},
	"1 shim kept, 3 attempts, 1 kill, each look": {
		policy: OnFailure, attempts: 3, kills: 1, whole: true, shims: keptShim,
	},
	"native: 1 shim, Never, 1 kill, each step": {
		policy: Never, attempts: 1, kills: 1, shims: nativeShimNever,
	},
	"native: 1 shim, 2 attempts, 1 kill, each look": {
		policy: OnFailure, attempts: 2, kills: 1, whole: true, shims: nativeShim,
	},
	"native: 1 shim, 3 attempts in tandem, each step": {
		policy: OnFailure, attempts: 3, prompt: true, shims: nativeShim,
	},
	"native: 2 shims, 2 attempts in tandem, each look": {
		policy: OnFailure, attempts: 2, prompt: true, whole: true, shims: []follower{{native: true}, {native: true}},
	},

	"2 shims, Never, 1 kill, each look": {
		policy: Never, attempts: 1, kills: 1, whole: true, shims: twoShims,
	},
	"2 shims, 3 attempts in tandem, each look": {
		policy: OnFailure, attempts: 3, prompt: true, whole: true, shims: twoShims,
	},

	"2 mains, Never, 1 kill, each look": {
		sentinels: 2, policy: Never, attempts: 1, kills: 1, whole: true,
	},
	"2 mains, 2 attempts in tandem, each look": {
		sentinels: 2, policy: OnFailure, attempts: 2, prompt: true, whole: true,
	},

	"ends in place: 1 shim, Never, 1 kill, each step": {
		policy: Never, attempts: 1, kills: 1, refusesEnds: true,
	},
	"ends in place: 1 shim, 3 attempts in tandem, each step": {
		policy: OnFailure, attempts: 3, prompt: true, refusesEnds: true,
	},
	"ends in place: 1 shim kept, 2 attempts, each step": {
		policy: OnFailure, attempts: 2, refusesEnds: true, shims: keptShim,
	},
}

var (
	keptShim = []follower{{keep: true}}
	twoShims = make([]follower, 2)

	nativeShim      = []follower{{native: true}}
	nativeShimNever = []follower{{native: true, declared: Never}}
)

// longFamilies take minutes: see -long.
var longFamilies = map[string]pod{
	"1 shim, 3 attempts, each step":  {policy: OnFailure, attempts: 3},
	"2 shims, 2 attempts, each look": {policy: OnFailure, attempts: 2, whole: true, shims: twoShims},
}

// variant is how the containers of a pod share their volume.
type variant struct{ locks, events, writing bool }

var (
	allShared = variant{locks: true, events: true, writing: true}
	noEvents  = variant{locks: true, writing: true}
	noLocks   = variant{events: true, writing: true}
	readOnly  = variant{locks: true, events: true}
)

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
	p.exhaustive, p.locks, p.events = true, v.locks, v.events
	p.shims = slices.Clone(p.shims)
	if p.shims == nil {
		p.shims = make([]follower, 1)
	}
	for k := range p.shims {
		shim := &p.shims[k]
		shim.mains, shim.readOnly = []int{0, 1}[:p.sentinels], !v.writing
		if p.policy == Never {
			// Only this ends a pod whose main was killed before it had begun and does not come back.
			p.timed, shim.startTimeout = true, simTick
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
	{"1 shim, 2 attempts, 1 kill, each step", variant{locks: false, events: true, writing: false}},
	{"1 shim, 2 attempts, 1 kill, each step", variant{locks: false, events: false, writing: false}},
	{"1 shim, 3 attempts, 1 kill, each look", variant{locks: false, events: true, writing: true}},
	{"1 shim, 3 attempts, 1 kill, each look", variant{locks: false, events: false, writing: true}},
	{"2 mains, Never, 1 kill, each look", variant{locks: false, events: true, writing: false}},
	{"2 mains, Never, 1 kill, each look", variant{locks: false, events: true, writing: true}},
	{"2 mains, Never, 1 kill, each look", variant{locks: false, events: false, writing: false}},
	{"2 mains, Never, 1 kill, each look", variant{locks: false, events: false, writing: true}},
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
			f.drain = time.Duration(r.IntN(3)) * simTick
		}
		if one(2) {
			f.hold = time.Duration(r.IntN(4)) * simTick
		}
		if p.policy == Never && !p.foreign {
			f.startTimeout = 20 * simTick
		}
		p.shims = append(p.shims, f)
	}
	return p
}

// maxMoves bounds a random schedule. Every pod ends long before.
const maxMoves = 20_000

// pauseWeight is how many times less likely than any other move it is that a program's pause between two polls ends: a
// real pause is some hundred times as long as a poll. With equal weights, two programs that poll hardly ever pause at
// the same time. But only then does a simulated second pass, and a sidecar may need several to stop.
const pauseWeight = 50

// endsPause reports whether a move is the first step after a pause between two polls.
func (s *sim) endsPause(w *situation, m podMove) bool {
	if m.kind != moveStep {
		return false
	}
	n := &s.nodes[w.actors[m.actor].node]
	return n.parent < 0 && n.proc.polls
}

// playRandom plays a pod to its end.
func (s *sim) playRandom(r *rand.Rand) (made []podMove, err error) {
	w := s.newSituation()
	return s.playOn(&w, r, true)
}

// playOn plays a pod from a situation to its end, with or without injected moves.
func (s *sim) playOn(w *situation, r *rand.Rand, inject bool) (made []podMove, err error) {
	var moves []podMove
	for !s.over(w) {
		if len(made) == maxMoves {
			return made, violated(podEnds, "after %d moves it has not", maxMoves)
		}
		if moves = s.movesOf(w, moves[:0]); !inject {
			moves = slices.DeleteFunc(moves, podMove.injected)
		}
		if len(moves) == 0 {
			return made, violated(podEnds, "nothing can happen any more")
		}
		m := moves[r.IntN(len(moves))]
		for s.endsPause(w, m) && len(moves) > 1 && r.IntN(pauseWeight) != 0 {
			m = moves[r.IntN(len(moves))]
		}
		made = append(made, m)
		if err := s.do(w, m); err != nil {
			return made, err
		}
	}
	return made, s.checkEnd(w)
}

// doesNotEnd returns a violation if a pod that has come to a situation does not end. It plays on at random, but
// without injected moves.
func (s *sim) doesNotEnd(at *situation) error {
	w := *at
	if _, err := s.playOn(&w, rand.New(rand.NewPCG(0, 0)), false); invariantOf(err) == podEnds {
		return err
	}
	return nil
}
