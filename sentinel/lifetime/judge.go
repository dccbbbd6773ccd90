package lifetime

import (
	"time"

	"github.com/sentinel-shim/sentinel-shim/sentinel/exitcode"
)

// Phase is where a run stands.
type Phase int

const (
	// NotStarted: there is no trace of the run.
	NotStarted Phase = iota
	// Unsettled: the volume is being changed at this moment, or holds an end
	// that does not say its code yet, or cannot be read yet. It settles within
	// about a second.
	Unsettled
	// Running: its owner lives.
	Running
	// Unverified: taken for running. Whether its owner lives cannot be told
	// from locks.
	Unverified
	// Ended: see State's Code and Cause.
	Ended
)

// Cause is how a run's end became known.
type Cause int

const (
	// Recorded: the end says its code.
	Recorded Cause = iota
	// Touched: NAME-terminated has stood empty (touch main-terminated). The
	// code is 0.
	Touched
	// Unreadable: NAME-terminated holds no code, or cannot be read. The code
	// is 125.
	Unreadable
	// Lost: the owner was killed before it could record an exit code. The code is 137.
	Lost
	// NoRoom: NAME-terminated has stood empty, and the volume was full, so that a code
	// (echo $? > main-terminated) could not be written into it. The code is 125.
	NoRoom
)

// State is what is known of a run.
type State struct {
	Phase Phase
	// Code is the exit code of a run that has ended, 0 to 255.
	Code int
	// Cause is how the end became known.
	Cause Cause
	// Silent: a lost run that has given no sign of life since the watcher
	// began; for all that is known it was dead before.
	Silent bool
	// ID is the identity of the file that the state was read from.
	ID Identity
}

const (
	// tick is how often a run is looked at where no event says so.
	tick = time.Second
	// settleTick is the same while the state is Unsettled.
	settleTick = 100 * time.Millisecond
	// settleTime is for how long an end may be without its code: a writer
	// that is not atomic (echo 3 > main-terminated) creates the file first,
	// and what cannot be opened now may be later.
	settleTime = time.Second
)

// judge makes a state of what is seen, by what was seen before. It asks nobody:
// neither the volume nor the clock.
type judge struct {
	lostAfter time.Duration

	looked bool
	first  Identity // NAME-running at the first look, zero if it was not there
	held   bool     // the run's lock was seen held, and no end since

	settling       bool          // NAME-terminated was there at the look before, without a code
	wasEmpty       bool          // it was empty at the look before
	invalid, empty time.Duration // for how long it has held no code, or nothing
	full           bool          // while it was empty the volume was seen full

	watched Identity // the unverified file
	still   time.Duration

	lost State // the verdict, if any; it stands until there is a new file or a sign of life
}

// see judges one look: see Observer.Look.
func (j *judge) see(s Sight, pending bool, elapsed time.Duration) State {
	if !j.looked {
		j.looked, j.first, elapsed = true, s.live.id, 0
	}
	if s.end.present {
		return j.seeEnd(s.end, elapsed)
	}
	j.settling = false
	switch {
	case pending || s.live.locked:
		j.held, j.lost, j.watched = true, State{}, Identity{}
		return State{Phase: Running, ID: s.live.id}
	case s.live.present:
		return j.seeUnlocked(s.live, elapsed)
	case j.held && s.beginning:
		return State{Phase: Unsettled}
	case j.held:
		return j.lose(Identity{}, false)
	case j.lost.Phase == Ended:
		return j.lost
	}
	return State{Phase: NotStarted}
}

// seeEnd judges a NAME-terminated.
func (j *judge) seeEnd(end sighting, elapsed time.Duration) State {
	empty := end.readable && end.content == ""
	if !j.settling {
		j.settling, j.wasEmpty, j.invalid, elapsed = true, false, 0, 0
	}
	j.invalid += elapsed
	j.empty += elapsed
	if !empty || !j.wasEmpty {
		j.empty, j.full = 0, false
	}
	j.wasEmpty = empty

	ended := State{Phase: Ended, ID: end.id}
	code, ok := parseCode(end.content)
	switch {
	case ok:
		ended.Code, j.settling = code, false
	case empty && j.empty >= settleTime:
		ended.Code, ended.Cause = exitcode.OK, Touched
		if j.full {
			ended.Code, ended.Cause = unreadableCode, NoRoom
		}
	case !empty && j.invalid >= settleTime:
		ended.Code, ended.Cause = unreadableCode, Unreadable
	default:
		return State{Phase: Unsettled}
	}
	j.held, j.lost = false, State{}
	return ended
}

// asksForRoom reports whether it matters at this look if the volume is full: when an end is
// first seen empty, and when that is to be judged. Main may have filled the volume, failed to
// write its code, and made room again before the judgement.
func (j *judge) asksForRoom(elapsed time.Duration) bool {
	due := j.empty >= settleTime && j.empty-elapsed < settleTime
	return j.settling && j.wasEmpty && (j.empty == 0 || due)
}

// noRoom takes notice that the volume is full, and corrects what this look was judged.
func (j *judge) noRoom(judged State) State {
	j.full = true
	if judged.Cause == Touched {
		judged.Code, judged.Cause = unreadableCode, NoRoom
	}
	return judged
}

// seeUnlocked judges a NAME-running that nobody holds.
func (j *judge) seeUnlocked(live sighting, elapsed time.Duration) State {
	if code, ok := parseCode(live.content); ok {
		j.held, j.lost = false, State{}
		return State{Phase: Ended, Code: code, ID: live.id}
	}
	if j.held {
		return j.lose(live.id, false)
	}
	if j.lost.Phase == Ended && j.lost.ID == live.id {
		return j.lost
	}
	j.lost = State{}
	if live.id != j.watched {
		j.watched, j.still, elapsed = live.id, 0, 0
	}
	if j.still += elapsed; j.still >= j.lostAfter {
		return j.lose(live.id, live.id == j.first)
	}
	return State{Phase: Unverified, ID: live.id}
}

func (j *judge) lose(id Identity, silent bool) State {
	j.held = false
	j.lost = State{Phase: Ended, Code: exitcode.Lost, Cause: Lost, Silent: silent, ID: id}
	return j.lost
}

// LookAgain is after what time a run in this state is to be looked at again where no
// event says so.
func LookAgain(s State) time.Duration {
	if s.Phase == Unsettled {
		return settleTick
	}
	return tick
}
