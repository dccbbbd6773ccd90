package lifetime

import (
	"time"

	"github.com/sentinel-shim/sentinel-shim/sentinel/exitcode"
)

// Phase is where a run stands (design, 2.2).
type Phase int

const (
	// NotStarted: there is no trace of the run.
	NotStarted Phase = iota
	// Unsettled: the volume is changing at this moment, or an end holds no exit code yet. It settles
	// within about a second.
	Unsettled
	// Running: the owner holds the run's lock.
	Running
	// Unverified: the run counts as running, but nobody holds its lock. Where locks are not shared
	// between containers, every run looks like this.
	Unverified
	// Ended: see Code and Cause of the State.
	Ended
)

// Cause is how the end of a run became known.
type Cause int

const (
	// Recorded: the owner recorded the exit code.
	Recorded Cause = iota
	// Empty: NAME-terminated stayed empty (touch main-terminated). The code is 0.
	Empty
	// Unreadable: NAME-terminated holds no exit code, or cannot be read. The code is 125.
	Unreadable
	// Lost: the owner was killed before it could record an exit code. The code is 137.
	Lost
	// NoRoom: NAME-terminated stayed empty and the volume was full, so a script could not write its
	// exit code (echo $? > main-terminated). The code is 125.
	NoRoom
)

// State is what a watcher knows about a run.
type State struct {
	Phase Phase
	// Code is the exit code of a run that has ended, 0 to 255.
	Code int
	// Cause is how the end became known.
	Cause Cause
	// FoundDead: a lost run that gave no sign of life since the watcher began. It may have been dead
	// before.
	FoundDead bool
	// ID identifies the file that the state was derived from. It is zero if there was none, and for
	// Unsettled.
	ID Identity
}

const (
	// tick is how often a watcher looks at a run if nothing wakes it before.
	tick = time.Second
	// settleTick is the same for a run that is Unsettled.
	settleTick = 100 * time.Millisecond
	// pendingTick is the same for a run whose lock the watcher waits for, if inotify works, too: its end, and its
	// owner's death, end that wait, and inotify reports an end that somebody else records beside it.
	pendingTick = 30 * time.Second
	// settleTime is how long an end may stay without an exit code. A writer that is not atomic
	// (echo 3 > main-terminated) creates the file before it writes.
	settleTime = time.Second
)

// PollInterval returns how long a watcher waits before it looks again at a run in this state, if nothing
// wakes it before. pending reports whether it waits for the run's lock.
func PollInterval(s State, pending bool) time.Duration {
	switch {
	case s.Phase == Unsettled:
		return settleTick
	case s.Phase == Running && pending:
		return pendingTick
	}
	return tick
}

// unchanged measures for how long a value has been seen without a change.
type unchanged[T comparable] struct {
	seen  bool
	value T
	since time.Duration
}

// observe takes the current value, elapsed after the previous one. It returns for how long the value has
// not changed.
func (u *unchanged[T]) observe(value T, elapsed time.Duration) time.Duration {
	if u.seen && u.value == value {
		u.since += elapsed
	} else {
		*u = unchanged[T]{seen: true, value: value}
	}
	return u.since
}

// judge derives a State from a snapshot and from the snapshots before. It does no I/O and reads no
// clock.
type judge struct {
	lostAfter time.Duration

	looked bool
	first  Identity // of NAME-running in the first snapshot; zero if it was not there
	last   State    // the last one that was not Unsettled

	noCode unchanged[bool]     // NAME-terminated holds no exit code
	empty  unchanged[bool]     // NAME-terminated is empty, or is not
	full   bool                // the volume was full while NAME-terminated was empty
	still  unchanged[Identity] // NAME-running, not locked
}

// wasRunning reports whether the run was running when its state was last known.
func (j *judge) wasRunning() bool { return j.last.Phase == Running }

// update returns the state after a snapshot: see Observer.Look.
func (j *judge) update(s Snapshot, pending bool, elapsed time.Duration) State {
	if !j.looked {
		j.looked, j.first, elapsed = true, s.running.id, 0
	}
	state := j.derive(s, pending, elapsed)
	if state.Phase != Unsettled {
		j.last = state
	}
	return state
}

func (j *judge) derive(s Snapshot, pending bool, elapsed time.Duration) State {
	if s.terminated.exists {
		return j.terminated(s.terminated, elapsed)
	}
	j.forgetEnd()
	switch {
	case pending && j.wasRunning():
		return j.last
	case pending || s.running.locked:
		j.still = unchanged[Identity]{}
		return State{Phase: Running, ID: s.running.id}
	case s.running.exists:
		return j.unlocked(s.running, elapsed)
	case j.wasRunning():
		return lost(Identity{}, false)
	case j.last.Cause == Lost:
		return j.last
	}
	return State{Phase: NotStarted}
}

// terminated derives the state from a NAME-terminated.
func (j *judge) terminated(f fileState, elapsed time.Duration) State {
	ended := State{Phase: Ended, ID: f.id}
	code, ok := parseCode(f.content)
	if ok {
		ended.Code = code
		j.forgetEnd()
		return ended
	}
	empty := f.readable && f.content == ""
	noCodeFor, sameFor := j.noCode.observe(true, elapsed), j.empty.observe(empty, elapsed)
	if !empty {
		j.full = false
	}
	switch {
	case empty && sameFor >= settleTime:
		ended.Code, ended.Cause = exitcode.OK, Empty
		if j.full {
			ended.Code, ended.Cause = unreadableCode, NoRoom
		}
	case !empty && noCodeFor >= settleTime:
		ended.Code, ended.Cause = unreadableCode, Unreadable
	default:
		return State{Phase: Unsettled}
	}
	return ended
}

// forgetEnd forgets that an end without an exit code was there.
func (j *judge) forgetEnd() { j.noCode, j.empty, j.full = unchanged[bool]{}, unchanged[bool]{}, false }

// needsRoomCheck reports whether the caller must check for a full volume after this snapshot: when an
// empty end is first seen, and when it has settled. One check is not enough: main may have filled the
// volume, failed to write its code, and made room again.
func (j *judge) needsRoomCheck(elapsed time.Duration) bool {
	since := j.empty.since
	due := since >= settleTime && since-elapsed < settleTime
	return j.empty.seen && j.empty.value && (since == 0 || due)
}

// noRoom notes that the volume is full, and corrects the state of this snapshot.
func (j *judge) noRoom(state State) State {
	j.full = true
	if state.Cause == Empty {
		state.Code, state.Cause = unreadableCode, NoRoom
		j.last = state
	}
	return state
}

// unlocked derives the state from a NAME-running that nobody has locked.
func (j *judge) unlocked(f fileState, elapsed time.Duration) State {
	if code, ok := parseCode(f.content); ok {
		return State{Phase: Ended, Code: code, ID: f.id}
	}
	switch {
	case j.wasRunning():
		return lost(f.id, false)
	case j.last.Cause == Lost && j.last.ID == f.id:
		return j.last
	case j.still.observe(f.id, elapsed) >= j.lostAfter:
		return lost(f.id, f.id == j.first)
	}
	return State{Phase: Unverified, ID: f.id}
}

func lost(id Identity, foundDead bool) State {
	return State{Phase: Ended, Code: exitcode.Lost, Cause: Lost, FoundDead: foundDead, ID: id}
}
