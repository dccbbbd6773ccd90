//go:build !race

package shim

import (
	"context"
	"fmt"
	"math/bits"
	"slices"
	"syscall"
	"time"

	"github.com/sentinel-shim/sentinel-shim/sentinel"
	"github.com/sentinel-shim/sentinel-shim/sentinel/exitcode"
	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
)

// The simulated pod: containers, the wrappers in them, the kubelet. The wrappers run the real code: the steps
// of package sentinel, the contract of package lifetime, and the turns of a shim. The simulation replaces the
// processes, the volume, the clock, and the wait of a shim's loop for an event.

// pod configures a simulation.
type pod struct {
	// sentinels are the actors 0, 1, ...; the shims come after them.
	sentinels int
	shims     []follower
	policy    RestartPolicy
	// attempts is how often, at most, a main is started. The last attempt succeeds under OnFailure.
	attempts int
	// events: inotify reports changes. locks: the containers share locks.
	events, locks bool
	// coarse: modification times change only with the ticks.
	coarse bool
	// prompt: the kubelet restarts a container as soon as nothing else can happen at once, and
	// containers that have ended together it restarts together; else it restarts them at any time. A
	// main takes longer than the start of its sidecars.
	prompt bool
	// kills is how many processes are killed, at most. Each may be killed at any instant.
	kills int
	// refusesEnds: the rename at an end fails, as on ext4 without room for a name. The code is then
	// recorded in NAME-running.
	refusesEnds bool
	// whole: no other actor comes between the steps in which a shim begins, looks at the mains, or ends.
	whole bool
	// timed: the time since a shim's start is counted, in ticks up to maxAge, for the flags that need it.
	timed  bool
	maxAge int16
	// lostAfter is for all shims.
	lostAfter time.Duration
	// foreign: the mains have no sentinel. They write their end themselves, not atomically, as a shell
	// does.
	foreign bool
	// stepped: the wall clock steps forward and back.
	stepped bool
	// freezes is how often, at most, a process is stopped for a while (SIGSTOP).
	freezes int
	// deleted: the pod may be deleted.
	deleted bool
	// defect breaks the pod on purpose: see TestDefectsAreFound.
	defect defect
}

// follower is a shim and its sidecar.
type follower struct {
	mains    []int // which actors it follows
	keep     bool
	declared RestartPolicy
	readOnly bool
	config   Config // Drain, Hold, StartTimeout
}

// defect is a mistake that the simulation has to find.
type defect string

const (
	noBarrier    defect = "a sentinel that does not wait at the barrier"
	noConfirming defect = "a shim that does not look again before it stops"
	alwaysStale  defect = "a shim to which every failure at its start is stale"
	neverStale   defect = "a shim to which no failure at its start is stale"
	endsStay     defect = "a Begin that leaves the end of the run before"
	noHeartbeat  defect = "an owner without a heartbeat where locks are not shared"
	zeroIfKilled defect = "a shim that ends with 0 where main was lost"
	noLockWait   defect = "a shim that does not wait for the lock, and has no ticks"
)

// sim is the simulation of one pod, and what is known about its programs so far.
type sim struct {
	pod
	actors, mains int // mains are the sentinels

	names      []string
	nameOf     map[string]int8
	contents   []string
	contentOf  map[string]uint8
	exhaustive bool
	word       uint8 // what is written at Begin

	replayVolume *replayVolume
	nodes        []node
	roots        map[procedureKey]int32
	next         map[edge]int32
}

func newSim(p pod) *sim {
	s := &sim{pod: p, mains: p.sentinels, actors: p.sentinels + len(p.shims)}
	s.contentOf = make(map[string]uint8)
	s.roots = make(map[procedureKey]int32)
	s.next = make(map[edge]int32)
	s.replayVolume = &replayVolume{sim: s}
	s.nameFiles()
	s.content("")
	s.word = s.content("running\n")
	return s
}

func (s *sim) nameOfRun(actor int) string {
	switch {
	case actor == 0:
		return "main"
	case actor < s.pod.sentinels:
		return fmt.Sprint("main", actor+1)
	}
	return fmt.Sprint("sidecar", actor-s.pod.sentinels+1)
}

func (s *sim) nameOfActor(actor int) string {
	if actor < s.mains {
		return "sentinel of " + s.nameOfRun(actor)
	}
	return "shim of " + s.nameOfRun(actor)
}

func (s *sim) shim(actor int) *follower { return &s.shims[actor-s.mains] }

