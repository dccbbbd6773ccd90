package lifetime

import (
	"strings"
	"testing"
	"time"

	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// fakeFull is a volume of which a test sets whether it is full. It counts the calls of Full.
type fakeFull struct {
	Dir
	full    bool
	checked int
}

func (v *fakeFull) Full() bool {
	v.checked++
	return v.full
}

// An empty end is no success if the volume was full when the end was first seen or when it settled. After
// that the state stays. The volume is checked only at these two looks.
func TestEmptyEndOnAFullVolume(t *testing.T) {
	const first, between, settled, after = 0, 5, 10, 15 // looks, each a tenth of settleTime after the other
	for _, c := range []struct {
		name string
		full []int // at which looks
		want string
	}{
		{"never full", nil, "empty: 0"},
		{"always full", []int{first, between, settled, after}, "no room: 125"},
		{"full when it is first seen", []int{first}, "no room: 125"},
		{"full when it settles", []int{settled}, "no room: 125"},
		{"full after that", []int{after}, "empty: 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := testenv.Volume(t)
			testenv.Plant(t, TerminatedPath(dir, "main"), "")
			v := &fakeFull{Dir: Dir(dir)}
			o := NewObserver(v, "main", time.Minute)
			full := map[int]bool{}
			for _, look := range c.full {
				full[look] = true
			}
			for look := range 20 {
				v.full = full[look]
				state, _ := o.Look(false, settleTime/10)
				want := "unsettled"
				if look >= settled {
					want = c.want
				}
				if got := describe(state); got != want {
					t.Fatalf("look %d: the state is %q, not %q", look, got, want)
				}
			}
			if v.checked != 2 {
				t.Errorf("the volume was checked %d times", v.checked)
			}

			// A code that comes later counts, and an end that is empty again is a new one.
			v.full = false
			for _, content := range []string{"3\n", ""} {
				testenv.Plant(t, TerminatedPath(dir, "main"), content)
				want := map[string]string{"3\n": "ended: 3", "": "empty: 0"}[content]
				var got []string
				for range 12 {
					state, _ := o.Look(false, settleTime/10)
					got = append(got, describe(state))
				}
				if got[len(got)-1] != want {
					t.Errorf("the states for the content %q are %s", content, strings.Join(got, ", "))
				}
			}
		})
	}
}
