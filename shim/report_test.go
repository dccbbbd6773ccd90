package shim

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
	"github.com/sentinel-shim/sentinel-shim/sentinel/process"
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
	for _, text := range []string{
		"load has not begun after 1m0s", "clean has not begun", "--dir", "sentinel", "--main",
	} {
		if !strings.Contains(log.String(), text) {
			t.Errorf("%q is not in the warning:\n%s", text, &log)
		}
	}
	if strings.Contains(log.String(), "etl has not begun") {
		t.Errorf("the warning names etl, which has begun:\n%s", &log)
	}
}

// noRoom is a main whose end was written to a full volume.
var noRoom = lifetime.State{Phase: lifetime.Ended, Code: 125, Cause: lifetime.NoRoom, ID: ids[4]}

// TestLogNotBegunNamesOthers: the warning names the runs on the volume that are neither a main's nor the shim's own.
// The first warning is only given if there are such runs.
func TestLogNotBegunNamesOthers(t *testing.T) {
	var log bytes.Buffer
	dir := t.TempDir()
	l := &loop{
		Config: Config{Dir: dir, Name: "proxy", Mains: []string{"etl", "load"}, Log: zerolog.New(&log)},
		began:  time.Now(),
		state:  newState(2),
	}
	warning := func(first bool) string {
		log.Reset()
		l.logNotBegun(first)
		return log.String()
	}
	end := func(name string) {
		if err := os.WriteFile(lifetime.TerminatedPath(dir, name), []byte("0\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	end("proxy")
	end("load")
	if got := warning(true); got != "" {
		t.Errorf("without another run, the first warning is %q, want none", got)
	}
	if got := warning(false); !strings.Contains(got, "etl has not begun after 0s, no other run is on the volume: ") {
		t.Errorf("without another run, a later warning is %q", got)
	}
	end("haproxy")
	const want = "etl has not begun after 0s, the other runs on the volume are haproxy: "
	for _, first := range []bool{true, false} {
		if got := warning(first); !strings.Contains(got, want) {
			t.Errorf("the warning with another run is %q, want %q in it", got, want)
		}
	}
}

// TestLogPhases: at each change of phase, the log says what the shim does.
func TestLogPhases(t *testing.T) {
	var log bytes.Buffer
	const sinceStart = time.Hour
	l := &loop{
		Config: Config{
			Command: []string{"/bin/proxy"}, StopSignal: syscall.SIGQUIT,
			Hold: 15 * time.Second, Drain: 3 * time.Second,
			Log: zerolog.New(&log).Level(zerolog.InfoLevel),
		},
		began:   time.Now().Add(-sinceStart),
		process: new(process.Process),
	}
	for _, c := range []struct {
		from, to phase
		why      reason
		left     time.Duration // of the drain
		term     bool
		text     string // what the log has; "": nothing is logged
		not      string // what it does not have
	}{
		{from: starting, to: up, text: "proxy started"},
		{from: up, to: up},
		{from: confirming, to: up, text: "proxy is kept: main has begun"},
		{from: up, to: holding, text: "asked to stop: proxy is kept until main has ended, at most 15s (--hold)"},
		{from: confirming, to: draining, left: 3 * time.Second, text: "main has ended: proxy is kept for 3s (--drain)"},
		{from: confirming, to: draining, left: time.Second, text: "main has ended: proxy is kept for 3s (--drain)"},
		{
			from: confirming, to: draining, why: terminated, left: 4 * time.Second,
			text: "main has ended: proxy is kept for 3s (--drain)",
		},
		{
			from: confirming, to: draining, why: terminated, left: time.Second,
			text: "the rest of --hold 15s (--drain is 3s)",
		},
		{from: draining, to: stopping, term: true, text: "--drain was cut off by SIGTERM after ", not: "after 1h"},
		{from: draining, to: stopping, text: "stopping proxy with SIGQUIT", not: "cut off"},
		{from: holding, to: stopping, term: true, text: "stopping proxy with SIGQUIT", not: "cut off"},
		{from: stopping, to: finished},
	} {
		log.Reset()
		before, now := newState(0), newState(0)
		before.phase, now.phase, now.why, now.drainUntil = c.from, c.to, c.why, l.now()+c.left
		l.logTurn(before, now, event{term: c.term})
		got := log.String()
		if !strings.Contains(got, c.text) || c.text == "" && got != "" || c.not != "" && strings.Contains(got, c.not) {
			t.Errorf("from %s to %s the log is %q, want %q in it, but not %q", c.from, c.to, got, c.text, c.not)
		}
	}
}

// TestLogStates: level debug logs each decision and what was seen then, level trace also all other looks.
func TestLogStates(t *testing.T) {
	var log bytes.Buffer
	stale := mainState{State: ended(3), stale: true}
	seen := []mainState{
		{State: notStarted}, {State: unsettled}, {State: running}, {State: unverified}, {State: ended(4)}, stale,
	}
	const all = `["a not started","b not settled","c running","d unverified","e ended 4",` +
		`"f ended 3, in an earlier attempt"`
	for _, c := range []struct {
		level zerolog.Level
		to    phase
		term  bool
		want  []string // nil: nothing is logged
	}{
		{zerolog.InfoLevel, confirming, false, nil},
		{zerolog.DebugLevel, up, false, nil},
		{zerolog.DebugLevel, confirming, false, []string{all + "]", "from up to confirming"}},
		{zerolog.DebugLevel, confirming, true, []string{all + `,"SIGTERM"]`, "from up to confirming"}},
		{zerolog.TraceLevel, up, false, []string{all + "]", "nothing to do"}},
	} {
		log.Reset()
		l := &loop{Config: Config{Mains: []string{"a", "b", "c", "d", "e", "f"}, Log: zerolog.New(&log).Level(c.level)}}
		l.logTurn(state{phase: up, mains: seen}, state{phase: c.to, mains: seen}, event{term: c.term})
		for _, text := range c.want {
			if !strings.Contains(log.String(), text) {
				t.Errorf("at level %s the log is %q, want %q in it", c.level, &log, text)
			}
		}
		if c.want == nil && log.Len() > 0 {
			t.Errorf("at level %s the log is %q, want nothing", c.level, &log)
		}
	}
}

// TestSummary: the summary says why the shim has ended, and how its sidecar has.
func TestSummary(t *testing.T) {
	none, sidecar := (*process.Process)(nil), new(process.Process)
	ends := func(states ...lifetime.State) (ends []mainState) {
		for _, s := range states {
			ends = append(ends, mainState{State: s})
		}
		return ends
	}
	stopped := func(s process.Stopped) *process.Stopped { return &s }
	killed := func(exited bool, survivors ...string) *process.Stopped {
		return &process.Stopped{Killed: true, Exited: exited, Survivors: survivors}
	}
	for _, c := range []struct {
		want    string
		why     reason
		ends    []mainState
		process *process.Process
		stopped *process.Stopped
		failed  error
	}{
		{"proxy was not started: no such file", mainEnded, nil, none, nil, errors.New("no such file")},
		{"main exited 3; proxy was not started", mainEnded, ends(ended(3)), none, nil, nil},
		{
			"main exited 0, other was killed (137); proxy was not started",
			mainEnded, ends(ended(0), lost), none, nil, nil,
		},
		{
			"main left no exit code (125), other left no exit code (125); proxy was not started",
			mainEnded, ends(unreadable, noRoom), none, nil, nil,
		},
		{"asked to stop; proxy was not started", terminated, nil, none, nil, nil},
		{"asked to stop, main exited 3; proxy was not started", terminated, ends(ended(3)), none, nil, nil},
		{
			"main did not begin within --start-timeout 1m0s; proxy exited 0 by itself",
			startTimedOut, nil, sidecar, nil, nil,
		},
		{"main exited 3; proxy exited 0 by itself", mainEnded, ends(ended(3)), sidecar, nil, nil},
		{"proxy exited 0 by itself before main had ended", sidecarEnded, nil, sidecar, stopped(process.Stopped{}), nil},
		{
			"main exited 3; proxy stopped by SIGQUIT in 1.5s",
			mainEnded, ends(ended(3)), sidecar, stopped(process.Stopped{Exited: true}), nil,
		},
		{
			"asked to stop; proxy was not stopped: not permitted",
			terminated, nil, sidecar, stopped(process.Stopped{Refused: errors.New("not permitted")}), nil,
		},
		{
			"asked to stop; proxy did not stop within 10s of SIGQUIT and was killed",
			terminated, nil, sidecar, killed(false, "x"), nil,
		},
		{
			"asked to stop; proxy ended, but tail did not stop within 10s (--grace-period) and had to be killed",
			terminated, nil, sidecar, killed(true, "tail"), nil,
		},
		{
			"asked to stop; proxy ended, but tail, sh did not stop within",
			terminated, nil, sidecar, killed(true, "tail", "sh"), nil,
		},
		{
			"asked to stop; proxy ended, but processes that it had started did not stop within",
			terminated, nil, sidecar, killed(true), nil,
		},
	} {
		l := &loop{
			Config: Config{
				Mains: []string{"main", "other"}, Command: []string{"/bin/proxy"},
				StopSignal: syscall.SIGQUIT, GracePeriod: 10 * time.Second, StartTimeout: time.Minute,
			},
			state:   state{why: c.why, exit: exit{mains: c.ends}},
			process: c.process, stopped: c.stopped, launchErr: c.failed,
			stopTook: 1500 * time.Millisecond,
		}
		if got := l.summary(); !strings.HasPrefix(got, c.want) {
			t.Errorf("the summary is %q, want %q", got, c.want)
		}
	}
	for want, status := range map[string]process.Status{
		"proxy exited 9 by itself": {Code: 9},
		"proxy died of SIGHUP":     {Code: 129, Signal: syscall.SIGHUP},
		"the kernel says nothing":  {Code: 125, Err: errors.New("the kernel says nothing")},
	} {
		if got := describeStatus("proxy", status); got != want {
			t.Errorf("the status %+v is described as %q, want %q", status, got, want)
		}
	}
}

// TestTerminationMessage: the termination message says how the shim has ended. kubectl describe pod shows it.
func TestTerminationMessage(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(lifetime.TerminatedPath(dir, "main"), []byte("3\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]string{
		dir:                        "main exited 3; sleep was not started\n",
		filepath.Join(dir, "none"): "sleep was not started: the volume ",
	} {
		file := filepath.Join(t.TempDir(), "termination-log")
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		Run(Config{
			Dir: dir, Name: "proxy", Mains: []string{"main"}, Command: []string{"/bin/sleep"}, LostAfter: time.Hour,
			TerminationLog: file, Log: zerolog.New(zerolog.NewTestWriter(t)),
		})
		message, err := os.ReadFile(file)
		if err != nil || !strings.HasPrefix(string(message), want) {
			t.Errorf("the message is %q (error: %v), want %q", message, err, want)
		}
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
		{nextRunning, ""}, // the next run, or a heartbeat
		{ended(3), `etl exited 3"`},
		{ended(3), ""},
		{unverified, "counts as lost if the file does not change for 1m0s (--lost-after)"},
		{beating, ""},
		{lost, "etl was killed before it could record an exit code"},
		{unreadable, "/v/etl-terminated holds no exit code"},
		{touched, "/v/etl-terminated is empty: counted as a success"},
		{noRoom, "/v/etl-terminated is empty and the volume is full"},
		{running, "etl is running"},
		{lost, "etl was killed before it could record an exit code"}, // the same file
	} {
		before := s
		s.mains = []mainState{r.follow(s.mains[0], seen.State)}
		log.Reset()
		l.logTurn(before, s, event{})
		if got := log.String(); !strings.Contains(got, seen.text) || seen.text == "" && got != "" {
			t.Errorf("after %+v the log is %q, want %q in it", seen.State, got, seen.text)
		}
	}
}
