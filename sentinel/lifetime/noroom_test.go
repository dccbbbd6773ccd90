package lifetime

import (
	"os"
	"testing"
	"time"

	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// A full volume counts only for an end that is empty at that look: not for one that is empty later, nor for
// the run before it.
func TestFullVolumeBeforeAnEmptyEnd(t *testing.T) {
	type look struct {
		content string // of the end; "none" if there is none
		full    bool
	}
	looks := int(settleTime / settleTick) // until an end has settled
	for _, c := range []struct {
		name  string
		looks []look
		want  string // after the last of them, once it has settled
	}{
		{"another content before", []look{{"garbage", true}, {"", false}}, "empty: 0"},
		{"another content in between", []look{{"", true}, {"garbage", false}, {"", false}}, "empty: 0"},
		{"the end is taken away", []look{{"", true}, {"none", false}}, "lost: 137"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := testenv.Volume(t)
			v := &fakeFull{Dir: Dir(dir)}
			o := NewObserver(v, "main", time.Minute)
			run := mustBegin(t, dir, "main")
			if state, _ := o.Look(false, 0); state.Phase != Running {
				t.Fatalf("the state of a live run is %q", describe(state))
			}
			mustEnd(t, run, 3)
			for _, look := range c.looks {
				v.full = look.full
				if look.content == "none" {
					if err := os.Remove(TerminatedPath(dir, "main")); err != nil {
						t.Fatal(err)
					}
					continue
				}
				testenv.Plant(t, TerminatedPath(dir, "main"), look.content)
				if state, _ := o.Look(false, settleTick); state != (State{Phase: Unsettled}) {
					t.Errorf("the state of an end that holds %q is %+v", look.content, state)
				}
			}
			var state State
			for range looks + 1 {
				state, _ = o.Look(false, settleTick)
			}
			if got := describe(state); got != c.want {
				t.Errorf("the state is %q, not %q", got, c.want)
			}
		})
	}
}
