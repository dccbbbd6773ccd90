//go:build !race

package shim

import (
	"encoding/binary"
	"flag"
	"fmt"
	"hash/maphash"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sentinel-shim/sentinel-shim/sentinel/exitcode"
)

// The invariants of a simulated pod, and the two ways through its schedules: exhaustive and random. The pod is
// in simulated_pod_test.go, its volume in simulated_volume_test.go.

// The invariants. Those that must hold at every step are in sim.take and sim.do.

// checkExit checks a wrapper that exits.
func (s *sim) checkExit(w *situation, i, code int) error {
	if code != exitcode.OK {
		return nil
	}
	mains := []int{i}
	if i >= s.mains {
		mains = s.shim(i).mains
	}
	for _, main := range mains {
		if !w.actors[main].succeeded {
			return violation(onlySuccess, "the %s exits with 0, but %s has not", s.nameOfActor(i), s.nameOfRun(main))
		}
	}
	return nil
}

// checkStop checks a shim that decides to stop its sidecar, or not to launch it.
func (s *sim) checkStop(w *situation, i int, why reason) error {
	if why != mainEnded {
		return nil
	}
	for m, main := range s.shim(i).mains {
		if s.sawLive(w, i, m) {
			return violation(notOlder, "the %s has looked while %s was running, all the time", s.nameOfActor(i), s.nameOfRun(main))
		}
	}
	return nil
}

// checkLaunch checks a sentinel that launches its command.
func (s *sim) checkLaunch(w *situation, main int) error {
	for i := s.mains; i < s.actors; i++ {
		a := &w.actors[i]
		if a.container == containerRunning && a.side == sidecarStopping && a.why == mainEnded && s.follows(i, main) && s.hasBarrier(i) {
			return violation(notOlder, "%s starts while the sidecar of the %s is being stopped", s.nameOfRun(main), s.nameOfActor(i))
		}
	}
	return nil
}

// checkEnd checks a pod that has ended.
func (s *sim) checkEnd(w *situation) error {
	if w.gone {
		return nil
	}
	for i := s.mains; i < s.actors; i++ {
		shim, main := &w.actors[i], &w.actors[s.shim(i).mains[0]]
		if s.policy == Never && len(s.shim(i).mains) == 1 && w.kills == 0 {
			if want := main.code; shim.code != want {
				return violation(allFail, "%s has ended with %d, the %s with %d", s.nameOfRun(s.shim(i).mains[0]), want, s.nameOfActor(i), shim.code)
			}
		}
		if s.policy == Never && !main.succeeded && shim.code == exitcode.OK {
			return violation(allFail, "the %s has ended with 0", s.nameOfActor(i))
		}
		switch {
		case s.policy != OnFailure || w.kills > 0:
		case s.shim(i).keep && shim.starts != 1:
			return violation(oneRestart, "the %s has started %d times", s.nameOfActor(i), shim.starts)
		case len(s.shim(i).mains) > 1: // a main that fails may come back while the other one runs on
		case !s.shim(i).keep && s.prompt && s.events && s.hasBarrier(i) && shim.starts != main.starts && w.kills == 0:
			return violation(tandem, "%s has started %d times, the %s %d times", s.nameOfRun(s.shim(i).mains[0]), main.starts, s.nameOfActor(i), shim.starts)
		}
	}
	return nil
}

// The invariants' names.
const (
	podEnds     = "the pod always ends"
	onlySuccess = "success is reported only if main exited 0"
	allFail     = "every container of a failed attempt ends non-zero"
	notOlder    = "a shim is never stopped by an end older than main's last start"
	notLost     = "a live run is never taken for lost"
	tandem      = "restart counts stay equal in tandem"
	oneRestart  = "keep-on-failure costs one restart per attempt"
)

// explorer visits all situations of a pod.
type explorer struct {
	*sim
	seed  maphash.Seed
	known map[uint64]int32
	from  []int32   // by situation: the one that it was first reached from
	by    []podMove // by situation: the move from there
	ended []bool
	edges []arc
	moves int64

	possible []podMove
	buffer   []byte
}

// arc is a move between two situations that need not be injected.
type arc struct{ from, to int32 }

// maxSituations bounds an exploration.
const maxSituations = 60_000_000

