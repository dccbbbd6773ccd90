package shim

import (
	"context"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/sentinel-shim/sentinel-shim/sentinel"
	"github.com/sentinel-shim/sentinel-shim/sentinel/exitcode"
	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
)

// The programs of the simulated pod. They are the real code: the steps of package sentinel, the contract of package
// lifetime, and the turns of a shim. Only what a shim's loop waits for is simulated (simulated_pod_test.go).
//
// The code of a program is cut into procedures: between two of them, the program keeps what it knows in a
// procedure's fields, and nothing on its stack. To take one step, a procedure is played from its start with the
// results of the steps that it has taken before, up to the first new call: see replayVolume. Each point that a
// program has reached is a node, and is played only once.

// procedure is a part of a program's code, and all that the program knows when it starts this part.
type procedure struct {
	kind  procedureKind
	actor int
	// What the program knows.
	run   *lifetime.Run
	file  uint8 // of the run, plus 1
	code  int
	rules rules
	state state
	mains []lifetime.Observer
	// What has woken it.
	at       time.Duration
	elapsed  time.Duration
	interval time.Duration // until the next look if no event comes before
	term     bool
	launched bool
	// What it has seen so far.
	seen      []lifetime.State
	snapshots int
	pending   bool
	// polls: the program repeats this procedure, with a pause in between.
	polls bool
}

type procedureKind uint8

const (
	// The steps of a sentinel. A shim has the first and the last two, too.
	beginning = procedureKind(sentinel.Begin)
	atBarrier = procedureKind(sentinel.AwaitSidecars)
	launching = procedureKind(sentinel.Launch)
	inCommand = procedureKind(sentinel.Supervise) // waiting for main's command to end
	ending    = procedureKind(sentinel.End)
	exiting   = procedureKind(sentinel.Exit)
)

const (
	writing procedureKind = exiting + 1 + iota // the end of a foreign main
	watching
	turning // looking at the mains
	acting  // upon what was seen
	resting // waiting for something to happen
)

// maxMains is how many mains a shim may follow.
const maxMains = 2

// procedureKey, stateKey and exitKey are comparable values that identify a procedure: all of its fields but the
// run, which follows from the others. See TestKeysAreWhole.
type procedureKey struct {
	kind                  procedureKind
	actor                 int
	file                  uint8
	code                  int
	rules                 rules
	state                 stateKey
	mains                 [maxMains]lifetime.Observer
	at, elapsed, interval time.Duration
	term, launched        bool
	seen                  [maxMains]lifetime.State
	known                 int // how many of seen count
	snapshots             int
	pending, polls        bool
}

type stateKey struct {
	phase                 phase
	mains                 [maxMains]mainState
	holdUntil, drainUntil time.Duration
	why                   reason
	exit                  exitKey
	warned                int
}

type exitKey struct {
	decided bool
	code    int
	mains   [maxMains]mainState
	known   int // how many of mains count
}

func (p *procedure) key() procedureKey {
	s := &p.state
	state := stateKey{
		phase: s.phase, holdUntil: s.holdUntil, drainUntil: s.drainUntil, why: s.why, warned: s.warned,
		exit: exitKey{decided: s.exit.decided, code: s.exit.code, known: len(s.exit.mains)},
	}
	copy(state.mains[:], s.mains)
	copy(state.exit.mains[:], s.exit.mains)
	key := procedureKey{
		kind: p.kind, actor: p.actor, file: p.file, code: p.code, rules: p.rules, state: state,
		at: p.at, elapsed: p.elapsed, interval: p.interval, term: p.term, launched: p.launched,
		known: len(p.seen), snapshots: p.snapshots, pending: p.pending, polls: p.polls,
	}
	copy(key.mains[:], p.mains)
	copy(key.seen[:], p.seen)
	return key
}

// node is a point in a program, with everything that the program knows there.
type node struct {
	parent int32 // the node before in the same procedure, or -1
	result result
	proc   *procedure
	op     op // the next step, if the procedure has one
}

type edge struct {
	from   int32
	result result
}

// steps reports whether the program takes its next step without waiting.
func (n *node) steps() bool {
	switch n.proc.kind {
	case inCommand, resting, exiting:
		return false
	}
	return true
}

