package shim

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// maxReplays bounds a shrinking.
const maxReplays = 5000

// shrinking makes the schedule of a violation as short as it can.
type shrinking[S any, M anyMove] struct {
	system[S, M]
	deadEnd func(at *S) error
	want    invariant // that is violated
	best    []M
	replays int
}

// shrink returns a short schedule that violates the same invariant. Unless it reaches maxReplays, no single move can be
// removed from that, and nobody is interrupted in it without need. deadEnd is replay.deadEnd. A schedule that does not
// replay to a violation is returned as it is.
func shrink[S any, M anyMove](s system[S, M], schedule []M, deadEnd func(at *S) error) []M {
	k := &shrinking[S, M]{system: s, deadEnd: deadEnd, best: schedule}
	made, violated := k.replay(schedule)
	if violated == "" {
		return schedule
	}
	k.best, k.want = made, violated
	for again := true; again; {
		k.remove()
		again = k.join()
	}
	return k.best
}

func (k *shrinking[S, M]) replay(schedule []M) (made []M, violated invariant) {
	k.replays++
	r := newReplay(k.system)
	r.deadEnd = k.deadEnd
	violated = invariantOf(r.takeAll(schedule))
	return r.made, violated
}

// try replays a schedule, and reports whether it violates the same invariant and is better than the best one so far.
func (k *shrinking[S, M]) try(schedule []M) (better bool) {
	if k.replays == maxReplays {
		return false
	}
	made, violated := k.replay(schedule)
	if violated != k.want || len(made) > len(k.best) || len(made) == len(k.best) && turns(made) >= turns(k.best) {
		return false
	}
	k.best = made
	return true
}

// turns counts how often the one who moves changes.
func turns[M anyMove](schedule []M) (n int) {
	for i := 1; i < len(schedule); i++ {
		if schedule[i].madeBy() != schedule[i-1].madeBy() {
			n++
		}
	}
	return n
}

// remove removes moves: half of them at once, then a quarter, and so on, and in the end one by one. Moves that are not
// possible without the removed ones go, too.
func (k *shrinking[S, M]) remove() {
	for size := max(1, len(k.best)/2); ; size = max(1, size/2) {
		removed := false
		for from := 0; from < len(k.best); {
			if k.try(slices.Concat(k.best[:from], k.best[min(from+size, len(k.best)):])) {
				removed = true
			} else {
				from += size
			}
		}
		if size == 1 && !removed {
			return
		}
	}
}

// join brings moves together that the same one makes: those of one turn before or after those of another. It reports
// whether it has found a better schedule.
func (k *shrinking[S, M]) join() (joined bool) {
	for from := 0; from < len(k.best); {
		who, to := k.best[from].madeBy(), from+1
		for to < len(k.best) && k.best[to].madeBy() == who {
			to++
		}
		turn, before, after := k.best[from:to], k.best[:from], k.best[to:]
		is := func(m M) bool { return m.madeBy() == who }
		next := slices.IndexFunc(after, is)
		last := len(before) - 1
		for last >= 0 && !is(before[last]) {
			last--
		}
		switch {
		case last >= 0 && k.try(slices.Concat(before[:last+1], turn, before[last+1:], after)),
			next >= 0 && k.try(slices.Concat(before, after[:next], turn, after[next:])):
			joined = true
		default:
			from = to
		}
	}
	return joined
}

// TestShrink: a random schedule that leads to a violation is shrunk until no move can be left out. Then it shows the
// same violation.
func TestShrink(t *testing.T) {
	for _, c := range recorded {
		t.Run(string(c.defect), func(t *testing.T) {
			t.Parallel()
			p, _ := families[c.family].in(c.variant)
			p.defect = c.defect
			s := newSim(p)
			var made []podMove
			var err error
			for seed := uint64(0); invariantOf(err) != c.invariant; seed++ {
				if seed == 10_000 {
					t.Fatalf("no random schedule out of %d violates %q", seed, c.invariant)
				}
				made, err = s.playRandom(rand.New(rand.NewPCG(seed, 0)))
			}
			f := s.found(made, err, s.doesNotEnd)
			if invariantOf(f) != c.invariant {
				t.Errorf("the shrunk schedule violates something else than %q:\n%v", c.invariant, f)
			}
			checkText(t, s, f)
			checkShort(t, s, f, s.doesNotEnd)
			shortest, err := s.read(c.schedule)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d moves of %d are left; the shortest schedule has %d", len(f.schedule), f.before, len(shortest))
			if len(f.schedule) > len(shortest)*3/2 {
				t.Errorf("that is too long:\n%v", f)
			}
		})
	}
}

// checkShort checks that no move of a shrunk schedule can be left out.
func checkShort(t *testing.T, s *sim, f *finding, deadEnd func(at *situation) error) {
	t.Helper()
	if len(f.schedule) > f.before {
		t.Errorf("a schedule of %d moves has become longer:\n%v", f.before, f)
	}
	for i := range f.schedule {
		r := newReplay(s)
		r.deadEnd = deadEnd
		err := r.takeAll(slices.Delete(slices.Clone(f.schedule), i, i+1))
		if invariantOf(err) == invariantOf(f) {
			t.Errorf("move %d can be left out of:\n%v", i+1, f)
		}
	}
}
