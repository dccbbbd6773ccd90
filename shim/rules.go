package shim

import (
	"slices"
	"syscall"
	"time"

	"github.com/sentinel-shim/sentinel-shim/sentinel/exitcode"
	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
)

// rules are what the command line says about when to stop. Together with a state
// and an event they decide everything: see next.
type rules struct {
	drain, hold, startTimeout time.Duration
	// keepOnFailure: only a success of the mains stops the sidecar.
	keepOnFailure bool
	// staleAtStart: a failure that is found at the start is of an earlier
	// attempt, and main will come back.
	staleAtStart bool
	// unheard: what we say on the volume is not said, for it cannot be written to.
	unheard bool
}

// phase is where the shim stands.
type phase int

const (
	starting   phase = iota // nothing is launched; what the mains do is not settled yet
	up                      // the sidecar runs
	holding                 // SIGTERM has come, but a main still works through the sidecar
	confirming              // "stopping" is on the volume; one more look decides
	draining                // the mains have ended, --drain is not over yet
	stopping                // the sidecar is being stopped
	finished                // nothing of the sidecar is left
)

func (p phase) String() string {
	return [...]string{"starting", "up", "holding", "confirming", "draining", "stopping", "finished"}[p]
}

// reason is why a sidecar is stopped.
type reason int

const (
	mainEnded reason = iota // also if the sidecar is not started for that
	terminated
	startTimedOut
	sidecarEnded
)

// state is all that the shim knows.
type state struct {
	phase phase
	mains []mainState
	// deadline is when holding and draining end by themselves.
	deadline time.Duration
	// held: the hold after a SIGTERM has begun, and deadline is its end.
	held bool
	why  reason
	// code is the exit code once decided; else it is the mains' if they are
	// known to have ended by then, or the sidecar's own.
	decided bool
	code    int
	// ends are the mains' ends that code was made of, if it was: a main may
	// begin again while the sidecar is being stopped.
	ends []mainState
	// warned counts the warnings about mains that do not begin.
	warned int
}

// mainState is what is known of one main.
type mainState struct {
	lifetime.State
	// stale: this end is of a run before this shim's time; main comes back.
	stale bool
	// begun: a run of this shim's time was seen for certain.
	begun bool
}

// event is what the shim has been woken by, and what it has seen then. At every
// event all is looked at afresh.
type event struct {
	at     time.Duration // since the shim's start
	mains  []lifetime.State
	term   bool // SIGTERM, or the sidecar's own stop signal, has come; never at a confirming look
	exited bool // the sidecar's process has ended
	status int  // its exit code, if exited
	gone   bool // no process of the sidecar is left
}

// action is what is to be done upon an event.
type action int

const (
	launch       action = iota // start the sidecar
	sayStopping                // write the word on the volume, then look once more
	sayRunning                 // take the word back
	stop                       // stop the sidecar and all of its processes
	warnNotBegun               // a main has not begun for long
)

// warnAfter are the times at which a main that has not begun is worth a warning; the first
// only if runs of other names are on the volume, for then --main may name the wrong one.
var warnAfter = []time.Duration{10 * time.Second, time.Minute, 10 * time.Minute, time.Hour}

// newState is the state before the first look.
func newState(mains int) state {
	s := state{mains: make([]mainState, mains)}
	for i := range s.mains {
		s.mains[i].Phase = lifetime.Unsettled
	}
	return s
}

// next is all rules of the shim in one pure function.
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
		return r.run(s, e)
	case holding:
		return r.holdOn(s, e)
	case confirming:
		return r.confirm(s, e)
	case draining:
		switch {
		case !e.term && s.why == mainEnded && s.any(r.missesWord):
			return s.goOn()
		case e.term || e.at >= s.deadline:
			return s.stop()
		}
	case stopping:
		if e.gone {
			return r.finish(s, e), nil
		}
	}
	return s, nil
}

// follow takes what was seen of a main.
func (r rules) follow(m mainState, seen lifetime.State) mainState {
	atStart := m.Phase == lifetime.Unsettled // nothing was known of it before
	switch seen.Phase {
	case lifetime.Unsettled:
		return m // no news
	case lifetime.Ended:
		// Where times are coarse and the numbers of files are given again, a new end
		// may look like the old. A success is new: it is never stale.
		if m.stale && m.ID == seen.ID && seen.Code != exitcode.OK {
			return m
		}
		m.stale = r.staleAtStart && seen.Code != exitcode.OK && (atStart || seen.Silent)
		m.begun = m.begun || !m.stale
	default:
		m.stale = false
		m.begun = m.begun || seen.Phase == lifetime.Running
	}
	m.State = seen
	return m
}

// start decides whether the sidecar is launched at all.
func (r rules) start(s state, e event) (state, []action) {
	switch {
	case e.term:
		s.why = terminated
		return r.finish(s, event{status: exitcode.OfSignal(syscall.SIGTERM)}), nil
	case s.any(func(m mainState) bool { return m.Phase == lifetime.Unsettled }):
		return s, nil
	case s.all(r.final):
		return r.finish(s, e), nil
	}
	s.phase = up
	return s, []action{launch}
}

