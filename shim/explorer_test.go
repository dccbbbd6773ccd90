package shim

import (
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
)

// The explorer: a search through everything that can happen to a small system. It knows nothing of pods; the
// system that it explores here is the simulated pod (simulated_pod_test.go).
//
// A situation is the whole state of the system: everything on which depends what can happen next. Of a pod, that
// is the volume with its locks, the point that each program has reached with all that it knows there, what is
// about to wake it, and how many faults there have been. Situations with the same key are the same situation.
//
// A move is one thing that can happen next, all at once: a program makes one call, the kubelet starts a container,
// a second passes, a process is killed. A schedule is a list of moves, from the first situation on.
//
// The search is exhaustive. It makes every possible move in every situation that it reaches, so it covers every
// order in which the moves of the programs can be interleaved. In particular:
//   - Every move is checked when it is made, and every situation in which the system has ended. The first violation
//     has a schedule with as few moves as possible, because the search is breadth first.
//   - Every situation is checked for a way to the end that needs no injected move (a fault, such as a kill). A
//     system that waits for ever, or goes round in circles for ever, has none.
//
// The search assumes:
//   - The system bounds what could go on for ever: the number of starts, of faults, of seconds that it counts.
//   - A forced move makes no difference to any other move that is possible at the same time, and no other move
//     makes a difference to it. So the search makes it first, and no other (a partial order reduction).
//   - A key holds everything on which the future depends. TestKeysAreWhole checks this for the pod.
//   - No two of all keys have the same hash. With 64 bits, the probability is below 1 in 10,000 for 60 million.
//   - A way to the end is taken at some time: no schedule avoids it for ever.

// system is what can be explored. S is its situation, a value: a copy is independent.
type system[S any, M anyMove] interface {
	newSituation() S
	// forced returns the move that has to be made before all others, if there is one. The first situation has none.
	forced(at *S) (m M, ok bool)
	// movesOf appends the moves that may happen next. If one is forced, it is the only one.
	movesOf(at *S, moves []M) []M
	// do makes a move. The error is the violation of an invariant.
	do(at *S, m M) error
	// over reports whether the system has ended.
	over(at *S) bool
	// checkEnd checks the invariants of a system that has ended.
	checkEnd(at *S) error
	// appendKey appends the key of a situation.
	appendKey(key []byte, at *S) []byte
}

// anyMove is a move of any system.
type anyMove interface {
	comparable
	// injected reports whether the move may never happen.
	injected() bool
	// madeBy returns the number of the actor that the move belongs to, or -1.
	madeBy() int
}

// invariant is what must hold in all schedules.
type invariant string

// podEnds is the invariant that the explorer itself checks.
const podEnds invariant = "the pod always ends"

// violation is the error that an invariant does not hold.
type violation struct {
	invariant invariant
	detail    string
}

func violated(i invariant, format string, args ...any) error {
	return &violation{i, fmt.Sprintf(format, args...)}
}

func (v *violation) Error() string { return fmt.Sprintf("%q does not hold: %s", v.invariant, v.detail) }

// invariantOf returns the invariant that an error is a violation of, or "".
func invariantOf(err error) invariant {
	if v := (*violation)(nil); errors.As(err, &v) {
		return v.invariant
	}
	return ""
}

// explorer visits all situations of a system. They are numbered in the order in which they are found.
type explorer[S any, M anyMove] struct {
	system[S, M]
	seed    maphash.Seed
	numbers map[uint64]int32 // by the hash of the key
	from    []int32          // by number: the situation that it was first reached from
	by      []M              // by number: the move from there
	ended   []bool           // by number: the system has ended; after checkLiveness: it can end
	arcs    []arc
	moves   int64
	all     bool // all situations have been visited

	possible []M    // reused by leave
	next     S      // reused by leave
	key      []byte // reused by number
}

// arc is a move between two situations that is not injected.
type arc struct{ from, to int32 }

// maxSituations bounds an exploration.
const maxSituations = 60_000_000

func newExplorer[S any, M anyMove](s system[S, M]) *explorer[S, M] {
	return &explorer[S, M]{system: s, seed: maphash.MakeSeed(), numbers: make(map[uint64]int32)}
}

