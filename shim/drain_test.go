package shim

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

// TestLogDrainCutOff: a SIGTERM that came before the look that saw main's end has left nothing of --drain.
func TestLogDrainCutOff(t *testing.T) {
	const cutOff = "--drain was cut off by SIGTERM after 0s of 3s: "
	for _, c := range []struct {
		name  string
		from  phase
		why   reason
		ended bool // main has
		drain time.Duration
		want  bool
	}{
		{"main has ended", confirming, terminated, true, 3 * time.Second, true},
		{"main has not ended", confirming, terminated, false, 3 * time.Second, false},
		{"no --drain", confirming, terminated, true, 0, false},
		{"no SIGTERM: the sidecar has ended", confirming, mainEnded, true, 3 * time.Second, false},
		{"--drain is over", draining, terminated, true, 3 * time.Second, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var log bytes.Buffer
			l := &loop{
				Config: Config{
					Mains: []string{"main"}, Command: []string{"/bin/proxy"}, Drain: c.drain,
					Log: zerolog.New(&log).Level(zerolog.InfoLevel),
				},
				began: time.Now().Add(-time.Hour),
			}
			main := mainState{State: running}
			if c.ended {
				main = mainState{State: ended(3)}
			}
			mains := []mainState{main}
			l.logTurn(state{phase: c.from, mains: mains}, state{phase: stopping, why: c.why, mains: mains}, event{})
			if strings.Contains(log.String(), cutOff) != c.want || strings.Contains(log.String(), "cut off") != c.want {
				t.Errorf("whether it says %q should be %v:\n%s", cutOff, c.want, &log)
			}
		})
	}
}

// TestLogNativeDrain: the time that a native sidecar is kept after main's end counts towards --drain.
func TestLogNativeDrain(t *testing.T) {
	for _, c := range []struct {
		name string
		kept time.Duration
		want string
	}{
		{"longer than --drain", 4 * time.Second, ""},
		{"not as long", time.Second, "--drain was cut off by SIGTERM after 1s of 3s: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			var log bytes.Buffer
			l := &loop{
				Config: Config{
					Mains: []string{"main"}, Command: []string{"/bin/proxy"}, Drain: 3 * time.Second,
					Log: zerolog.New(&log).Level(zerolog.InfoLevel),
				},
				rules: rules{nativeSidecar: true},
				began: time.Now().Add(-time.Hour),
			}
			working, success := []mainState{{State: running}}, []mainState{{State: ended(0)}}
			l.logTurn(state{phase: up, mains: working}, state{phase: up, mains: success}, event{})
			l.began = l.began.Add(-c.kept)
			l.logTurn(state{phase: confirming, mains: success},
				state{phase: stopping, why: terminated, mains: success}, event{})
			if !strings.Contains(log.String(), "is kept until the kubelet's SIGTERM (--native-sidecar)") {
				t.Errorf("it does not say that the sidecar is kept:\n%s", &log)
			}
			if strings.Contains(log.String(), "cut off") != (c.want != "") || !strings.Contains(log.String(), c.want) {
				t.Errorf("want %q:\n%s", c.want, &log)
			}
		})
	}
}