// explore visits all situations, those with the shortest schedules first. The error is a violation, with its
// schedule.
func (x *explorer) explore() error {
	x.seed, x.known = maphash.MakeSeed(), make(map[uint64]int32)
	start := x.newSituation()
	x.add(&start, -1, podMove{})
	at := int32(0)
	for now, later := []situation{start}, []situation(nil); len(now) > 0; now, later = later, now[:0] {
		for i := range now {
			var err error
			if later, err = x.leave(&now[i], at, later); err != nil {
				return err
			}
			at++
		}
	}
	return x.checkLiveness()
}

// leave makes every possible move from a situation, and appends the new situations to later.
func (x *explorer) leave(w *situation, at int32, later []situation) ([]situation, error) {
	if x.over(w) {
		x.ended[at] = true
		if err := x.checkEnd(w); err != nil {
			return later, x.withSchedule(at, err)
		}
		return later, nil
	}
	x.possible = x.movesOf(w, x.possible[:0])
	for _, m := range x.possible {
		x.moves++
		next := *w
		err := x.do(&next, m)
		to, fresh := x.add(&next, at, m)
		if err != nil {
			return later, x.withSchedule(to, err)
		}
		if fresh {
			later = append(later, next)
		}
		if !m.injected() && to != at {
			x.edges = append(x.edges, arc{at, to})
		}
	}
	if len(x.from) > maxSituations {
		return later, fmt.Errorf("more than %d situations", maxSituations)
	}
	return later, nil
}

// add returns the number of a situation, and whether the situation is new.
func (x *explorer) add(w *situation, from int32, by podMove) (number int32, fresh bool) {
	key := x.hash(w)
	if number, ok := x.known[key]; ok {
		return number, false
	}
	number = int32(len(x.from))
	x.known[key] = number
	x.from, x.by, x.ended = append(x.from, from), append(x.by, by), append(x.ended, false)
	return number, true
}

// hash returns a hash that identifies a situation. Among some million situations, the probability of a
// collision in 64 bits is below 1 in 100,000.
func (x *explorer) hash(w *situation) uint64 {
	b := x.buffer[:0]
	for name := range x.actors * filesOfRun {
		b = append(b, w.volume.names[name])
	}
	for i := range w.volume.files {
		if f := &w.volume.files[i]; f.names != 0 || f.open != 0 {
			b = append(b, uint8(i), f.content, f.written, f.beat, f.writer, f.readers, f.open)
		}
	}
	b = append(b, 255)
	b = append(b, w.volume.clocks[:x.actors]...)
	b = append(b, w.kills, w.freezes, bit(w.gone))
	for i := range x.actors {
		a := &w.actors[i]
		b = binary.LittleEndian.AppendUint32(b, uint32(a.node))
		b = append(b, a.container, a.code, a.starts, a.side, uint8(a.why), a.saw[0], a.saw[1],
			bit(a.frozen)|bit(a.frozenForATick)<<5|bit(a.command)<<1|bit(a.live)<<2|bit(a.succeeded)<<4,
			bit(a.watching)|bit(a.hint)<<1|bit(a.due)<<2|bit(a.news)<<3|bit(a.term)<<4,
			a.waits[0].stage, a.waits[0].file, a.waits[1].stage, a.waits[1].file, uint8(a.age), uint8(a.age>>8))
	}
	x.buffer = b
	return maphash.Bytes(x.seed, b)
}