// run is the rule while the sidecar runs.
func (r rules) run(s state, e event) (state, []action) {
	switch {
	case e.term: // before all else, so that no --drain keeps it waiting
		return r.onTerm(s, e)
	case s.all(r.final):
		return s.decideByMains().aboutToStop(mainEnded)
	case s.all(mainState.hasBegun):
		return s, nil
	case r.startTimeout > 0 && e.at >= r.startTimeout:
		return s.decide(exitcode.TimedOut).aboutToStop(startTimedOut)
	case s.warned < len(warnAfter) && e.at >= warnAfter[s.warned]:
		s.warned++
		return s, []action{warnNotBegun}
	}
	return s, nil
}

// onTerm is the rule for the first SIGTERM: who works through the sidecar may
// finish its work.
func (r rules) onTerm(s state, e event) (state, []action) {
	if r.hold <= 0 || !s.any(mainState.isAlive) {
		return s.aboutToStop(terminated)
	}
	s.phase, s.why, s.held, s.deadline = holding, terminated, true, e.at+r.hold
	return s, nil
}

// holdOn is the rule while a main finishes its work after a SIGTERM.
func (r rules) holdOn(s state, e event) (state, []action) {
	switch {
	case e.term || e.at >= s.deadline:
		next, actions := s.stop()
		return next, append([]action{sayStopping}, actions...)
	case !s.any(mainState.isAlive):
		return s.aboutToStop(terminated)
	}
	return s, nil
}

// confirm is the rule for the look after the word "stopping" stands on the volume.
// A main that begins after that look reads the word and waits; one that has begun
// before is seen here.
func (r rules) confirm(s state, e event) (state, []action) {
	switch s.why {
	case mainEnded:
		if s.any(mainState.isAlive) {
			return s.goOn()
		}
		if s.all(r.final) {
			s = s.decideByMains() // a lost run's, or a later run's, may be known now
		}
		if r.drain > 0 {
			s.phase, s.deadline = draining, e.at+r.drain
			return s, nil
		}
	case startTimedOut:
		if s.all(mainState.hasBegun) {
			return s.goOn()
		}
	case terminated:
		if s.any(mainState.isAlive) && r.hold > 0 {
			if !s.held {
				s.held, s.deadline = true, e.at+r.hold
			}
			s.phase = holding
			return s, []action{sayRunning}
		}
		if s.held && r.drain > 0 && s.all(mainState.hasEnded) {
			s.phase, s.deadline = draining, min(e.at+r.drain, s.deadline)
			return s, nil
		}
	}
	return s.stop()
}

// afterSidecar is the rule for a sidecar that has ended without being stopped.
func (r rules) afterSidecar(s state, e event) (state, []action) {
	if !s.decided && s.all(r.final) {
		s = s.decideByMains()
		s.why = mainEnded
	}
	if !s.decided && s.why != terminated {
		s = s.decide(e.status)
		s.why = sidecarEnded
	}
	if e.gone {
		return r.finish(s, e), nil
	}
	next, actions := s.stop() // what it has left behind
	return next, append([]action{sayStopping}, actions...)
}

// finish ends the shim, with the exit code that is known by now.
func (r rules) finish(s state, e event) state {
	s.phase = finished
	switch {
	case s.decided:
		return s
	case s.all(mainState.hasEnded):
		return s.decideByMains()
	}
	return s.decide(e.status)
}

// decide gives the shim its exit code.
func (s state) decide(code int) state {
	s.decided, s.code = true, code
	return s
}

// decideByMains gives the shim the exit code of the mains together: the first that
// is not 0.
func (s state) decideByMains() state {
	s.ends = s.mains
	for _, m := range s.ends {
		if m.Code != exitcode.OK {
			return s.decide(m.Code)
		}
	}
	return s.decide(exitcode.OK)
}

// aboutToStop says so on the volume.
func (s state) aboutToStop(why reason) (state, []action) {
	s.phase, s.why = confirming, why
	return s, []action{sayStopping}
}

// goOn takes it back.
func (s state) goOn() (state, []action) {
	s.phase, s.decided, s.ends = up, false, nil
	return s, []action{sayRunning}
}

func (s state) stop() (state, []action) {
	s.phase = stopping
	return s, []action{stop}
}

// wake is when the rules are to be asked again though nothing happens; 0 is never.
func (r rules) wake(s state) time.Duration {
	switch s.phase {
	case holding, draining:
		return s.deadline
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

// final tells whether a main's end is one to stop the sidecar for.
func (r rules) final(m mainState) bool {
	return m.hasEnded() && (m.Code == exitcode.OK || !r.keepOnFailure)
}

// hasEnded tells whether a run of this shim's time has ended.
func (m mainState) hasEnded() bool { return m.Phase == lifetime.Ended && !m.stale }

// isRunning tells whether main is known to be running.
func (m mainState) isRunning() bool { return m.Phase == lifetime.Running }

// isAlive tells whether main runs for all that is known.
func (m mainState) isAlive() bool { return m.isRunning() || m.Phase == lifetime.Unverified }

// missesWord tells whether main has begun again and cannot know that we are about to
// stop: where locks are not shared, no word counts.
func (r rules) missesWord(m mainState) bool {
	return m.Phase == lifetime.Unverified || r.unheard && m.isRunning()
}

// hasBegun tells whether main has begun in this shim's time. A stale end is no
// beginning.
func (m mainState) hasBegun() bool { return m.begun || m.isAlive() }

func (s state) all(is func(mainState) bool) bool {
	return !slices.ContainsFunc(s.mains, func(m mainState) bool { return !is(m) })
}

func (s state) any(is func(mainState) bool) bool { return slices.ContainsFunc(s.mains, is) }
