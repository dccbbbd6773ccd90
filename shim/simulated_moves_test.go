package shim

import (
	"slices"
	"syscall"
	"time"

	"github.com/sentinel-shim/sentinel-shim/sentinel/exitcode"
)

// What can happen next in a simulated pod, and what comes of it.

// podMove is a move of the explorer.
type podMove struct {
	kind  podMoveKind
	actor uint8
	arg   uint8
}

type podMoveKind uint8

const (
	moveStart       podMoveKind = iota // the kubelet starts a container
	moveStep                           // a wrapper takes its next step
	moveWake                           // a shim's loop wakes
	moveExit                           // a wrapper exits
	moveCommand                        // main's command ends with code arg
	moveWait                           // the goroutine that waits for the lock of main arg continues
	moveStopped                        // a sidecar that is being stopped is gone
	moveTick                           // a second has passed
	moveKill                           // a wrapper is killed
	moveSidecarEnds                    // a sidecar ends by itself
	moveFreeze                         // SIGSTOP
	moveThaw                           // SIGCONT
	moveDelete                         // the pod is deleted: SIGTERM to all
	moveEnd                            // no main comes back: SIGTERM to the native sidecars
)

// injected is anyMove.injected.
func (m podMove) injected() bool {
	switch m.kind {
	case moveKill, moveSidecarEnds, moveFreeze, moveDelete:
		return true
	}
	return false
}

// madeBy is anyMove.madeBy. A tick, the deletion and the end belong to no actor.
func (m podMove) madeBy() int {
	if m.kind == moveTick || m.kind == moveDelete || m.kind == moveEnd {
		return -1
	}
	return int(m.actor)
}

// forced is system.forced: the next step of a program, if no other program can notice it or change its result.
func (s *sim) forced(w *situation) (m podMove, ok bool) {
	for i := range s.actors {
		a := &w.actors[i]
		if a.container != containerRunning || a.frozen {
			continue
		}
		if n := &s.nodes[a.node]; n.steps() && s.local(w, i, n.op) {
			return podMove{moveStep, uint8(i), 0}, true
		}
	}
	return podMove{}, false
}

// movesOf is system.movesOf.
func (s *sim) movesOf(w *situation, moves []podMove) []podMove {
	if m, ok := s.forced(w); ok {
		return append(moves, m)
	}
	var commands []int
	busy, starts, frozenForATick := false, false, false
	add := func(kind podMoveKind, actor, arg int) {
		moves = append(moves, podMove{kind, uint8(actor), uint8(arg)})
	}
	for i := range s.actors {
		a := &w.actors[i]
		if a.container != containerRunning {
			continue
		}
		if a.frozen {
			add(moveThaw, i, 0)
			frozenForATick = frozenForATick || a.frozenForATick
			continue
		}
		n := &s.nodes[a.node]
		switch {
		case n.steps():
			add(moveStep, i, 0)
			busy = busy || n.parent >= 0 || !n.proc.polls
		case n.proc.kind == exiting:
			add(moveExit, i, 0)
			busy = true
		case n.proc.kind == inCommand:
			commands = append(commands, i)
		case n.proc.kind == resting && s.wakes(w, i, n.proc):
			add(moveWake, i, 0)
			busy = true
		}
		for m := range a.waits {
			switch wait := a.waits[m]; {
			case wait.stage == blocked && w.volume.files[wait.file].writer == 0, wait.stage > blocked:
				add(moveWait, i, m)
				busy = true
			}
		}
		if a.side == sidecarStopping {
			add(moveStopped, i, 0)
		}
		if w.kills < uint8(s.kills) {
			// A foreign main that is killed leaves nothing behind.
			if i >= s.mains || !s.foreign && (s.policy == Never || int(a.starts) < s.attempts) {
				add(moveKill, i, 0)
			}
			if a.side == sidecarUp {
				add(moveSidecarEnds, i, 0)
			}
		}
		if w.freezes < uint8(s.freezes) {
			add(moveFreeze, i, 0)
		}
	}
	fewest := uint8(255) // starts of a container that is to be restarted
	for i := range s.actors {
		if s.returns(w, i) {
			fewest = min(fewest, w.actors[i].starts)
		}
	}
	allStarted := !slices.ContainsFunc(w.actors[:s.actors], func(a actor) bool {
		return a.container == containerWaiting
	})
	for i := range s.actors {
		switch a := &w.actors[i]; {
		case w.gone:
		case a.container == containerWaiting:
			if s.isNative(i) || !s.nativeWaits(w) {
				add(moveStart, i, 0)
				starts = true
			}
		case s.returns(w, i) && (!s.prompt || !busy && a.starts == fewest):
			add(moveStart, i, 0)
			starts = true
		}
	}
	for _, i := range commands {
		if s.prompt && (busy || starts) {
			break // main takes longer than the start of its sidecars
		}
		for _, code := range s.outcomes(w, i) {
			add(moveCommand, i, code)
		}
	}
	if s.deleted && !w.gone && allStarted {
		add(moveDelete, 0, 0)
	}
	if !w.gone && !w.ending && s.mainsAreDone(w) {
		add(moveEnd, 0, 0)
	}
	if !busy && allStarted && !frozenForATick && !s.over(w) {
		add(moveTick, 0, 0)
	}
	return moves
}

