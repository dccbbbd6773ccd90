package sentinel

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

// TestSteps: each path leads through End, with the right code.
func TestSteps(t *testing.T) {
	wrong := errors.New("wrong")
	for _, c := range []struct {
		name      string
		restarted bool
		looks     int    // of the restart barrier, until it is done
		fails     string // the step that fails
		want      []string
	}{
		{"first start", false, 0, "", []string{"begin", "targets", "launch", "supervise", "end 3"}},
		{"restart", true, 3, "",
			[]string{"begin", "sidecars", "sidecars", "sidecars", "targets", "launch", "supervise", "end 3"}},
		{"no begin", true, 1, "begin", []string{"begin", "not started: wrong", "end 125"}},
		{"no barrier", true, 2, "sidecars", []string{"begin", "sidecars", "not started: wrong", "end 125"}},
		{"no targets", false, 0, "targets", []string{"begin", "targets", "not started: wrong", "end 125"}},
		{"no launch", false, 0, "launch", []string{"begin", "targets", "launch", "not started: wrong", "end 125"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var did []string
			do := func(step string) error {
				did = append(did, step)
				if step == c.fails {
					return wrong
				}
				return nil
			}
			actions := Actions{
				Begin:         func() (bool, error) { return c.restarted, do("begin") },
				AwaitSidecars: func() (bool, error) { c.looks--; return c.looks == 0, do("sidecars") },
				AwaitTargets:  func() error { return do("targets") },
				Launch:        func() error { return do("launch") },
				Supervise:     func() int { do("supervise"); return 3 },
				NotStarted:    func(err error) int { do("not started: " + err.Error()); return 125 },
				End:           func(code int) { do(fmt.Sprint("end ", code)) },
			}
			var p Progress
			for range 20 { // more than any path has
				p = p.Next(actions)
			}
			if p.Step != Exit || !slices.Equal(did, c.want) {
				t.Errorf("it did %q, want %q, and got to step %d", did, c.want, p.Step)
			}
		})
	}
}

// TestWaited: to the millisecond below a second, else to a tenth of a second.
func TestWaited(t *testing.T) {
	for _, c := range []struct{ least, most, unit time.Duration }{
		{123 * time.Millisecond, 900 * time.Millisecond, time.Millisecond},
		{1250 * time.Millisecond, time.Minute, 100 * time.Millisecond},
	} {
		if got := waited(time.Now().Add(-c.least)); got < c.least || got > c.most || got%c.unit != 0 {
			t.Errorf("after %s it is %s, not in units of %s", c.least, got, c.unit)
		}
	}
}
