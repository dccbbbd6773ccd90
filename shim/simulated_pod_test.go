package shim

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/sentinel-shim/sentinel-shim/sentinel/exitcode"
)

// The simulated pod: containers, the wrappers in them, and the kubelet. The wrappers run the real code
// (simulated_programs_test.go). The simulation replaces the processes, the volume (simulated_volume_test.go), the
// clock, and the wait of a shim's loop for an event. What can happen in a pod is in simulated_moves_test.go; what must
// hold is in invariants_test.go.

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
	// prompt: the kubelet restarts a container as soon as all that can happen at once has happened, and it restarts
	// together the containers that have ended together. Without prompt, it restarts them at any time. A main takes
	// longer than the start of its sidecars.
	prompt bool
	// kills is how many processes are killed, at most: any of them, at any instant.
	kills int
	// refusesEnds: the rename at an end fails, as on ext4 without room for a name. The code is then recorded in
	// NAME-running.
	refusesEnds bool
	// whole: no other actor comes between the steps in which a shim begins, looks at the mains, or ends.
	whole bool
	// timed: the time since a shim's start is counted, in ticks up to maxAge, for the flags that need it.
	timed  bool
	maxAge int16
	// lostAfter is --lost-after of all shims.
	lostAfter time.Duration
	// foreign: the mains have no sentinel. They write their end themselves, and not atomically, as a shell does.
	foreign bool
	// stepped: the wall clock steps forward and back.
	stepped bool
	// freezes is how often, at most, a process is stopped for a while (SIGSTOP).
	freezes int
	// deleted: the pod may be deleted.
	deleted bool
	// exhaustive: all schedules are explored, so what makes no difference is left out of the situations.
	exhaustive bool
	// defect breaks the pod on purpose: see TestDefectsAreFound.
	defect defect
}

// follower is a shim and its sidecar.
type follower struct {
	mains    []int // which actors it follows
	keep     bool
	native   bool // its container is a native sidecar
	declared RestartPolicy
	readOnly bool
	// The flags of these names.
	drain, hold, startTimeout time.Duration
}

// String lists all fields that are not zero.
func (p pod) String() string {
	var b strings.Builder
	add := func(name string, value any) {
		if !reflect.ValueOf(value).IsZero() {
			fmt.Fprintf(&b, " %s=%v", name, value)
		}
	}
	fmt.Fprintf(&b, "pod: sentinels=%d policy=%s attempts=%d", p.sentinels, p.policy, p.attempts)
	add("locks", p.locks)
	add("events", p.events)
	add("coarse", p.coarse)
	add("stepped", p.stepped)
	add("prompt", p.prompt)
	add("whole", p.whole)
	add("foreign", p.foreign)
	add("refusesEnds", p.refusesEnds)
	add("kills", p.kills)
	add("freezes", p.freezes)
	add("deleted", p.deleted)
	add("timed", p.timed)
	add("maxAge", p.maxAge)
	add("lostAfter", p.lostAfter)
	add("exhaustive", p.exhaustive)
	add("defect", p.defect)
	for i, f := range p.shims {
		fmt.Fprintf(&b, "\nshim %d: mains=%v", i+1, f.mains)
		add("keep", f.keep)
		add("native", f.native)
		add("declared", f.declared)
		add("readOnly", f.readOnly)
		add("drain", f.drain)
		add("hold", f.hold)
		add("startTimeout", f.startTimeout)
	}
	return b.String()
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
	notNative    defect = "a shim that stops a native sidecar after main's success"
	noLockWait   defect = "a shim that does not wait for the lock, and has no ticks"
)

