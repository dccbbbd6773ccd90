package shim

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
	"github.com/sentinel-shim/sentinel-shim/sentinel/process"
)

// TestStepConfirms: the look after "stopping" was written follows at once. It waits for no event.
func TestStepConfirms(t *testing.T) {
	var did []action
	looks := 0
	l := &loop{
		Config: Config{Mains: []string{"main"}, Command: []string{"/bin/proxy"}, Log: zerolog.Nop()},
		state:  state{phase: up, mains: []mainState{{State: running}}},
		deps: dependencies{
			now:     func() time.Duration { return 0 },
			look:    func() []lifetime.State { looks++; return []lifetime.State{ended(3)} },
			sidecar: func() (exited, gone bool, code int) { return false, false, 0 },
			do:      func(a action, _, _ state) error { did = append(did, a); return nil },
		},
	}
	l.step(event{})
	if got, want := fmt.Sprint(did), fmt.Sprint([]action{announceStopping, stop}); got != want || looks != 2 {
		t.Errorf("the actions are %s after %d looks, want %s after 2", got, looks, want)
	}
	if l.state.phase != stopping {
		t.Errorf("the phase is %s, want stopping", l.state.phase)
	}
}

// TestNotLaunched: the exit code tells whether the sidecar's command is at fault.
func TestNotLaunched(t *testing.T) {
	refused := errors.New("refused")
	for _, c := range []struct {
		err  error
		code int
	}{
		{refused, 125},
		{&process.StartError{Code: 126, Err: refused}, 126},
		{fmt.Errorf("launch: %w", &process.StartError{Code: 127, Err: refused}), 127},
	} {
		if s := (state{phase: up}).notLaunched(c.err); s.phase != finished || s.exit.code != c.code || !s.exit.decided {
			t.Errorf("after the error %#v the shim is %s with %d (decided: %v), want finished with %d",
				c.err, s.phase, s.exit.code, s.exit.decided, c.code)
		}
	}
}