// explore visits all situations, those with the shortest schedules first. If an invariant is violated, it returns
// the violation and a schedule that leads to it, forced moves included.
func (x *explorer[S, M]) explore() (schedule []M, err error) {
	start := x.newSituation()
	x.add(&start, -1, *new(M))
	at := int32(0)
	for now, later := []S{start}, []S(nil); len(now) > 0; now, later = later, now[:0] {
		for i := range now {
			if later, schedule, err = x.leave(&now[i], at, later); err != nil {
				return schedule, err
			}
			at++
		}
	}
	return x.checkLiveness()
}

// leave makes every possible move from a situation, and appends the new situations to later.
func (x *explorer[S, M]) leave(w *S, at int32, later []S) (_ []S, schedule []M, err error) {
	if x.over(w) {
		x.ended[at] = true
		if err := x.checkEnd(w); err != nil {
			return later, x.scheduleTo(at), err
		}
		return later, nil, nil
	}
	x.possible = x.movesOf(w, x.possible[:0])
	for _, m := range x.possible {
		x.moves++
		x.next = *w
		if err := x.do(&x.next, m); err != nil {
			return later, append(x.scheduleTo(at), m), err
		}
		to, isNew := x.add(&x.next, at, m)
		if isNew {
			later = append(later, x.next)
		}
		if !m.injected() && to != at {
			x.arcs = append(x.arcs, arc{at, to})
		}
	}
	if len(x.from) > maxSituations {
		return later, nil, fmt.Errorf("there are more than %d situations", maxSituations)
	}
	return later, nil, nil
}

// add numbers a situation, and reports whether it is new.
func (x *explorer[S, M]) add(w *S, from int32, by M) (number int32, isNew bool) {
	hash := x.hash(w)
	if number, ok := x.numbers[hash]; ok {
		return number, false
	}
	number = int32(len(x.from))
	x.numbers[hash] = number
	x.from, x.by, x.ended = append(x.from, from), append(x.by, by), append(x.ended, false)
	return number, true
}

func (x *explorer[S, M]) hash(w *S) uint64 {
	x.key = x.appendKey(x.key[:0], w)
	return maphash.Bytes(x.seed, x.key)
}

// checkLiveness returns a violation if there is a situation from which no schedule without injected moves leads to
// the end.
func (x *explorer[S, M]) checkLiveness() (schedule []M, err error) {
	x.all = true
	n := int32(len(x.from))
	first := make([]int32, n+1) // by number: where the arcs to it start in back
	for _, e := range x.arcs {
		first[e.to+1]++
	}
	for i := range n {
		first[i+1] += first[i]
	}
	back := make([]int32, len(x.arcs)) // by arc, sorted by where it leads to: where it starts
	fill := slices.Clone(first)
	for _, e := range x.arcs {
		back[fill[e.to]] = e.from
		fill[e.to]++
	}
	var queue []int32
	for i := range n {
		if x.ended[i] {
			queue = append(queue, i)
		}
	}
	for len(queue) > 0 {
		at := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		for _, from := range back[first[at]:first[at+1]] {
			if !x.ended[from] {
				x.ended[from] = true
				queue = append(queue, from)
			}
		}
	}
	if i := slices.Index(x.ended, false); i >= 0 {
		return x.scheduleTo(int32(i)), errCannotEnd
	}
	return nil, nil
}

var errCannotEnd = violated(podEnds, "from here on, nothing that can happen leads to the end")

// cannotEnd returns a violation if the exploration has found no way from a situation to the end. If a violation
// stopped the exploration before, it returns nil.
func (x *explorer[S, M]) cannotEnd(w *S) error {
	if !x.all {
		return nil
	}
	if number, ok := x.numbers[x.hash(w)]; ok && !x.ended[number] {
		return errCannotEnd
	}
	return nil
}

// startingAt is a system with another first situation.
type startingAt[S any, M anyMove] struct {
	system[S, M]
	first S
}

func (s startingAt[S, M]) newSituation() S { return s.first }

// exploreFrom returns a violation if there is no way from a situation to the end. It explores all that can happen
// from there on.
func exploreFrom[S any, M anyMove](s system[S, M], at *S) error {
	x := newExplorer[S, M](startingAt[S, M]{s, *at})
	if _, err := x.explore(); invariantOf(err) != podEnds {
		return nil // the end can be reached, or something else is wrong later on
	}
	return x.cannotEnd(at)
}

// scheduleTo returns the schedule by which a situation was first reached.
func (x *explorer[S, M]) scheduleTo(at int32) (schedule []M) {
	for ; x.from[at] >= 0; at = x.from[at] {
		schedule = append(schedule, x.by[at])
	}
	slices.Reverse(schedule)
	return schedule
}