// sim is the simulation of one pod, and what is known about its programs so far.
type sim struct {
	pod
	actors, mains int // mains are the sentinels

	names     []string
	nameOf    map[string]int8
	contents  []string
	contentOf map[string]uint8
	word      uint8 // what is written at Begin

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

const (
	simTick     = time.Second
	sidecarCode = 9 // of a sidecar that ends by itself
)

// sidecarState is the state of a sidecar's process.
type sidecarState uint8

const (
	noSidecar sidecarState = iota
	sidecarUp
	sidecarStopping
	sidecarStopped
	sidecarDied
)

// containerState is the state of a container.
type containerState uint8

const (
	containerWaiting containerState = iota
	containerRunning
	containerTerminated
)

// actor is a container and the wrapper in it.
type actor struct {
	container      containerState
	code           uint8
	starts         uint8
	node           int32
	frozen         bool
	frozenForATick bool // a tick has passed since

	// Of a sentinel:
	command   bool // main's command runs
	live      bool // its run has begun, and its command has not ended
	succeeded bool // it has ended with 0, in any attempt

	// Of a shim:
	watching bool // inotify is set up
	hint     bool // inotify or a lock wait has reported something
	due      bool // a tick has passed
	news     bool // something has become of the sidecar
	term     bool // SIGTERM was received
	side     sidecarState
	waits    [maxMains]lockWait
	why      reason // of the stop
	// saw has the attempt of each main that was live when the last look began, else 0.
	saw [maxMains]uint8
	age int16 // in ticks, at most maxAge
}

// lockWait is the goroutine of a watcher that waits for a main's lock.
type lockWait struct {
	stage waitStage
	file  uint8
}

type waitStage uint8

const (
	noWait waitStage = iota
	blocked
	granted // it has the read lock
	closed  // it has released the read lock, and has not reported that yet
)

// situation is the state of the whole pod. It is a value: a copy is independent.
type situation struct {
	volume  volume
	actors  [maxActors]actor
	kills   uint8
	freezes uint8
	gone    bool // the pod is being deleted
	ending  bool // the kubelet has sent SIGTERM to the native sidecars, because no main comes back
}

func (s *sim) newSituation() situation {
	return situation{volume: volume{coarse: s.coarse}}
}

// appendKey is system.appendKey. What cannot make a difference any more is left out, such as a file that is gone.
func (s *sim) appendKey(b []byte, w *situation) []byte {
	for name := range s.actors * filesOfRun {
		b = append(b, w.volume.names[name])
	}
	for i := range w.volume.files {
		if f := &w.volume.files[i]; f.names != 0 || f.open != 0 {
			b = append(b, uint8(i), f.content, f.written, f.beat, f.writer, f.readers, f.open)
		}
	}
	b = append(b, 255)
	b = append(b, w.volume.clocks[:s.actors]...)
	b = append(b, w.kills, w.freezes, bit(w.gone)|bit(w.ending)<<1)
	for i := range s.actors {
		a := &w.actors[i]
		b = binary.LittleEndian.AppendUint32(b, uint32(a.node))
		b = append(b, uint8(a.container), a.code, a.starts, uint8(a.side), uint8(a.why), a.saw[0], a.saw[1],
			bit(a.frozen)|bit(a.frozenForATick)<<5|bit(a.command)<<1|bit(a.live)<<2|bit(a.succeeded)<<4,
			bit(a.watching)|bit(a.hint)<<1|bit(a.due)<<2|bit(a.news)<<3|bit(a.term)<<4,
			uint8(a.waits[0].stage), a.waits[0].file, uint8(a.waits[1].stage), a.waits[1].file,
			uint8(a.age), uint8(a.age>>8))
	}
	return b
}

func bit(b bool) uint8 {
	if b {
		return 1
	}
	return 0
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

// tick lets a second pass: heartbeats are written, and shims that wait are due for a look, but not those that wait
// for the locks of all their mains. They look so seldom that the wait alone must suffice.
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
		if n.proc.kind == resting && s.defect != noLockWait && !s.awaitsAll(a, i) {
			a.due = true
		}
	}
}

// awaitsAll reports whether a shim waits for the locks of all its mains.
func (s *sim) awaitsAll(a *actor, i int) bool {
	for main := range s.shim(i).mains {
		if a.waits[main].stage == noWait {
			return false
		}
	}
	return true
}

// die ends a wrapper and everything that dies with it.
func (s *sim) die(w *situation, i int, code int) {
	a := &w.actors[i]
	w.volume.forget(i, 0)
	*a = actor{container: containerTerminated, code: uint8(code), starts: a.starts, succeeded: a.succeeded}
}

// take takes a step of a wrapper, and checks the invariants for this step.
func (s *sim) take(w *situation, i int, o op) (r result, err error) {
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
			// Where locks are shared, a main that was not killed is never lost, even if it ends during the look.
			if m := bits.TrailingZeros8(mask); s.sawLive(w, i, m) || s.locks && w.kills == 0 {
				err = violated(notLost, "the %s has seen %s lost", s.nameOfActor(i), s.nameOfRun(s.shim(i).mains[m]))
			}
		}
		r.side = a.side
	case opLaunch:
		if i < s.mains {
			a.command = true
			err = s.checkLaunch(w, i)
		} else {
			a.side = sidecarUp
		}
	case opStop:
		a.side, a.why = sidecarStopping, o.why
		// A main that begins during a drain waits at the barrier.
		if !o.drained || !s.hasBarrier(i) {
			err = s.checkStop(w, i, o.why)
		}
		if err == nil && o.why == mainEnded {
			for _, main := range s.shim(i).mains {
				if w.actors[main].command && s.hasBarrier(i) {
					err = violated(notOlder, "%s is working while the %s stops its sidecar",
						s.nameOfRun(main), s.nameOfActor(i))
				}
			}
		}
	case opDecided:
		err = s.checkStop(w, i, o.why)
	case opEnds:
		if err = s.checkExit(w, i, int(o.content)); o.content == exitcode.OK {
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
	return r, err
}

// renamed updates whether a run is live. Its owner has just renamed or removed a file.
func (s *sim) renamed(w *situation, i int) {
	if s.nodes[w.actors[i].node].proc.kind == beginning {
		ended := w.volume.names[i*filesOfRun+terminatedFile] != 0 && s.defect != endsStay
		w.actors[i].live = w.volume.names[i*filesOfRun+runningFile] != 0 && !ended
	}
}
