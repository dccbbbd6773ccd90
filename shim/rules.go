package shim

import (
	"slices"
	"syscall"
	"time"

	"github.com/sentinel-shim/sentinel-shim/sentinel/exitcode"
	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
)

// rules hold what the decisions depend on and what never changes: the flags, and what the shim has found
// when it began. See next.
type rules struct {
	drain, hold, startTimeout time.Duration
	// keepOnFailure: only a success of the mains stops the sidecar.
	keepOnFailure bool
	// nativeSidecar: the kubelet sends SIGTERM when no container needs the sidecar any more.
	nativeSidecar bool
	// neverRestarts: a main that has failed does not come back.
	neverRestarts bool
	// staleAtStart: a failure found at the start belongs to an earlier attempt, and main comes back.
	staleAtStart bool
	// cannotAnnounce: this shim has no run on the volume, so no main can read that it is stopping.
	cannotAnnounce bool
}

// phase is the phase of the shim (diagram: design, 4.2).
type phase int

const (
	starting   phase = iota // nothing is launched; a main's state is still unsettled
	up                      // the sidecar runs
	holding                 // SIGTERM was received, but a main still needs the sidecar
	confirming              // "stopping" is on the volume; one more look decides
	draining                // the mains have ended; --drain is not over yet
	stopping                // the sidecar is being stopped
	finished                // nothing of the sidecar is left
)

func (p phase) String() string {
	return [...]string{"starting", "up", "holding", "confirming", "draining", "stopping", "finished"}[p]
}

// reason is why the shim stops.
type reason int

const (
	mainEnded     reason = iota // all mains have ended; also if SIDECAR was not started because of that
	terminated                  // SIGTERM, or the shim's own stop signal
	startTimedOut               // --start-timeout
	sidecarEnded                // the sidecar ended first
)

// state is everything that the shim knows. Its times count from the shim's start.
type state struct {
	phase phase
	mains []mainState
	// holdUntil is when the hold after a SIGTERM ends; 0 if none has begun. drainUntil is when the
	// drain ends, in phase draining.
	holdUntil, drainUntil time.Duration
	why                   reason
	exit                  exit
	// warned counts the warnings about mains that have not begun.
	warned int
}

// exit is the decision on the shim's exit code. If none is made, finish takes the mains' code if all of
// them have ended, and else the sidecar's.
type exit struct {
	decided bool
	code    int
	// mains are the mains that the code comes from; nil if it comes from no main. They are kept because
	// a main may begin again while the sidecar is being stopped.
	mains []mainState
}

// mainState is what is known about one main.
type mainState struct {
	lifetime.State
	// stale: this end belongs to an earlier attempt; main comes back.
	stale bool
	// begun: a run was seen running, or with an end that was not stale.
	begun bool
}

// event is what has woken the shim, and a fresh look at everything.
type event struct {
	at     time.Duration // since the shim's start
	mains  []lifetime.State
	term   bool // SIGTERM, or the shim's own stop signal, was received; never in phase confirming
	exited bool // the sidecar's process has ended
	status int  // the sidecar's exit code
	gone   bool // no process of the sidecar is left
}

// action is what the rules want done upon an event.
type action int

const (
	launch           action = iota // start the sidecar
	announceStopping               // write "stopping" to the volume
	retractStopping                // write "running" to the volume again
	stop                           // stop the sidecar and everything that it has started
	warnNotBegun                   // warn that a main has not begun
)

// warnAfter are the times since the shim's start at which it warns that a main has not begun. The
// first warning needs runs of other names on the volume: --main may then name the wrong one.
var warnAfter = []time.Duration{10 * time.Second, time.Minute, 10 * time.Minute, time.Hour}

// newState is the state before the first look.
func newState(mains int) state {
	s := state{mains: make([]mainState, mains)}
	for i := range s.mains {
		s.mains[i].Phase = lifetime.Unsettled
	}
	return s
}

