package shim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
)

// The paths through the rules: every one for a shim of one main, random ones for several mains.

// world is a shim's state, its sidecar and its word on the volume. It performs the actions of the rules, and
// records the first thing that contradicts the design.
type world struct {
	rules         rules
	s             state
	now           time.Duration
	launched      bool
	stopped       bool
	announced     bool // "stopping" is on the volume
	sidecar       sidecar
	status        int // the sidecar's exit code, once it has ended
	contradiction string
}

// sidecar is the state of a sidecar that was launched.
type sidecar int

const (
	alive    sidecar = iota
	leftOver         // its process has ended and has left others behind
	allGone          // no process of it is left
)

// contradict records the first contradiction.
func (w *world) contradict(format string, args ...any) {
	if w.contradiction == "" {
		w.contradiction = fmt.Sprintf(format, args...)
	}
}

// end ends the sidecar, if it was launched and has not ended as completely before.
func (w *world) end(how sidecar, status int) {
	if !w.launched || how <= w.sidecar {
		return
	}
	if w.sidecar == alive {
		w.status = status
	}
	w.sidecar = how
}

// play gives the rules an event: a look that shows these mains and the present state of the sidecar.
func (w *world) play(term bool, mains ...lifetime.State) {
	before := w.s.phase
	e := event{at: w.now, mains: mains, term: term && before != confirming, status: 137}
	if w.sidecar != alive {
		e.exited, e.status, e.gone = true, w.status, w.sidecar == allGone
	}
	next, do := w.rules.next(w.s, e)
	w.s = next
	for _, a := range do {
		switch a {
		case launch:
			if w.launched || before != starting {
				w.contradict("the sidecar is launched in phase %v (launched before: %v)", before, w.launched)
			}
			w.launched = true
		case stop:
			if w.stopped || !w.launched || !w.announced {
				w.contradict("the sidecar is stopped (launched: %v, stopped before: %v, announced: %v)",
					w.launched, w.stopped, w.announced)
			}
			w.stopped = true
		case announceStopping:
			w.announced = true
		case retractStopping:
			if !w.announced || w.stopped {
				w.contradict("\"stopping\" is retracted (announced: %v, sidecar stopped: %v)", w.announced, w.stopped)
			}
			w.announced = false
		}
	}
	mustAnnounce := slices.Contains([]phase{confirming, draining, stopping}, w.s.phase)
	if w.s.phase != finished && mustAnnounce != w.announced {
		w.contradict("in phase %v, \"stopping\" is on the volume: %v", w.s.phase, w.announced)
	}
	if w.s.phase == stopping && !w.stopped {
		w.contradict("in phase stopping, the sidecar was not stopped")
	}
	if w.s.phase == finished {
		w.checkEnd(e)
	}
}

// checkEnd checks the exit code.
func (w *world) checkEnd(e event) {
	if !w.s.exit.decided {
		w.contradict("finished without an exit code")
	}
	if w.launched && !e.gone {
		w.contradict("finished while a process of the sidecar was left")
	}
	succeeded := len(w.s.exit.mains) > 0
	for _, m := range w.s.exit.mains {
		succeeded = succeeded && m.Phase == lifetime.Ended && m.Code == 0 && !m.stale
	}
	if w.s.exit.code == 0 && !succeeded && (!e.exited || e.status != 0) {
		w.contradict("the exit code is 0, but the mains are %+v and the sidecar's code is %d", w.s.exit.mains, e.status)
	}
}

// distinctStates are all states of a main that the rules distinguish.
var distinctStates = []lifetime.State{
	notStarted, unsettled, running, unverified, lost, silent, unreadable, ended(3), endedAnew(0),
}

// allRules returns the rules for every combination of these flags.
func allRules() (all []rules) {
	for _, cfg := range []Config{
		{RestartPolicy: Never}, {RestartPolicy: OnFailure}, {KeepOnFailure: true},
		{NativeSidecar: true, RestartPolicy: Never}, {NativeSidecar: true},
	} {
		for _, cfg.Drain = range []time.Duration{0, 5 * time.Second} {
			for _, cfg.Hold = range []time.Duration{0, 15 * time.Second} {
				for _, cfg.StartTimeout = range []time.Duration{0, 30 * time.Second} {
					all = append(all, cfg.rules(false))
				}
			}
		}
	}
	return all
}

// worldKey identifies a world of one main. Two worlds that differ only in the time since the start are the same.
type worldKey struct {
	sidecar      sidecar
	phase        phase
	why          reason
	decided      bool
	status, code int
	warned       int
	hold, drain  time.Duration // what is left of them
	wake         time.Duration // until wakeAt
	main, end    mainState
}

func (w *world) key() worldKey {
	s := w.s
	at := worldKey{
		sidecar: w.sidecar, phase: s.phase, why: s.why, decided: s.exit.decided,
		status: w.status, code: s.exit.code, warned: s.warned, main: s.mains[0],
	}
	if s.holdUntil > 0 {
		at.hold = s.holdUntil - w.now
	}
	if s.phase == draining {
		at.drain = s.drainUntil - w.now
	}
	if wake := w.rules.wakeAt(s); wake > 0 {
		at.wake = wake - w.now
	}
	if len(s.exit.mains) > 0 {
		at.end = s.exit.mains[0]
	}
	return at
}

