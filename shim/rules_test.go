package shim

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
)

// The rules of the shim, as tables: rules_start_test.go, rules_end_test.go, rules_term_test.go and
// rules_wait_test.go. Their paths are in rules_paths_test.go.

// ids are the identities of different files. Only a look at real files returns identities.
var ids = func() (ids [8]lifetime.Identity) {
	dir, err := os.MkdirTemp("", "identities-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	for i := range ids {
		name := fmt.Sprint(i)
		if err := os.WriteFile(lifetime.TerminatedPath(dir, name), []byte("0\n"), 0o644); err != nil {
			panic(err)
		}
		w, _ := lifetime.Watch(lifetime.Dir(dir), []string{name}, 0)
		ids[i] = w.Look()[0].ID
		w.Close()
	}
	return ids
}()

// The states that a look at a main may return. nextRunning, beating and endedAnew have another file identity than
// running, unverified and ended.
var (
	notStarted  = lifetime.State{Phase: lifetime.NotStarted}
	unsettled   = lifetime.State{Phase: lifetime.Unsettled}
	running     = lifetime.State{Phase: lifetime.Running, ID: ids[0]}
	nextRunning = lifetime.State{Phase: lifetime.Running, ID: ids[1]}
	unverified  = lifetime.State{Phase: lifetime.Unverified, ID: ids[2]}
	beating     = lifetime.State{Phase: lifetime.Unverified, ID: ids[3]}
	lost        = lifetime.State{Phase: lifetime.Ended, Code: 137, Cause: lifetime.Lost, ID: ids[0]}
	silent      = lifetime.State{Phase: lifetime.Ended, Code: 137, Cause: lifetime.Lost, ID: ids[2], FoundDead: true}
	unreadable  = lifetime.State{Phase: lifetime.Ended, Code: 125, Cause: lifetime.Unreadable, ID: ids[4]}
	touched     = lifetime.State{Phase: lifetime.Ended, Code: 0, Cause: lifetime.Empty, ID: ids[5]}
)

func ended(code int) lifetime.State {
	return lifetime.State{Phase: lifetime.Ended, Code: code, ID: ids[6]}
}

func endedAnew(code int) lifetime.State {
	return lifetime.State{Phase: lifetime.Ended, Code: code, ID: ids[7]}
}

// saw is the event that a look has shown the mains in these states. after, term, exited and gone add to an event.
func saw(mains ...lifetime.State) event { return event{mains: mains, status: 137} }

func after(d time.Duration, e event) event { e.at = d; return e }
func term(e event) event                   { e.term = true; return e }
func exited(code int, e event) event       { e.exited, e.status = true, code; return e }
func gone(code int, e event) event         { e = exited(code, e); e.gone = true; return e }

// move is an event, and the phase and the actions that it must lead to.
type move struct {
	event
	then phase
	do   []action
}

func on(e event, then phase, do ...action) move { return move{e, then, do} }

// scenario is a row of a table: what happens to a shim, one event after the other.
type scenario struct {
	name           string
	cfg            Config
	ranBefore      bool
	cannotAnnounce bool // the volume is read-only
	moves          []move
	code           int           // checked if the last phase is finished
	why            reason        // checked if the last phase is finished
	wake           time.Duration // what wakeAt returns after the last move; 0 is not checked
}

func (a action) String() string {
	return [...]string{"launch", "announceStopping", "retractStopping", "stop", "warnNotBegun"}[a]
}

func (r reason) String() string {
	return [...]string{"mainEnded", "terminated", "startTimedOut", "sidecarEnded"}[r]
}

func TestRules(t *testing.T) {
	for _, row := range slices.Concat(
		scenariosAtStart, scenariosFoundDead, scenariosWithPolicy, scenariosWithSeveralMains,
		scenariosMainEnds, scenariosMainLost, scenariosEndMissed, scenariosBegunAgain, scenariosSidecarFirst,
		scenariosTerm, scenariosNotBegun, scenariosKept, scenariosNative,
	) {
		t.Run(row.name, func(t *testing.T) {
			r := row.cfg.rules(row.ranBefore)
			r.cannotAnnounce = row.cannotAnnounce
			s := newState(len(row.moves[0].mains))
			for i, m := range row.moves {
				var do []action
				s, do = r.next(s, m.event)
				if s.phase != m.then || !slices.Equal(do, m.do) {
					t.Fatalf("after event %d, the phase is %v and the actions are %v, want %v and %v",
						i+1, s.phase, do, m.then, m.do)
				}
			}
			if s.phase == finished && (!s.exit.decided || s.exit.code != row.code) {
				t.Fatalf("the exit code is %d (decided: %v), want %d", s.exit.code, s.exit.decided, row.code)
			}
			if s.phase == finished && s.why != row.why {
				t.Fatalf("the reason is %v, want %v", s.why, row.why)
			}
			if row.wake != 0 && r.wakeAt(s) != row.wake {
				t.Fatalf("wakeAt returns %v, want %v", r.wakeAt(s), row.wake)
			}
		})
	}
}

// TestWake: the time at which the rules must be asked again while the sidecar runs.
func TestWake(t *testing.T) {
	begun, missing := mainState{State: running, begun: true}, mainState{State: notStarted}
	for _, c := range []struct {
		name         string
		startTimeout time.Duration
		main         mainState
		warned       int
		want         time.Duration
	}{
		{"main has begun", time.Minute, begun, 0, 0},
		{"a warning is next", 0, missing, 0, 10 * time.Second},
		{"the next warning", 0, missing, 1, time.Minute},
		{"all warnings are given", 0, missing, 4, 0},
		{"--start-timeout is next", 5 * time.Second, missing, 0, 5 * time.Second},
		{"a warning before --start-timeout", 30 * time.Second, missing, 0, 10 * time.Second},
		{"--start-timeout after all warnings", 2 * time.Hour, missing, 4, 2 * time.Hour},
	} {
		r := Config{StartTimeout: c.startTimeout}.rules(false)
		if got := r.wakeAt(state{phase: up, mains: []mainState{c.main}, warned: c.warned}); got != c.want {
			t.Errorf("%s: wakeAt returns %s, want %s", c.name, got, c.want)
		}
	}
	if got := (rules{}).wakeAt(state{phase: stopping, drainUntil: time.Minute}); got != 0 {
		t.Errorf("while the sidecar is being stopped: wakeAt returns %s, want 0", got)
	}
}