// next returns the state after an event, and the actions to perform in order. It holds all rules of
// the shim (design, 4). It does no I/O, and does not change s.
func (r rules) next(s state, e event) (state, []action) {
	s.mains = slices.Clone(s.mains)
	for i, seen := range e.mains {
		s.mains[i] = r.follow(s.mains[i], seen)
	}
	if e.exited && s.phase != stopping {
		return r.afterSidecar(s, e)
	}
	switch s.phase {
	case starting:
		return r.start(s, e)
	case up:
		return r.whileUp(s, e)
	case holding:
		return r.whileHolding(s, e)
	case confirming:
		return r.confirm(s, e)
	case draining:
		switch {
		case !e.term && s.why == mainEnded && s.any(r.cannotSeeStopping):
			return s.resume()
		case e.term || e.at >= s.drainUntil:
			return s.stop()
		}
	case stopping:
		if e.gone {
			return r.finish(s, e), nil
		}
	}
	return s, nil
}

// follow returns the state of a main after a look.
func (r rules) follow(m mainState, seen lifetime.State) mainState {
	atStart := m.Phase == lifetime.Unsettled // m has not settled before
	switch seen.Phase {
	case lifetime.Unsettled:
		return m
	case lifetime.Ended:
		// With coarse file times and a reused inode number, a new end has the ID of the stale one.
		// Only a success is certainly new: it is never stale.
		if m.stale && m.ID == seen.ID && seen.Code != exitcode.OK {
			return m
		}
		m.stale = r.staleAtStart && seen.Code != exitcode.OK && (atStart || seen.FoundDead)
		m.begun = m.begun || !m.stale
	default:
		m.stale = false
		m.begun = m.begun || seen.Phase == lifetime.Running
	}
	m.State = seen
	return m
}

// start waits until the state of every main has settled. Then it launches the sidecar, or ends the shim
// without it (design, 4.1).
func (r rules) start(s state, e event) (state, []action) {
	switch {
	case e.term:
		s.why = terminated
		return r.finish(s, event{status: exitcode.OfSignal(syscall.SIGTERM)}), nil
	case s.any(func(m mainState) bool { return m.Phase == lifetime.Unsettled }):
		return s, nil
	case s.all(r.final) && !r.leftToKubelet(s):
		return r.finish(s, e), nil
	}
	s.phase = up
	return s, []action{launch}
}

// whileUp is the rule while the sidecar runs.
func (r rules) whileUp(s state, e event) (state, []action) {
	switch {
	case e.term: // first: SIGTERM does not wait for --drain
		return r.onTerm(s, e)
	case s.all(r.final) && !r.leftToKubelet(s):
		return s.exitWithMains().announceStop(mainEnded)
	case s.all(mainState.hasBegun):
		return s, nil
	case r.startTimeout > 0 && e.at >= r.startTimeout:
		return s.exitWith(exitcode.TimedOut).announceStop(startTimedOut)
	case s.warned < len(warnAfter) && e.at >= warnAfter[s.warned]:
		s.warned++
		return s, []action{warnNotBegun}
	}
	return s, nil
}

// onTerm is the rule for the first SIGTERM: a running main keeps the sidecar for --hold.
func (r rules) onTerm(s state, e event) (state, []action) {
	if r.hold <= 0 || !s.any(mainState.isAlive) {
		return s.announceStop(terminated)
	}
	s.phase, s.why, s.holdUntil = holding, terminated, e.at+r.hold
	return s, nil
}

// whileHolding is the rule while a main finishes its work after a SIGTERM.
func (r rules) whileHolding(s state, e event) (state, []action) {
	switch {
	case e.term || e.at >= s.holdUntil:
		next, actions := s.stop()
		return next, append([]action{announceStopping}, actions...)
	case !s.any(mainState.isAlive):
		return s.announceStop(terminated)
	}
	return s, nil
}

// confirm is the rule for the look after "stopping" was written to the volume. A main that begins after
// this look reads the word and waits; this look sees one that has begun before it (design, 4.3).
func (r rules) confirm(s state, e event) (state, []action) {
	switch s.why {
	case mainEnded:
		if s.any(mainState.isAlive) || r.leftToKubelet(s) {
			return s.resume()
		}
		if s.all(r.final) {
			s = s.exitWithMains() // this look may show another end, with another code
		}
		if r.drain > 0 {
			s.phase, s.drainUntil = draining, e.at+r.drain
			return s, nil
		}
	case startTimedOut:
		if s.all(mainState.hasBegun) {
			return s.resume()
		}
	case terminated:
		if s.any(mainState.isAlive) && r.hold > 0 {
			if s.holdUntil == 0 {
				s.holdUntil = e.at + r.hold
			}
			s.phase = holding
			return s, []action{retractStopping}
		}
		if s.holdUntil > 0 && r.drain > 0 && s.all(mainState.hasEnded) {
			s.phase, s.drainUntil = draining, min(e.at+r.drain, s.holdUntil)
			return s, nil
		}
	}
	return s.stop()
}

