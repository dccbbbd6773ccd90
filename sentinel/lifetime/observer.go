package lifetime

import "time"

// Observer follows one run, look by look. A [Watcher] has one for each run, and knows when to look. A
// caller that knows that by itself needs only an Observer.
//
// An Observer is a value: a copy continues from the state of the original.
type Observer struct {
	volume Volume
	name   string
	judge  judge
}

// NewObserver returns an Observer of the named run. lostAfter is as for [Watch].
func NewObserver(v Volume, name string, lostAfter time.Duration) Observer {
	return Observer{v, name, judge{lostAfter: lostAfter}}
}

// MaxAttempts is how many snapshots one Look takes at most while the volume keeps changing. The last one
// counts even if it is not consistent: the change wakes the watcher again.
const MaxAttempts = 8

// Look looks at the run and returns its state. If the run is locked, it also returns the open file, for
// the caller to wait on and to close. It does not wait.
//
// pending means that a wait for the run's lock ([File.AwaitUnlocked]) had not returned before the look.
// elapsed is the time since the previous look, but at most what the caller meant to sleep
// ([PollInterval]): the time in which a watcher was frozen is no evidence (design, 2.3).
func (o *Observer) Look(pending bool, elapsed time.Duration) (State, File) {
	for n := 1; ; n++ {
		s, locked, consistent := o.Snapshot(pending)
		if consistent || n == MaxAttempts {
			return o.Update(s, pending, elapsed), locked
		}
	}
}

// Snapshot is the part of Look that reads the run's files. Look repeats it if it was not consistent.
func (o *Observer) Snapshot(pending bool) (s Snapshot, locked File, consistent bool) {
	return snapshot(o.volume, o.name, o.judge.wasRunning(), pending)
}

// Update is the part of Look that derives the state from a snapshot. For an empty end it checks whether
// the volume is full.
func (o *Observer) Update(s Snapshot, pending bool, elapsed time.Duration) State {
	state := o.judge.update(s, pending, elapsed)
	if o.judge.needsRoomCheck(elapsed) && o.volume.Full() {
		state = o.judge.noRoom(state)
	}
	return state
}