// start returns the first node of a procedure.
func (s *sim) start(p *procedure) int32 {
	key := p.key()
	if id, ok := s.roots[key]; ok {
		return id
	}
	id := s.play(p, -1, result{})
	s.roots[key] = id
	return id
}

// advance returns the node after a step with that result.
func (s *sim) advance(from int32, r result) int32 {
	e := edge{from, r}
	if id, ok := s.next[e]; ok {
		return id
	}
	id := s.play(s.nodes[from].proc, from, r)
	s.next[e] = id
	return id
}

// play runs the code up to its next step.
func (s *sim) play(p *procedure, parent int32, last result) int32 {
	n := node{parent: parent, result: last, proc: p}
	if n.steps() {
		var taken []result
		if parent >= 0 {
			taken = append(taken, last)
			for id := parent; s.nodes[id].parent >= 0; id = s.nodes[id].parent {
				taken = append(taken, s.nodes[id].result)
			}
			slices.Reverse(taken)
		}
		var after *procedure
		if s.replayVolume.play(taken, func() { after = s.perform(*p) }) {
			return s.start(after)
		}
		n.op = s.replayVolume.next
	}
	s.nodes = append(s.nodes, n)
	return int32(len(s.nodes) - 1)
}

// perform runs the code of a procedure, and returns the next procedure of the program.
func (s *sim) perform(p procedure) *procedure {
	if p.actor < s.mains {
		s.performSentinel(&p)
	} else {
		s.performShim(&p)
	}
	return &p
}

func (s *sim) performSentinel(p *procedure) {
	t := s.replayVolume
	switch {
	case p.kind == writing: // echo $? > main-terminated
		file := t.do(op{kind: opForeign, name: t.name(s.nameOfRun(p.actor) + "-terminated")}).file
		t.do(op{kind: opWriteAt, file: file, content: s.content(fmt.Sprintln(p.code))})
		p.kind = exiting
	case p.kind == inCommand && s.foreign:
		p.kind = writing
	default:
		next := sentinel.Progress{Step: sentinel.Step(p.kind), Code: p.code}.Next(s.actions(p))
		p.kind, p.code = procedureKind(next.Step), next.Code
	}
	if p.kind == exiting {
		*p = procedure{kind: exiting, actor: p.actor, code: p.code}
	}
}

// actions are what a sentinel's steps do.
func (s *sim) actions(p *procedure) sentinel.Actions {
	t := s.replayVolume
	return sentinel.Actions{
		Begin: func() (restarted bool, err error) {
			restarted = s.begin(p)
			return restarted && s.defect != noBarrier, nil
		},
		AwaitSidecars: func() (done bool, err error) {
			p.polls = true
			return len(lifetime.StoppingRuns(context.Background(), t)) == 0, nil
		},
		AwaitTargets: func() error { return nil },
		Launch: func() error {
			t.do(op{kind: opLaunch})
			return nil
		},
		// moveCommand has set the code.
		Supervise:  func() (code int) { return p.code },
		NotStarted: func(err error) (code int) { panic(err) },
		End:        func(code int) { s.end(p, code) },
	}
}

// begin begins a run.
func (s *sim) begin(p *procedure) (restarted bool) {
	run, restarted, err := lifetime.Begin(context.Background(), s.replayVolume, s.nameOfRun(p.actor), nil)
	if err != nil {
		panic(fmt.Sprintf("Begin of %s: %v", s.nameOfRun(p.actor), err))
	}
	p.run, p.file = run, s.replayVolume.created+1
	return restarted
}

// end ends a run, if one has begun.
func (s *sim) end(p *procedure, code int) {
	if p.run == nil {
		return
	}
	if err := p.run.End(code); err != nil && !s.refusesEnds {
		panic(fmt.Sprintf("End of %s: %v", s.nameOfRun(p.actor), err))
	}
}

func (s *sim) performShim(p *procedure) {
	t := s.replayVolume
	switch p.kind {
	case watching:
		t.do(op{kind: opWatch})
		p.interval = simTick
		p.state = newState(len(s.shim(p.actor).mains))
		for _, main := range s.shim(p.actor).mains {
			p.mains = append(p.mains, lifetime.NewObserver(t, s.nameOfRun(main), s.lostAfter))
		}
		p.kind = beginning
		if s.shim(p.actor).readOnly {
			p.kind, p.rules = turning, s.rulesOf(p.actor, false)
		}
	case beginning:
		p.kind, p.rules = turning, s.rulesOf(p.actor, s.begin(p))
	case turning:
		s.takeSnapshot(p)
	case acting:
		s.act(p)
	case ending:
		s.end(p, p.code)
		*p = procedure{kind: exiting, actor: p.actor, code: p.code}
	}
}