func (s *sim) follows(shim, run int) bool { return slices.Contains(s.shim(shim).mains, run) }

// procedure is a part of a program's code. It is played from its start for each of its steps.
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
	// polls: it does this in a loop, with a pause in between.
	polls bool
}

type procedureKind uint8

const (
	// A sentinel's steps. The first and the last two are a shim's, too.
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

// perform is the code of the programs. It gives what the program does next.
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
		// What the command has ended with: see moveCommand.
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
	cfg := c.config
	cfg.KeepOnFailure, cfg.RestartPolicy = c.keep, c.declared
	r := cfg.rules(ranBefore)
	r.cannotAnnounce = c.readOnly
	switch s.defect {
	case alwaysStale:
		r.staleAtStart = true
	case neverStale:
		r.staleAtStart = false
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
	p.interval = min(p.interval, lifetime.PollInterval(state))
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

const (
	simTick     = time.Second
	sidecarCode = 9 // of a sidecar that ends by itself
)

// The states of a sidecar's process.
const (
	noSidecar uint8 = iota
	sidecarUp
	sidecarStopping
	sidecarStopped
	sidecarDied
)

// The states of a container.
const (
	containerWaiting uint8 = iota
	containerRunning
	containerTerminated
)

// actor is a container and the wrapper in it.
type actor struct {
	container      uint8
	code           uint8
	starts         uint8
	node           int32
	frozen         bool
	frozenForATick bool // it has been frozen for a tick

	// A sentinel's.
	command   bool // main's command runs
	live      bool // its run has begun, and its command has not ended
	succeeded bool // it has ended with 0, in any attempt

	// A shim's.
	watching, hint, due, news, term bool
	side                            uint8
	waits                           [2]lockWait
	why                             reason
	// saw are the attempts of the mains that were live when the last look began, else 0.
	saw [maxMains]uint8
	age int16 // ticks
}

// lockWait is the goroutine that waits for a main's lock.
type lockWait struct {
	stage uint8
	file  uint8
}

const (
	noWait uint8 = iota
	blocked
	granted // it has the read lock
	closed  // it has released the read lock
)

// situation is the state of the whole pod. It is a value: a copy is independent.
type situation struct {
	volume  volume
	actors  [maxActors]actor
	kills   uint8
	freezes uint8
	gone    bool // the pod is being deleted
}

func (s *sim) newSituation() situation {
	return situation{volume: volume{coarse: s.coarse}}
}

// podMove is one thing that may happen next.
type podMove struct {
	kind  podMoveKind
	actor uint8
	arg   uint8
}

type podMoveKind uint8

const (
	moveStart       podMoveKind = iota // the kubelet starts a container
	moveStep                           // a wrapper takes its next step
	moveWake                           // a shim's loop wakes
	moveExit                           // a wrapper exits
	moveCommand                        // main's command ends with code arg
	moveWait                           // the goroutine that waits for the lock of main arg continues
	moveStopped                        // a sidecar that is being stopped is gone
	moveTick                           // a second has passed
	moveKill                           // a wrapper is killed
	moveSidecarEnds                    // a sidecar ends by itself
	moveFreeze                         // SIGSTOP
	moveThaw                           // SIGCONT
	moveDelete                         // the pod is deleted: SIGTERM to all
)

// injected reports whether the move may never happen.
func (m podMove) injected() bool {
	switch m.kind {
	case moveKill, moveSidecarEnds, moveFreeze, moveDelete:
		return true
	}
	return false
}

// movesOf appends all moves that may happen next.
func (s *sim) movesOf(w *situation, moves []podMove) []podMove {
	// A step that no other program can notice is taken first: its order makes no difference.
	for i := range s.actors {
		a := &w.actors[i]
		if a.container != containerRunning || a.frozen {
			continue
		}
		if n := &s.nodes[a.node]; n.steps() && s.local(w, i, n.op) {
			return append(moves, podMove{moveStep, uint8(i), 0})
		}
	}
	var commands []int
	busy, starts, frozenForATick := false, false, false
	add := func(kind podMoveKind, actor, arg int) {
		moves = append(moves, podMove{kind, uint8(actor), uint8(arg)})
	}
	for i := range s.actors {
		a := &w.actors[i]
		if a.container != containerRunning {
			continue
		}
		if a.frozen {
			add(moveThaw, i, 0)
			frozenForATick = frozenForATick || a.frozenForATick
			continue
		}
		n := &s.nodes[a.node]
		switch {
		case n.steps():
			add(moveStep, i, 0)
			busy = busy || n.parent >= 0 || !n.proc.polls
		case n.proc.kind == exiting:
			add(moveExit, i, 0)
			busy = true
		case n.proc.kind == inCommand:
			commands = append(commands, i)
		case n.proc.kind == resting && s.wakes(w, i, n.proc):
			add(moveWake, i, 0)
			busy = true
		}
		for m := range a.waits {
			switch wait := a.waits[m]; {
			case wait.stage == blocked && w.volume.files[wait.file].writer == 0, wait.stage > blocked:
				add(moveWait, i, m)
				busy = true
			}
		}
		if a.side == sidecarStopping {
			add(moveStopped, i, 0)
		}
		if w.kills < uint8(s.kills) {
			// A foreign main that is killed leaves nothing behind.
			if i >= s.mains || !s.foreign && (s.policy == Never || int(a.starts) < s.attempts) {
				add(moveKill, i, 0)
			}
			if a.side == sidecarUp {
				add(moveSidecarEnds, i, 0)
			}
		}
		if w.freezes < uint8(s.freezes) {
			add(moveFreeze, i, 0)
		}
	}
	returns := func(a *actor) bool {
		return a.container == containerTerminated && s.policy == OnFailure && a.code != exitcode.OK
	}
	fewest := uint8(255) // starts of a container that is to be restarted
	for i := range s.actors {
		if a := &w.actors[i]; returns(a) {
			fewest = min(fewest, a.starts)
		}
	}
	allStarted := !slices.ContainsFunc(w.actors[:s.actors], func(a actor) bool { return a.container == containerWaiting })
	for i := range s.actors {
		switch a := &w.actors[i]; {
		case w.gone:
		case a.container == containerWaiting:
			add(moveStart, i, 0)
			starts = true
		case returns(a) && (!s.prompt || !busy && a.starts == fewest):
			add(moveStart, i, 0)
			starts = true
		}
	}
	for _, i := range commands {
		if s.prompt && (busy || starts) {
			break // main takes longer than the start of its sidecars
		}
		for _, code := range s.outcomes(w, i) {
			add(moveCommand, i, code)
		}
	}
	if s.deleted && !w.gone && allStarted {
		add(moveDelete, 0, 0)
	}
	if !busy && allStarted && !frozenForATick && !s.over(w) {
		add(moveTick, 0, 0)
	}
	return moves
}

// outcomes returns the codes that main's command may end with.
func (s *sim) outcomes(w *situation, i int) []int {
	starts := int(w.actors[i].starts)
	switch {
	case w.gone:
		return []int{exitcode.OfSignal(syscall.SIGTERM)}
	case s.policy == OnFailure && starts >= s.attempts:
		return []int{exitcode.OK}
	}
	return []int{exitcode.OK, 2 + starts}
}

// wakes reports whether a shim's loop has an event to wake for.
func (s *sim) wakes(w *situation, i int, p *procedure) bool {
	a := &w.actors[i]
	if s.defect == noLockWait && !a.hint {
		return a.news
	}
	at := p.rules.wakeAt(p.state)
	return a.hint || a.due || a.news || a.term || s.timed && at > 0 && at <= time.Duration(a.age)*simTick
}

// over reports whether the pod has ended.
func (s *sim) over(w *situation) bool {
	return !slices.ContainsFunc(w.actors[:s.actors], func(a actor) bool {
		return a.container == containerRunning || !w.gone && (a.container == containerWaiting || s.policy == OnFailure && a.code != exitcode.OK)
	})
}

// do makes a move, and returns the violation of an invariant if there is one.
func (s *sim) do(w *situation, m podMove) (violated error) {
	i := int(m.actor)
	a := &w.actors[i]
	switch m.kind {
	case moveStart:
		*a = actor{container: containerRunning, starts: min(a.starts+1, uint8(s.attempts)+1), succeeded: a.succeeded}
		kind := beginning
		if i >= s.mains {
			kind = watching
		} else if s.foreign {
			kind = launching
		}
		a.node = s.start(&procedure{kind: kind, actor: i})
	case moveStep:
		n := s.nodes[a.node]
		r, violated := s.take(w, i, n.op)
		s.goTo(w, i, s.advance(a.node, r))
		return violated
	case moveWake:
		p := *s.nodes[a.node].proc
		p.kind, p.term = turning, a.term
		if a.due {
			p.elapsed = min(simTick, p.interval)
		}
		p.interval = simTick
		if s.timed {
			p.at = time.Duration(a.age) * simTick
		}
		a.hint, a.due, a.news, a.term = false, false, false, false
		s.goTo(w, i, s.start(&p))
	case moveExit:
		code := s.nodes[a.node].proc.code
		violated = s.checkExit(w, i, code)
		s.die(w, i, code)
		return violated
	case moveCommand:
		a.command, a.live = false, false
		a.succeeded = a.succeeded || m.arg == exitcode.OK
		p := *s.nodes[a.node].proc
		p.code = int(m.arg)
		s.performSentinel(&p)
		s.goTo(w, i, s.start(&p))
	case moveWait:
		wait := &a.waits[m.arg]
		f := &w.volume.files[wait.file]
		if s.whole { // has the lock, gives it back, says so
			f.open &^= 1 << i
			*wait, a.hint = lockWait{}, true
			break
		}
		switch wait.stage {
		case blocked:
			wait.stage = granted
			f.readers |= 1 << i
		case granted:
			wait.stage = closed
			f.readers &^= 1 << i
			f.open &^= 1 << i
		case closed:
			*wait = lockWait{}
			a.hint = true
		}
	case moveStopped:
		a.side, a.news = sidecarStopped, true
	case moveTick:
		if w.volume.coarse {
			for run := range w.volume.clocks {
				w.volume.clocks[run]++
			}
		}
		s.tick(w)
	case moveKill:
		w.kills++
		s.die(w, i, exitcode.Lost)
	case moveSidecarEnds:
		w.kills++
		a.side, a.news = sidecarDied, true
	case moveFreeze:
		w.freezes++
		a.frozen = true
	case moveThaw:
		a.frozen, a.frozenForATick = false, false
	case moveDelete:
		w.gone = true
		for k := s.mains; k < s.actors; k++ {
			w.actors[k].term = w.actors[k].container == containerRunning
		}
	}
	return nil
}

// describeMove describes a move that is about to be made.
func (s *sim) describeMove(w *situation, m podMove) string {
	i := int(m.actor)
	a := &w.actors[i]
	who := s.nameOfActor(i)
	switch m.kind {
	case moveStart:
		return fmt.Sprintf("the kubelet starts the %s, for the %d. time", who, a.starts+1)
	case moveStep:
		then, o := *w, s.nodes[a.node].op
		r, _ := s.take(&then, i, o)
		return who + ": " + s.describe(o, r)
	case moveWake:
		return who + " wakes"
	case moveExit:
		return fmt.Sprintf("the %s exits with %d", who, s.nodes[a.node].proc.code)
	case moveCommand:
		return fmt.Sprintf("the command of %s ends with %d", s.nameOfRun(i), m.arg)
	case moveWait:
		did := []string{blocked: "has the lock", granted: "gives it back", closed: "says so"}
		return fmt.Sprintf("%s: its lock wait %s", who, did[a.waits[m.arg].stage])
	case moveStopped:
		return "the sidecar of the " + who + " is gone"
	case moveTick:
		return "a second passes"
	case moveKill:
		return "SIGKILL to the " + who
	case moveSidecarEnds:
		return fmt.Sprintf("the sidecar of the %s ends by itself, with %d", who, sidecarCode)
	case moveFreeze:
		return "SIGSTOP to the " + who
	case moveThaw:
		return "SIGCONT to the " + who
	case moveDelete:
		return "the pod is deleted: SIGTERM to all"
	}
	return "?"
}

// goTo moves a wrapper to its next node. At the end of a procedure it closes the files that the procedure has
// opened.
func (s *sim) goTo(w *situation, i int, to int32) {
	a := &w.actors[i]
	if s.nodes[a.node].proc != s.nodes[to].proc {
		var keep uint32
		if file := s.nodes[to].proc.file; file != 0 {
			keep |= 1 << (file - 1)
		}
		for _, wait := range a.waits {
			if wait.stage == blocked || wait.stage == granted {
				keep |= 1 << wait.file
			}
		}
		w.volume.forget(i, keep)
	}
	a.node = to
	switch p := s.nodes[to].proc; p.kind {
	case resting:
		a.saw = [maxMains]uint8{}
	case ending, exiting:
		a.live = false
	}
}

// tick is one second: heartbeats are written, and shims that wait are due for a look.
func (s *sim) tick(w *situation) {
	for i := range s.actors {
		a := &w.actors[i]
		a.frozenForATick = a.frozen
		if a.container != containerRunning || a.frozen {
			continue
		}
		n := &s.nodes[a.node]
		if n.proc.file != 0 && !s.locks && s.defect != noHeartbeat {
			f := &w.volume.files[n.proc.file-1]
			if s.coarse {
				f.written = w.volume.clocks[i]
			} else {
				// Only a change counts. Two values keep the number of situations small.
				f.beat ^= 1
			}
			s.written(w, int(n.proc.file-1))
		}
		if s.timed {
			a.age = min(a.age+1, s.maxAge)
		}
		if n.proc.kind == resting && s.defect != noLockWait {
			a.due = true
		}
	}
}

// die ends a wrapper and everything that dies with it.
func (s *sim) die(w *situation, i int, code int) {
	a := &w.actors[i]
	w.volume.forget(i, 0)
	*a = actor{container: containerTerminated, code: uint8(code), starts: a.starts, succeeded: a.succeeded}
}

// take takes a step of a wrapper, and checks the invariants for this step.
func (s *sim) take(w *situation, i int, o op) (r result, violated error) {
	a := &w.actors[i]
	switch o.kind {
	case opWatch:
		a.watching = s.events
	case opPending:
		main := s.shim(i).mains[o.main]
		a.saw[o.main] = 0
		if w.actors[main].live {
			a.saw[o.main] = w.actors[main].starts
		}
		r.yes = a.waits[o.main].stage != noWait
	case opAwait:
		if wait := &a.waits[o.main]; wait.stage == noWait && s.defect != noLockWait {
			*wait = lockWait{blocked, o.file}
		}
	case opSidecar:
		for mask := o.lost; mask != 0; mask &= mask - 1 {
			// With shared locks, a main that was not killed is never lost, even if it ends while the shim
			// looks.
			if m := bits.TrailingZeros8(mask); s.sawLive(w, i, m) || s.locks && w.kills == 0 {
				violated = violation(notLost, "the %s has seen %s lost", s.nameOfActor(i), s.nameOfRun(s.shim(i).mains[m]))
			}
		}
		r.side = a.side
	case opLaunch:
		if i < s.mains {
			a.command = true
			violated = s.checkLaunch(w, i)
		} else {
			a.side = sidecarUp
		}
	case opStop:
		a.side, a.why = sidecarStopping, o.why
		// A main that begins during a drain waits at the barrier.
		if !o.drained || !s.hasBarrier(i) {
			violated = s.checkStop(w, i, o.why)
		}
		if violated == nil && o.why == mainEnded {
			for _, main := range s.shim(i).mains {
				if w.actors[main].command && s.hasBarrier(i) {
					violated = violation(notOlder, "%s works through the sidecar of the %s, which is being stopped", s.nameOfRun(main), s.nameOfActor(i))
				}
			}
		}
	case opDecided:
		violated = s.checkStop(w, i, o.why)
	case opEnds:
		if violated = s.checkExit(w, i, int(o.content)); o.content == exitcode.OK {
			a.succeeded = true
		}
	case opRemove:
		if s.defect == endsStay && kindOf(int(o.name)) == terminatedFile {
			return r, nil
		}
		r = s.step(w, i, o)
	default:
		r = s.step(w, i, o)
	}
	return r, violated
}

// renamed updates whether a run is live, after its owner has changed the name of a file.
func (s *sim) renamed(w *situation, i int) {
	if s.nodes[w.actors[i].node].proc.kind == beginning {
		ended := w.volume.names[i*filesOfRun+terminatedFile] != 0 && s.defect != endsStay
		w.actors[i].live = w.volume.names[i*filesOfRun+runningFile] != 0 && !ended
	}
}

// hasBarrier reports whether a restarting main can know that a shim is stopping.
func (s *sim) hasBarrier(shim int) bool { return s.locks && !s.foreign && !s.shim(shim).readOnly }

// sawLive reports whether a main's run was live all through a shim's last look.
func (s *sim) sawLive(w *situation, shim, m int) bool {
	a, main := &w.actors[shim], &w.actors[s.shim(shim).mains[m]]
	return a.saw[m] != 0 && main.live && a.saw[m] == main.starts
}

// violation returns an error that names an invariant that does not hold.
func violation(invariant, format string, args ...any) error {
	return fmt.Errorf("%q does not hold: %s", invariant, fmt.Sprintf(format, args...))
}
