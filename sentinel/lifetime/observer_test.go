package lifetime

import (
	"strings"
	"testing"
	"time"
)

// crowded is a volume of which it is known when it is full.
type crowded struct {
	Dir
	full  bool
	asked int
}

func (v *crowded) Full() bool {
	v.asked++
	return v.full
}

// An empty end is no success if the volume was full, when it was first seen or when it is
// judged. What was judged stays; and the file system is not asked at each look.
func TestEmptyEndOnAFullVolume(t *testing.T) {
	const first, between, verdict, after = 0, 5, 10, 15 // looks, each after a tenth of the time
	for _, c := range []struct {
		name string
		full []int // at which looks
		want string
	}{
		{"never full", nil, "touched: 0"},
		{"always full", []int{first, between, verdict, after}, "no room: 125"},
		{"full when it is seen", []int{first}, "no room: 125"},
		{"full when it is judged", []int{verdict}, "no room: 125"},
		{"full after that", []int{after}, "touched: 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := newVolume(t)
			plant(t, TerminatedPath(dir, "main"), "")
			v := &crowded{Dir: Dir(dir)}
			o := NewObserver(v, "main", time.Minute)
			full := map[int]bool{}
			for _, look := range c.full {
				full[look] = true
			}
			for look := range 20 {
				v.full = full[look]
				state, _ := o.Look(false, settleTime/10)
				want := "unsettled"
				if look >= verdict {
					want = c.want
				}
				if got := describe(state); got != want {
					t.Fatalf("look %d: it is seen as %q, not as %q", look, got, want)
				}
			}
			if v.asked != 2 {
				t.Errorf("the volume was asked %d times", v.asked)
			}

			// A code that comes after all is one, and an end that is empty again is new.
			v.full = false
			for _, content := range []string{"3\n", ""} {
				plant(t, TerminatedPath(dir, "main"), content)
				want := map[string]string{"3\n": "ended: 3", "": "touched: 0"}[content]
				var got []string
				for range 12 {
					state, _ := o.Look(false, settleTime/10)
					got = append(got, describe(state))
				}
				if got[len(got)-1] != want {
					t.Errorf("%q is seen as %s", content, strings.Join(got, ", "))
				}
			}
		})
	}
}