// rulesOf returns the rules of a shim.
func (s *sim) rulesOf(actor int, ranBefore bool) rules {
	c := s.shim(actor)
	r := Config{
		Drain: c.drain, Hold: c.hold, StartTimeout: c.startTimeout,
		KeepOnFailure: c.keep, NativeSidecar: c.native, RestartPolicy: c.declared,
	}.rules(ranBefore)
	r.cannotAnnounce = c.readOnly
	switch s.defect {
	case alwaysStale:
		r.staleAtStart = true
	case neverStale:
		r.staleAtStart = false
	case notNative:
		r.nativeSidecar = false
	}
	return r
}

// takeSnapshot is one attempt of Observer.Look. Each attempt is a procedure of its own: after an inconsistent
// one, the program knows only how many there were.
func (s *sim) takeSnapshot(p *procedure) {
	t, m := s.replayVolume, len(p.seen)
	o := p.mains[m]
	if p.snapshots == 0 {
		p.pending = t.do(op{kind: opPending, main: uint8(m)}).yes
	}
	seen, locked, consistent := o.Snapshot(p.pending)
	if p.snapshots++; !consistent && p.snapshots < lifetime.MaxAttempts {
		return
	}
	if locked != nil {
		t.do(op{kind: opAwait, main: uint8(m), file: locked.(*replayFile).number})
	}
	state := o.Update(seen, p.pending, p.elapsed)
	p.mains, p.seen = slices.Clone(p.mains), append(slices.Clone(p.seen), state)
	p.mains[m], p.snapshots, p.pending = o, 0, false
	p.interval = min(p.interval, lifetime.PollInterval(state, false))
	if len(p.seen) == len(p.mains) {
		p.kind, p.elapsed = acting, 0
	}
}

// act is a turn of a shim's loop after the look.
func (s *sim) act(p *procedure) {
	p.state = p.rules.turn(s.dependencies(p), p.state, event{term: p.term})
	p.term = false
	switch {
	case p.state.looksAgain() && s.defect == noConfirming:
		// The next turn uses the same look.
	case p.state.looksAgain():
		p.kind, p.seen, p.interval = turning, nil, simTick
	case p.state.phase == finished:
		code := p.state.exit.code
		if !p.launched {
			s.replayVolume.do(op{kind: opDecided, why: p.state.why})
		}
		if s.defect == zeroIfKilled && code == exitcode.Lost {
			code = exitcode.OK
		}
		s.replayVolume.do(op{kind: opEnds, content: uint8(code)})
		*p = procedure{kind: ending, actor: p.actor, run: p.run, file: p.file, code: code}
	default:
		p.kind, p.seen, p.at = resting, nil, 0
	}
}

// dependencies are those of a shim in the simulated pod.
func (s *sim) dependencies(p *procedure) dependencies {
	t := s.replayVolume
	return dependencies{
		now:  func() time.Duration { return p.at },
		look: func() []lifetime.State { return p.seen },
		sidecar: func() (exited, gone bool, code int) {
			look := op{kind: opSidecar}
			for i, state := range p.seen {
				if state.Phase == lifetime.Ended && state.Cause == lifetime.Lost {
					look.lost |= 1 << i
				}
			}
			switch t.do(look).side {
			case sidecarUp, sidecarStopping:
				return false, false, exitcode.Lost
			case sidecarDied:
				return true, true, sidecarCode
			case sidecarStopped:
				return true, true, exitcode.OfSignal(syscall.SIGTERM)
			}
			return false, false, exitcode.OK
		},
		do: func(a action, from, to state) error {
			switch a {
			case launch:
				t.do(op{kind: opLaunch})
				p.launched = true
			case announceStopping:
				if p.run != nil {
					_ = p.run.AnnounceStopping()
				}
			case retractStopping:
				if p.run != nil {
					_ = p.run.RetractStopping()
				}
			case stop:
				t.do(op{kind: opStop, why: to.why, drained: from.phase == draining})
			}
			return nil
		},
	}
}
