package shim

import (
	"slices"
	"testing"
)

// toy is a system so small that everything about it is known: two counters that go up to 3, and a fault.
type toy struct {
	broken       func(at toySituation) bool // an invariant that does not hold there
	brokenAtEnd  bool
	faultIsATrap bool // instead of a start from 0
}

type toySituation struct {
	a, b    uint8
	trapped bool
}

type toyMove byte // 'a' and 'b' count up, 'x' is the fault

const (
	toyHolds invariant = "the toy is not broken"
	toyEnds  invariant = "the toy ends well"
)

func (m toyMove) injected() bool { return m == 'x' }
func (m toyMove) madeBy() int    { return int(m) }

func (toy) newSituation() (at toySituation)           { return at }
func (toy) forced(*toySituation) (m toyMove, ok bool) { return m, false }
func (toy) over(at *toySituation) bool                { return at.a == 3 && at.b == 3 }
func (toy) appendKey(key []byte, at *toySituation) []byte {
	return append(key, at.a, at.b, bit(at.trapped))
}

func (toy) movesOf(at *toySituation, moves []toyMove) []toyMove {
	if at.trapped {
		return moves
	}
	if at.a < 3 {
		moves = append(moves, 'a')
	}
	if at.b < 3 {
		moves = append(moves, 'b')
	}
	return append(moves, 'x')
}

func (s toy) do(at *toySituation, m toyMove) error {
	switch m {
	case 'a':
		at.a++
	case 'b':
		at.b++
	case 'x':
		*at = toySituation{trapped: s.faultIsATrap}
	}
	if s.broken != nil && s.broken(*at) {
		return violated(toyHolds, "at %+v", *at)
	}
	return nil
}

func (s toy) checkEnd(*toySituation) error {
	if s.brokenAtEnd {
		return violated(toyEnds, "it does not")
	}
	return nil
}

// TestExplorer: the explorer visits every situation once, makes every move once, and finds the shortest schedule to a
// violation. From a longer one, shrink makes that schedule, too.
func TestExplorer(t *testing.T) {
	x := newExplorer(toy{})
	if schedule, err := x.explore(); err != nil || len(x.from) != 4*4 || x.moves != 2*3*4+(4*4-1) {
		t.Errorf("%d situations, %d moves, %q to error %v, want 16 situations, 39 moves, no error",
			len(x.from), x.moves, schedule, err)
	}
	for name, c := range map[string]struct {
		toy
		invariant
		moves  map[toyMove]int // of the shortest schedule
		longer string
	}{
		"at a move": {
			toy{broken: func(at toySituation) bool { return at.a == 2 && at.b == 1 }}, toyHolds,
			map[toyMove]int{'a': 2, 'b': 1}, "bbbxabbxbaa",
		},
		"at the end":     {toy{brokenAtEnd: true}, toyEnds, map[toyMove]int{'a': 3, 'b': 3}, "aaabbxababab"},
		"without an end": {toy{faultIsATrap: true}, podEnds, map[toyMove]int{'x': 1}, "aabbx"},
	} {
		t.Run(name, func(t *testing.T) {
			x := newExplorer(c.toy)
			schedule, err := x.explore()
			if invariantOf(err) != c.invariant || !c.has(schedule, c.moves) {
				t.Errorf("found %q to %v, want %v to a violation of %q", schedule, err, c.moves, c.invariant)
			}
			if shrunk := shrink(c.toy, []toyMove(c.longer), x.cannotEnd); !c.has(shrunk, c.moves) {
				t.Errorf("%q is shrunk to %q, want %v", c.longer, shrunk, c.moves)
			}
		})
	}
}

// has reports whether a schedule consists of these moves, in any order.
func (toy) has(schedule []toyMove, moves map[toyMove]int) bool {
	for _, m := range []toyMove("abx") {
		if n := len(slices.DeleteFunc(slices.Clone(schedule), func(o toyMove) bool { return o != m })); n != moves[m] {
			return false
		}
	}
	return true
}