// TestEveryPath gives a shim of one main all events in every order, and checks every path.
func TestEveryPath(t *testing.T) {
	for _, r := range allRules() {
		t.Run(fmt.Sprintf("%+v", r), func(t *testing.T) {
			t.Parallel()
			seen := make(map[worldKey]bool)
			for todo := []world{{rules: r, s: newState(1)}}; len(todo) > 0; {
				w := todo[len(todo)-1]
				todo = todo[:len(todo)-1]
				if w.s.phase == finished || seen[w.key()] {
					continue
				}
				seen[w.key()] = true
				checkTermination(t, w)
				for _, then := range successors(w) {
					if then.contradiction != "" {
						t.Fatalf("from %+v to %+v: %s", w.s, then.s, then.contradiction)
					}
					todo = append(todo, then)
				}
			}
			if len(seen) < 100 {
				t.Fatalf("only %d states were found, want at least 100", len(seen))
			}
		})
	}
}

// successors returns all worlds that one event can lead to.
func successors(w world) (worlds []world) {
	clocks := []time.Duration{w.now}
	if at := w.rules.wakeAt(w.s); at > w.now {
		clocks = append(clocks, at)
	}
	sidecars := []world{w}
	for how := w.sidecar + 1; w.launched && how <= allGone; how++ {
		for _, status := range []int{0, 9} {
			ended := w
			ended.end(how, status)
			sidecars = append(sidecars, ended)
		}
	}
	for _, then := range sidecars {
		for _, then.now = range clocks {
			for _, main := range distinctStates {
				for _, term := range []bool{false, true} {
					then := then
					then.play(term, main)
					worlds = append(worlds, then)
				}
			}
		}
	}
	return worlds
}

// checkTermination checks that the shim ends from this state when it must.
func checkTermination(t *testing.T, w world) {
	t.Helper()
	mains := len(w.s.mains)
	succeed := slices.Repeat([]lifetime.State{endedAnew(0)}, mains)
	runOn := slices.Repeat([]lifetime.State{running}, mains)
	free := !w.s.exit.decided && w.s.why != terminated && w.sidecar == alive

	end := w.playOut(t, "the mains succeed", func(w *world, _ int) {
		w.play(w.s.phase == up && w.rules.leftToKubelet(w.s), succeed...)
	})
	if free && end.s.exit.code != 0 {
		t.Fatalf("from %+v: the mains succeed, but the exit code is %d", w.s, end.s.exit.code)
	}
	w.playOut(t, "the sidecar ends", func(w *world, _ int) {
		w.end(allGone, 5)
		w.play(false, runOn...)
	})
	w.playOut(t, "SIGTERM comes twice, the mains run on", func(w *world, i int) { w.play(i < 4, runOn...) })
	w.playOut(t, "SIGTERM comes, the mains run on, time passes", func(w *world, _ int) {
		w.play(w.s.phase == up || w.s.phase == starting, runOn...)
	})
}

// playOut repeats an event until the shim ends. Meanwhile, a sidecar that was stopped ends, and time passes.
func (w world) playOut(t *testing.T, what string, play func(w *world, i int)) world {
	t.Helper()
	from := w.s
	for i := 0; w.s.phase != finished; i++ {
		if i == 12 {
			t.Fatalf("from %+v: %s, but after 12 events the shim has not ended: %+v", from, what, w.s)
		}
		if w.stopped {
			w.end(allGone, 143)
		}
		play(&w, i)
		if at := w.rules.wakeAt(w.s); at > 0 {
			w.now = at
		}
	}
	if w.contradiction != "" {
		t.Fatalf("from %+v: %s: %s", from, what, w.contradiction)
	}
	return w
}

// TestRandomWalks is TestEveryPath for several mains, at random: there are too many paths to try them all.
func TestRandomWalks(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	all := allRules()
	for walk := range 10_000 {
		w := world{rules: all[walk%len(all)], s: newState(2 + rng.IntN(2))}
		var path []world
		for range 30 {
			if w.s.phase == finished {
				break
			}
			mains := make([]lifetime.State, len(w.s.mains))
			for i := range mains {
				mains[i] = distinctStates[rng.IntN(len(distinctStates))]
			}
			if w.stopped && rng.IntN(3) == 0 || rng.IntN(30) == 0 {
				w.end(1+sidecar(rng.IntN(2)), []int{0, 9}[rng.IntN(2)])
			}
			if at := w.rules.wakeAt(w.s); at > 0 && rng.IntN(5) == 0 {
				w.now = at
			}
			w.play(rng.IntN(10) == 0, mains...)
			path = append(path, w)
			if w.contradiction != "" {
				for _, w := range path {
					t.Logf("%+v", w.s)
				}
				t.Fatalf("walk %d, rules %+v: %s", walk, w.rules, w.contradiction)
			}
		}
		checkTermination(t, w)
	}
}
