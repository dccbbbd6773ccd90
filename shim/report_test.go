package shim

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
)

// TestWarnNotBegun: the warning names those that have not begun, and only them.
func TestWarnNotBegun(t *testing.T) {
	var log bytes.Buffer
	l := &loop{
		Config: Config{Mains: []string{"etl", "load", "clean"}, Log: zerolog.New(&log)},
		began:  time.Now().Add(-time.Minute),
		state:  newState(3),
	}
	r := Config{}.rules(true)
	l.state, _ = r.next(l.state, saw(running, notStarted, ended(3))) // the last is stale
	l.warnNotBegun(false)
	for _, text := range []string{"load has not begun after 1m0s", "clean has not begun", "--dir", "sentinel", "--main"} {
		if !strings.Contains(log.String(), text) {
			t.Errorf("%q is not in it:\n%s", text, &log)
		}
	}
	if strings.Contains(log.String(), "etl has not begun") {
		t.Errorf("etl has begun:\n%s", &log)
	}
}

// TestTell: what has become of a main is told once.
func TestTell(t *testing.T) {
	var log bytes.Buffer
	l := &loop{Config: Config{Dir: "/v", Mains: []string{"etl"}, Command: []string{"/bin/proxy"}, LostAfter: time.Minute, Log: zerolog.New(&log).Level(zerolog.InfoLevel)}}
	r := Config{}.rules(false)
	s := newState(1)
	s.phase = up
	for _, seen := range []struct {
		lifetime.State
		text string // "" is nothing
	}{
		{notStarted, ""},
		{running, "etl is running"},
		{running, ""},
		{nextRunning, ""}, // or the heartbeat
		{ended(3), "etl exited 3"},
		{ended(3), ""},
		{unverified, "lost if the file stands still for 1m0s (--lost-after)"},
		{beating, ""},
		{lost, "etl was killed before it could record an exit code"},
		{unreadable, "/v/etl-terminated holds no exit code"},
		{touched, "/v/etl-terminated is empty"},
	} {
		before := s
		s.mains = []mainState{r.follow(s.mains[0], seen.State)}
		log.Reset()
		l.tell(before, s, event{})
		if got := log.String(); !strings.Contains(got, seen.text) || seen.text == "" && got != "" {
			t.Errorf("after %+v it tells %q, not %q", seen.State, got, seen.text)
		}
	}
}
