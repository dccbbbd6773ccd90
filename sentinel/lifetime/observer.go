package lifetime

import "time"

// Observer follows one run, look by look. A [Watcher] is made of these and of what tells when to
// look; a caller that knows that by itself can do with an Observer alone.
//
// It is a value: a copy goes on from where the original was.
type Observer struct {
	volume Volume
	name   string
	judge  judge
}

// NewObserver follows the named run. lostAfter is as for Watch.
func NewObserver(v Volume, name string, lostAfter time.Duration) Observer {
	return Observer{v, name, judge{lostAfter: lostAfter}}
}

// MaxAttempts is how many snapshots Look takes at most while the volume keeps changing. The last one
// then counts as it is; the change itself wakes the watcher.
const MaxAttempts = 8

// Look looks at the run and returns its state. pending says that a wait for the run's lock
// (AwaitUnlocked) had not returned before. elapsed is the time since the look before, at most what
// the caller meant to sleep ([PollInterval]): time for which a watcher was frozen is no evidence.
//
// If the run is locked, its open file comes along, for the caller to wait on and to close.
func (o *Observer) Look(pending bool, elapsed time.Duration) (State, File) {
	for n := 1; ; n++ {
		s, locked, consistent := o.Snapshot(pending)
		if consistent || n == MaxAttempts {
			return o.Update(s, pending, elapsed), locked
		}
	}
}

// Snapshot is the part of Look that reads the volume. It is repeated if it was not consistent.
func (o *Observer) Snapshot(pending bool) (s Snapshot, locked File, consistent bool) {
	return snapshot(o.volume, o.name, o.judge.wasRunning() && !pending)
}

// Update is the part of Look that derives the state from a snapshot. For an end without an exit code
// it asks whether the volume is full.
func (o *Observer) Update(s Snapshot, pending bool, elapsed time.Duration) State {
	state := o.judge.update(s, pending, elapsed)
	if o.judge.asksForRoom(elapsed) && o.volume.Full() {
		state = o.judge.noRoom(state)
	}
	return state
}
