package shim

import "slices"

// A replay plays a schedule again. It needs only the moves that are not forced: the others follow from them.

// replay is a system that follows a schedule.
type replay[S any, M anyMove] struct {
	system[S, M]
	at       S
	made     []M   // the moves that were not forced
	violated error // a violation ends the replay
	// see, if it is set, is told of every move: the situation before and after it.
	see func(before, after *S, m M, forced bool)
	// deadEnd, if it is set, is asked for a violation at the end of the schedule.
	deadEnd func(at *S) error

	possible []M
}

func newReplay[S any, M anyMove](s system[S, M]) *replay[S, M] {
	return &replay[S, M]{system: s, at: s.newSituation()}
}

// take makes a move and then all moves that it forces. It reports false, and does nothing, if the move is not possible.
func (r *replay[S, M]) take(m M) (possible bool) {
	if r.finished() {
		return false
	}
	r.possible = r.movesOf(&r.at, r.possible[:0])
	if !slices.Contains(r.possible, m) {
		return false
	}
	r.made = append(r.made, m)
	for forced := false; ; forced = true {
		r.do(m, forced)
		if r.finished() {
			return true
		}
		var ok bool
		if m, ok = r.forced(&r.at); !ok {
			return true
		}
	}
}

func (r *replay[S, M]) do(m M, forced bool) {
	before := r.at
	if r.violated = r.system.do(&r.at, m); r.violated == nil && r.over(&r.at) {
		r.violated = r.checkEnd(&r.at)
	}
	if r.see != nil {
		r.see(&before, &r.at, m, forced)
	}
}

// finished reports whether the system has ended or an invariant was violated.
func (r *replay[S, M]) finished() bool { return r.violated != nil || r.over(&r.at) }

// takeAll makes all moves of a schedule that are possible, and returns the violation.
func (r *replay[S, M]) takeAll(schedule []M) error {
	for _, m := range schedule {
		r.take(m)
	}
	return r.end()
}

// end returns the violation after the last move of a schedule.
func (r *replay[S, M]) end() error {
	if r.finished() {
		return r.violated
	}
	if r.possible = r.movesOf(&r.at, r.possible[:0]); len(r.possible) == 0 {
		r.violated = violated(podEnds, "nothing can happen any more")
	} else if r.deadEnd != nil {
		r.violated = r.deadEnd(&r.at)
	}
	return r.violated
}

// unforced returns the moves of a schedule that are not forced.
func unforced[S any, M anyMove](s system[S, M], schedule []M) (moves []M) {
	at := s.newSituation()
	for _, m := range schedule {
		if _, forced := s.forced(&at); !forced {
			moves = append(moves, m)
		}
		_ = s.do(&at, m) // a violation is at the end
	}
	return moves
}
