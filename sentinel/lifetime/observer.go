package lifetime

import "time"

// Observer follows one run, look by look. A [Watcher] is made of these and of what
// tells when to look; whoever knows that by himself can do with an Observer alone.
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

// MaxGlances bounds how often a volume that changes under our eyes is looked at
// again. What is seen last is then taken for what it is; the change itself wakes the
// watcher.
const MaxGlances = 8

// Look looks at the run. pending says that a wait for the run's lock (AwaitUnlocked)
// had not returned before; elapsed is the time since the look before, cut off at
// what was to be slept ([LookAgain]): what a watcher was frozen for is no evidence.
//
// If the run is locked its open file comes along, for the caller to wait on and to
// close.
func (o *Observer) Look(pending bool, elapsed time.Duration) (State, File) {
	for n := 1; ; n++ {
		seen, locked, steady := o.Glance(pending)
		if steady || n == MaxGlances {
			return o.Judge(seen, pending, elapsed), locked
		}
	}
}

// Glance is the part of Look that asks the volume. It is done again if it was not
// steady.
func (o *Observer) Glance(pending bool) (seen Sight, locked File, steady bool) {
	return glanceAt(o.volume, o.name, o.judge.held && !pending)
}

// Judge is the part of Look that makes a state of what was seen. For an end without a code it
// asks whether the volume is full.
func (o *Observer) Judge(seen Sight, pending bool, elapsed time.Duration) State {
	state := o.judge.see(seen, pending, elapsed)
	if o.judge.asksForRoom(elapsed) && o.volume.Full() {
		state = o.judge.noRoom(state)
	}
	return state
}
