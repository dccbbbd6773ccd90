package shim

import (
	"errors"
	"time"

	"github.com/sentinel-shim/sentinel-shim/sentinel/crashpoint"
	"github.com/sentinel-shim/sentinel-shim/sentinel/exitcode"
	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
	"github.com/sentinel-shim/sentinel-shim/sentinel/process"
)

// One turn of the shim's loop: it connects the rules to the volume and the sidecar.

// dependencies are all functions through which a turn looks and acts. Those of the loop in shim.go
// use a real volume and a real sidecar, those of the tests a simulated pod.
type dependencies struct {
	// now returns the time since the shim's start.
	now func() time.Duration
	// look returns the state of every main, in the order of Config.Mains.
	look func() []lifetime.State
	// sidecar reports whether the sidecar's process has exited, with its code, and whether nothing that
	// the sidecar has started is left.
	sidecar func() (exited, gone bool, code int)
	// do performs an action between two states. Only a launch can fail. Its error is a
	// *process.StartError if the sidecar's command is at fault.
	do func(a action, from, to state) error
}

// turn looks at everything, asks the rules, performs their actions, and returns the next state. Of e
// it reads only term: it fills in everything else.
func (r rules) turn(d dependencies, s state, e event) state {
	e.at, e.mains = d.now(), d.look()
	e.exited, e.gone, e.status = d.sidecar()
	next, actions := r.next(s, e)
	switch { // decisions that leave no trace on the volume
	case s.phase == confirming:
		crashpoint.At("stop.confirmed")
	case s.phase == draining && next.phase == stopping:
		crashpoint.At("stop.drained")
	}
	for _, a := range actions {
		if err := d.do(a, s, next); err != nil {
			next = next.notLaunched(err)
		}
	}
	return next
}

// looksAgain reports whether the next turn follows at once, without waiting for an event.
func (s state) looksAgain() bool { return s.phase == confirming }

// notLaunched ends the shim because its sidecar could not be started.
func (s state) notLaunched(err error) state {
	s = s.exitWith(exitcode.Wrapper)
	if start := (*process.StartError)(nil); errors.As(err, &start) {
		s = s.exitWith(start.Code)
	}
	s.phase = finished
	return s
}