// afterSidecar is the rule for a sidecar that has ended without being stopped.
func (r rules) afterSidecar(s state, e event) (state, []action) {
	if !s.exit.decided && s.all(r.final) {
		s = s.exitWithMains()
		s.why = mainEnded
	}
	if !s.exit.decided && s.why != terminated {
		s = s.exitWith(e.status)
		s.why = sidecarEnded
	}
	if e.gone {
		return r.finish(s, e), nil
	}
	next, actions := s.stop() // stops the processes that the sidecar has left
	return next, append([]action{announceStopping}, actions...)
}

// finish ends the shim and decides the exit code if that is still open.
func (r rules) finish(s state, e event) state {
	s.phase = finished
	switch {
	case s.exit.decided:
		return s
	case s.all(mainState.hasEnded):
		return s.exitWithMains()
	}
	return s.exitWith(e.status)
}

// exitWith decides the shim's exit code.
func (s state) exitWith(code int) state {
	s.exit.decided, s.exit.code = true, code
	return s
}

// exitWithMains decides on the mains' exit code: the first that is not 0, else 0.
func (s state) exitWithMains() state {
	s.exit.mains = s.mains
	for _, m := range s.mains {
		if m.Code != exitcode.OK {
			return s.exitWith(m.Code)
		}
	}
	return s.exitWith(exitcode.OK)
}

// announceStop writes "stopping" to the volume before the sidecar is stopped; confirm follows.
func (s state) announceStop(why reason) (state, []action) {
	s.phase, s.why = confirming, why
	return s, []action{announceStopping}
}

// resume retracts an announced stop, and the decision on the exit code.
func (s state) resume() (state, []action) {
	s.phase, s.exit = up, exit{}
	return s, []action{retractStopping}
}

func (s state) stop() (state, []action) {
	s.phase = stopping
	return s, []action{stop}
}

// wakeAt returns when the rules must be asked again even if nothing happens, as the time since the
// shim's start; 0 is never.
func (r rules) wakeAt(s state) time.Duration {
	switch s.phase {
	case holding:
		return s.holdUntil
	case draining:
		return s.drainUntil
	case up:
		if s.all(mainState.hasBegun) {
			return 0
		}
		var at time.Duration
		if s.warned < len(warnAfter) {
			at = warnAfter[s.warned]
		}
		if r.startTimeout > 0 && (at == 0 || r.startTimeout < at) {
			at = r.startTimeout
		}
		return at
	}
	return 0
}

// final reports whether main has ended and needs the sidecar no more.
func (r rules) final(m mainState) bool {
	return m.hasEnded() && (m.Code == exitcode.OK || !r.keepOnFailure)
}

// leftToKubelet reports whether the kubelet stops the sidecar: a native one, when no main comes back. If it
// stopped by itself then, the kubelet would start it once more, before it knows of main's end (design, 6.9).
func (r rules) leftToKubelet(s state) bool {
	return r.nativeSidecar && s.all(func(m mainState) bool {
		return m.hasEnded() && (m.Code == exitcode.OK || r.neverRestarts)
	})
}

// hasEnded reports whether main has ended. A stale end does not count.
func (m mainState) hasEnded() bool { return m.Phase == lifetime.Ended && !m.stale }

// isRunning reports whether main is known to be running.
func (m mainState) isRunning() bool { return m.Phase == lifetime.Running }

// isAlive reports whether main is running, or unverified and so taken for running.
func (m mainState) isAlive() bool { return m.isRunning() || m.Phase == lifetime.Unverified }

// cannotSeeStopping reports whether main is alive and cannot see that this shim is stopping: locks are
// not shared (main is unverified), or this shim cannot announce the stop.
func (r rules) cannotSeeStopping(m mainState) bool {
	return m.Phase == lifetime.Unverified || r.cannotAnnounce && m.isRunning()
}

// hasBegun reports whether main has begun. A stale end does not count.
func (m mainState) hasBegun() bool { return m.begun || m.isAlive() }

func (s state) all(is func(mainState) bool) bool {
	return !slices.ContainsFunc(s.mains, func(m mainState) bool { return !is(m) })
}

func (s state) any(is func(mainState) bool) bool { return slices.ContainsFunc(s.mains, is) }