func bit(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

// checkLiveness returns a violation if there is a situation from which no schedule without injected moves
// leads to the end.
func (x *explorer) checkLiveness() error {
	n := int32(len(x.from))
	first := make([]int32, n+1)
	for _, e := range x.edges {
		first[e.to+1]++
	}
	for i := range n {
		first[i+1] += first[i]
	}
	back := make([]int32, len(x.edges))
	fill := slices.Clone(first)
	for _, e := range x.edges {
		back[fill[e.to]] = e.from
		fill[e.to]++
	}
	ends := slices.Clone(x.ended)
	var queue []int32
	for i := range n {
		if ends[i] {
			queue = append(queue, i)
		}
	}
	for len(queue) > 0 {
		at := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		for _, from := range back[first[at]:first[at+1]] {
			if !ends[from] {
				ends[from] = true
				queue = append(queue, from)
			}
		}
	}
	if i := slices.Index(ends, false); i >= 0 {
		return x.withSchedule(int32(i), violation(podEnds, "from here on it does not"))
	}
	return nil
}

// withSchedule adds the schedule that led to a situation to a violation.
func (x *explorer) withSchedule(at int32, violated error) error {
	var schedule []podMove
	for ; x.from[at] >= 0; at = x.from[at] {
		schedule = append(schedule, x.by[at])
	}
	slices.Reverse(schedule)
	return describeSchedule(x.sim, schedule, violated)
}

// describeSchedule returns an error that lists the moves of a schedule and the violation at its end.
func describeSchedule(s *sim, schedule []podMove, violated error) error {
	var b strings.Builder
	w := s.newSituation()
	var numbers []string
	for _, m := range schedule {
		moves := s.movesOf(&w, nil)
		numbers = append(numbers, fmt.Sprint(slices.Index(moves, m)))
		fmt.Fprintf(&b, "  %s\n", s.describeMove(&w, m))
		_ = s.do(&w, m)
	}
	fmt.Fprint(&b, violated)
	if s.exhaustive {
		fmt.Fprintf(&b, "\nto replay it: the same test with -v -args -long -schedule %s", strings.Join(numbers, ","))
	}
	return fmt.Errorf("a schedule of %d moves:\n%s", len(schedule), b.String())
}

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

// longPods belong to families, but each takes as long as most others together: see -long.
var longPods = []string{
	"1 shim, 2 attempts, 1 kill, each step/no locks, events, writing",
	"1 shim, 2 attempts, 1 kill, each step/no locks, no events, writing",
	"2 mains, Never, 1 kill, each look/no locks, events, no writing",
	"2 mains, Never, 1 kill, each look/no locks, events, writing",
	"2 mains, Never, 1 kill, each look/no locks, no events, no writing",
	"2 mains, Never, 1 kill, each look/no locks, no events, writing",
}

// variants returns the pods of a family.
func variants(family pod) map[string]pod {
	pods := make(map[string]pod)
	for i := range 8 {
		p := family
		p.sentinels, p.lostAfter, p.maxAge = max(1, family.sentinels), 2*simTick, 1
		mains := []int{0, 1}[:p.sentinels]
		var name []string
		is := func(bit int, what string) bool {
			if i&bit == 0 {
				name = append(name, "no "+what)
			} else {
				name = append(name, what)
			}
			return i&bit != 0
		}
		p.locks, p.events = is(1, "locks"), is(2, "events")
		writable := is(4, "writing")
		if p.prompt && !(p.locks && p.events) {
			continue // restarts are in tandem if main waits, and its end is not missed
		}
		p.shims = slices.Clone(family.shims)
		if p.shims == nil {
			p.shims = make([]follower, 1)
		}
		for k := range p.shims {
			shim := &p.shims[k]
			shim.mains, shim.readOnly = mains, !writable
			if p.policy == Never {
				// Only this ends a pod whose main was killed before it had begun and does not come back.
				p.timed, shim.config.StartTimeout = true, simTick
			}
		}
		pods[strings.Join(name, ", ")] = p
	}
	return pods
}

func TestEverySchedule(t *testing.T) {
	var situations, moves atomic.Int64
	t.Cleanup(func() { t.Logf("%d situations, %d moves between them", situations.Load(), moves.Load()) })
	pods := maps.Clone(families)
	if *longFlag {
		maps.Copy(pods, longFamilies)
	}
	for _, name := range longPods {
		family, variant, _ := strings.Cut(name, "/")
		if _, ok := variants(families[family])[variant]; !ok {
			t.Errorf("longPods: there is no pod %q", name)
		}
	}
	for _, family := range slices.Sorted(maps.Keys(pods)) {
		for variant, p := range variants(pods[family]) {
			name := family + "/" + variant
			if !*longFlag && slices.Contains(longPods, name) {
				continue
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				x := &explorer{sim: newSim(p)}
				x.exhaustive = true
				if *scheduleFlag != "" {
					t.Log(x.replay(t, *scheduleFlag))
					return
				}
				if err := x.explore(); err != nil {
					t.Fatal(err)
				}
				situations.Add(int64(len(x.from)))
				moves.Add(x.moves)
				t.Logf("%d situations, %d moves between them", len(x.from), x.moves)
			})
		}
	}
}

