package shim

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
)

// TestLogNotBegun: the warning names the mains that have not begun, and no others.
func TestLogNotBegun(t *testing.T) {
	var log bytes.Buffer
	l := &loop{
		Config: Config{Mains: []string{"etl", "load", "clean"}, Log: zerolog.New(&log)},
		began:  time.Now().Add(-time.Minute),
		state:  newState(3),
	}
	r := Config{}.rules(true)
	l.state, _ = r.next(l.state, saw(running, notStarted, ended(3))) // the last is stale
	l.logNotBegun(false)
	for _, text := range []string{"load has not begun after 1m0s", "clean has not begun", "--dir", "sentinel", "--main"} {
		if !strings.Contains(log.String(), text) {
			t.Errorf("%q is not in it:\n%s", text, &log)
		}
	}
	if strings.Contains(log.String(), "etl has not begun") {
		t.Errorf("etl has begun:\n%s", &log)
	}
}

// TestLogMain: each change of a main's state is logged once.
func TestLogMain(t *testing.T) {
	var log bytes.Buffer
	l := &loop{Config: Config{
		Dir: "/v", Mains: []string{"etl"}, Command: []string{"/bin/proxy"}, LostAfter: time.Minute,
		Log: zerolog.New(&log).Level(zerolog.InfoLevel),
	}}
	r := Config{}.rules(false)
	s := newState(1)
	s.phase = up
	for _, seen := range []struct {
		lifetime.State
		text string // "": nothing is logged
	}{
		{notStarted, ""},
		{running, "etl is running"},
		{running, ""},
		{nextRunning, ""}, // or the heartbeat
		{ended(3), "etl exited 3"},
		{ended(3), ""},
		{unverified, "counts as lost if the file does not change for 1m0s (--lost-after)"},
		{beating, ""},
		{lost, "etl was killed before it could record an exit code"},
		{unreadable, "/v/etl-terminated holds no exit code"},
		{touched, "/v/etl-terminated is empty"},
	} {
		before := s
		s.mains = []mainState{r.follow(s.mains[0], seen.State)}
		log.Reset()
		l.logTurn(before, s, event{})
		if got := log.String(); !strings.Contains(got, seen.text) || seen.text == "" && got != "" {
			t.Errorf("after %+v the log is %q, not %q", seen.State, got, seen.text)
		}
	}
}
