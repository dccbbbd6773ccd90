package shim

import (
	"errors"
	"time"

	"github.com/sentinel-shim/sentinel-shim/sentinel/crashpoint"
	"github.com/sentinel-shim/sentinel-shim/sentinel/exitcode"
	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
	"github.com/sentinel-shim/sentinel-shim/sentinel/process"
)

// One turn of the shim's loop. It joins the rules to what they rule.

// surroundings are all that a turn looks at and acts upon. The loop in shim.go gives those of
// a real volume and a real sidecar, the tests those of a simulated pod.
//
// A struct of functions, for the reason that sentinel.Actions names.
type surroundings struct {
	// now returns the time since the shim's start.
	now func() time.Duration
	// look returns the state of every main, in the order of Config.Mains.
	look func() []lifetime.State
	// sidecar reports whether the sidecar's process has ended, whether nothing of the
	// sidecar is left, and its exit code.
	sidecar func() (exited, gone bool, code int)
	// do performs an action, on the way from one state to the next. Only a launch
	// can fail; its error is a *process.StartError where the sidecar is at fault.
	do func(a action, from, to state) error
}

// turn looks at everything, asks the rules, and does what they say. An event holds what
// only the caller knows: whether SIGTERM has come, whether a stop has ended.
func (r rules) turn(w surroundings, s state, e event) state {
	e.at, e.mains = w.now(), w.look()
	exited, gone, code := w.sidecar()
	e.exited, e.gone, e.status = exited, gone, code
	next, actions := r.next(s, e)
	switch { // decisions that leave no trace on the volume
	case s.phase == confirming:
		crashpoint.At("stop.confirmed")
	case s.phase == draining && next.phase == stopping:
		crashpoint.At("stop.drained")
	}
	for _, a := range actions {
		if err := w.do(a, s, next); err != nil {
			next = next.notLaunched(err)
		}
	}
	return next
}

// again reports whether the next turn follows at once, without waiting for an event.
func (s state) again() bool { return s.phase == confirming }

// notLaunched ends the shim because its sidecar could not be started.
func (s state) notLaunched(err error) state {
	s = s.decide(exitcode.Wrapper)
	if start := (*process.StartError)(nil); errors.As(err, &start) {
		s = s.decide(start.Code)
	}
	s.phase = finished
	return s
}