// replay plays a schedule that was printed with a violation.
func (x *explorer) replay(t *testing.T, schedule string) error {
	t.Helper()
	var made []podMove
	w := x.newSituation()
	var violated error
	for _, number := range strings.Split(schedule, ",") {
		n, err := strconv.Atoi(number)
		moves := x.movesOf(&w, nil)
		if err != nil || n < 0 || n >= len(moves) {
			t.Fatalf("-schedule: %q is none of the %d moves that are possible after %d", number, len(moves), len(made))
		}
		made = append(made, moves[n])
		violated = x.do(&w, moves[n])
	}
	return describeSchedule(x.sim, made, violated)
}

// TestKeysAreWhole: every field is part of the key. Without it, two different situations would count as one.
func TestKeysAreWhole(t *testing.T) {
	for whole, key := range map[reflect.Type]reflect.Type{
		reflect.TypeFor[procedure](): reflect.TypeFor[procedureKey](),
		reflect.TypeFor[state]():     reflect.TypeFor[stateKey](),
		reflect.TypeFor[exit]():      reflect.TypeFor[exitKey](),
	} {
		for i := range whole.NumField() {
			if name := whole.Field(i).Name; name != "run" {
				if _, ok := key.FieldByName(name); !ok {
					t.Errorf("%s has no field %s, as %s has", key, name, whole)
				}
			}
		}
	}
}

// TestDefectsAreFound: the simulation finds each of these plausible mistakes.
func TestDefectsAreFound(t *testing.T) {
	for defect, c := range map[defect]struct {
		family, variant string
		invariant       string
	}{
		noBarrier:    {"1 shim, 2 attempts, 1 kill, each step", "locks, events, writing", notOlder},
		noConfirming: {"1 shim, 2 attempts, 1 kill, each step", "locks, events, writing", notOlder},
		endsStay:     {"1 shim, 2 attempts, 1 kill, each step", "locks, no events, writing", notOlder},
		alwaysStale:  {"1 shim, Never, 1 kill, each step", "locks, events, writing", allFail},
		neverStale:   {"1 shim, 3 attempts in tandem, each step", "locks, events, writing", tandem},
		noHeartbeat:  {"1 shim, Never, 1 kill, each step", "no locks, events, writing", notLost},
		noLockWait:   {"1 shim, Never, 1 kill, each step", "locks, events, no writing", podEnds},
		zeroIfKilled: {"1 shim, Never, 1 kill, each step", "locks, events, writing", onlySuccess},
	} {
		t.Run(string(defect), func(t *testing.T) {
			t.Parallel()
			p := variants(families[c.family])[c.variant]
			p.defect = defect
			x := &explorer{sim: newSim(p)}
			x.exhaustive = true
			err := x.explore()
			if err == nil {
				t.Fatalf("%d situations, and it was not found", len(x.from))
			}
			if !strings.Contains(err.Error(), c.invariant) {
				t.Fatalf("found as something else than %q:\n%v", c.invariant, err)
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
		made, violated := s.playRandom(r)
		t.Logf("%+v\n%v", s.pod, describeSchedule(s, made, violated))
		return
	}
	var moves atomic.Int64
	const batches = 8
	for batch := range batches {
		t.Run(fmt.Sprint(batch), func(t *testing.T) {
			t.Parallel()
			for seed := 1 + batch; seed <= *schedulesFlag; seed += batches {
				n, err := playSeed(uint64(seed))
				if err != nil {
					t.Fatalf("%v\nto replay it: go test ./shim -v -run TestRandomSchedules -args -seed %d", err, seed)
				}
				moves.Add(int64(n))
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

// playSeed plays the schedule of a seed.
func playSeed(seed uint64) (moves int, violated error) {
	s, r := randomSim(seed)
	made, violated := s.playRandom(r)
	if violated != nil {
		violated = fmt.Errorf("%+v\n%w", s.pod, describeSchedule(s, made, violated))
	}
	return len(made), violated
}

// playRandom plays a pod to its end.
func (s *sim) playRandom(r *rand.Rand) (made []podMove, violated error) {
	w := s.newSituation()
	var moves []podMove
	for !s.over(&w) {
		if len(made) == maxMoves {
			return made, violation(podEnds, "after %d moves it has not", maxMoves)
		}
		moves = s.movesOf(&w, moves[:0])
		if len(moves) == 0 {
			return made, violation(podEnds, "nothing can happen any more")
		}
		m := moves[r.IntN(len(moves))]
		made = append(made, m)
		if err := s.do(&w, m); err != nil {
			return made, err
		}
	}
	return made, s.checkEnd(&w)
}