// outcomes returns the codes that main's command may end with.
func (s *sim) outcomes(w *situation, i int) []int {
	starts := int(w.actors[i].starts)
	switch {
	case w.gone:
		return []int{exitcode.OfSignal(syscall.SIGTERM)}
	case s.policy == OnFailure && starts >= s.attempts:
		return []int{exitcode.OK}
	}
	return []int{exitcode.OK, 2 + starts}
}

// wakes reports whether a shim's loop has an event to wake for.
func (s *sim) wakes(w *situation, i int, p *procedure) bool {
	a := &w.actors[i]
	if s.defect == noLockWait && !a.hint {
		return a.news
	}
	at := p.rules.wakeAt(p.state)
	return a.hint || a.due || a.news || a.term || s.timed && at > 0 && at <= time.Duration(a.age)*simTick
}

// returns reports whether the kubelet restarts a container that has ended.
func (s *sim) returns(w *situation, i int) bool {
	a := &w.actors[i]
	switch {
	case a.container != containerTerminated || w.gone:
		return false
	case s.isNative(i):
		return !w.ending
	}
	return s.policy == OnFailure && a.code != exitcode.OK
}

// isNative reports whether an actor is a native sidecar.
func (s *sim) isNative(i int) bool { return i >= s.mains && s.shim(i).native }

// nativeWaits reports whether a native sidecar is still to be started, which the kubelet does before all else.
func (s *sim) nativeWaits(w *situation) bool {
	for i := s.mains; i < s.actors; i++ {
		if s.isNative(i) && w.actors[i].container == containerWaiting {
			return true
		}
	}
	return false
}

// mainsAreDone reports whether there are native sidecars, and no other container runs or comes back.
func (s *sim) mainsAreDone(w *situation) bool {
	natives := 0
	for i := range s.actors {
		switch {
		case s.isNative(i):
			natives++
		case w.actors[i].container != containerTerminated || s.returns(w, i):
			return false
		}
	}
	return natives > 0
}

// over is system.over: no container runs, and none will be started.
func (s *sim) over(w *situation) bool {
	for i := range s.actors {
		a := &w.actors[i]
		if a.container == containerRunning || a.container == containerWaiting && !w.gone || s.returns(w, i) {
			return false
		}
	}
	return true
}

// do is system.do.
func (s *sim) do(w *situation, m podMove) error {
	i := int(m.actor)
	a := &w.actors[i]
	switch m.kind {
	case moveStart:
		*a = actor{container: containerRunning, starts: min(a.starts+1, uint8(s.attempts)+1), succeeded: a.succeeded}
		kind := beginning
		if i >= s.mains {
			kind = watching
		} else if s.foreign {
			kind = launching
		}
		a.node = s.start(&procedure{kind: kind, actor: i})
	case moveStep:
		n := s.nodes[a.node]
		r, err := s.take(w, i, n.op)
		s.goTo(w, i, s.advance(a.node, r))
		return err
	case moveWake:
		p := *s.nodes[a.node].proc
		p.kind, p.term = turning, a.term
		if a.due {
			p.elapsed = min(simTick, p.interval)
		}
		p.interval = simTick
		if s.timed {
			p.at = time.Duration(a.age) * simTick
		}
		a.hint, a.due, a.news, a.term = false, false, false, false
		s.goTo(w, i, s.start(&p))
	case moveExit:
		code := s.nodes[a.node].proc.code
		err := s.checkExit(w, i, code)
		s.die(w, i, code)
		return err
	case moveCommand:
		a.command, a.live = false, false
		a.succeeded = a.succeeded || m.arg == exitcode.OK
		p := *s.nodes[a.node].proc
		p.code = int(m.arg)
		s.performSentinel(&p)
		s.goTo(w, i, s.start(&p))
	case moveWait:
		wait := &a.waits[m.arg]
		f := &w.volume.files[wait.file]
		if s.whole { // has the lock, gives it back, says so
			f.open &^= 1 << i
			*wait, a.hint = lockWait{}, true
			break
		}
		switch wait.stage {
		case blocked:
			wait.stage = granted
			f.readers |= 1 << i
		case granted:
			wait.stage = closed
			f.readers &^= 1 << i
			f.open &^= 1 << i
		case closed:
			*wait = lockWait{}
			a.hint = true
		}
	case moveStopped:
		a.side, a.news = sidecarStopped, true
	case moveTick:
		if w.volume.coarse {
			for run := range w.volume.clocks {
				w.volume.clocks[run]++
			}
		}
		s.tick(w)
	case moveKill:
		w.kills++
		s.die(w, i, exitcode.Lost)
	case moveSidecarEnds:
		w.kills++
		a.side, a.news = sidecarDied, true
	case moveFreeze:
		w.freezes++
		a.frozen = true
	case moveThaw:
		a.frozen, a.frozenForATick = false, false
	case moveDelete:
		w.gone = true
		for k := s.mains; k < s.actors; k++ {
			w.actors[k].term = w.actors[k].container == containerRunning
		}
	case moveEnd:
		w.ending = true
		for k := s.mains; k < s.actors; k++ {
			w.actors[k].term = s.isNative(k) && w.actors[k].container == containerRunning
		}
	}
	return nil
}
