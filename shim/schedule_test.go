package shim

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"
)

// A schedule of the simulated pod as text. A violation prints it, -schedule and TestRecordedDefects read it. A step is
// a line, or ends with a semicolon. What follows a # is a comment: the calls that a step consists of, and their
// results. CONTAINER is the name of a run: main, main2, sidecar1, sidecar2, ...
//
//	start CONTAINER                the kubelet starts the container
//	kill CONTAINER                 SIGKILL to the wrapper in it, a sentinel or a shim
//	freeze CONTAINER               SIGSTOP to the wrapper
//	thaw CONTAINER                 SIGCONT to the wrapper
//	tick                           a second passes
//	delete the pod                 SIGTERM to all
//	CONTAINER: PROCEDURE           the wrapper goes on to the end of this part of its code: see procedureNames
//	CONTAINER: CALL                the wrapper goes on up to this call, and makes it
//	CONTAINER: exit                the wrapper exits
//	CONTAINER: command exits CODE  the command of a sentinel ends
//	CONTAINER: sidecar exits CODE  the sidecar of a shim ends by itself
//	CONTAINER: sidecar is stopped  the sidecar of a shim ends because the shim stops it
//	CONTAINER: wake                the loop of a shim has something to do
//	CONTAINER: gets the lock of MAIN, releases the lock of MAIN, reports the lock of MAIN
//	                               the goroutine of a shim that waits for the end of MAIN
//
// Forced moves are not written down: they follow from the others.

// procedureNames are the procedures in which a wrapper takes steps.
var procedureNames = map[procedureKind]string{
	watching:  "watch",
	beginning: "begin",
	atBarrier: "barrier", // one look at it
	launching: "launch",
	turning:   "look", // one attempt to take a snapshot of one main
	acting:    "act",
	writing:   "write",
	ending:    "end",
}

// textOf returns a move as a step of a schedule.
func (s *sim) textOf(w *situation, m podMove) string {
	i := int(m.actor)
	name := s.nameOfRun(i)
	switch m.kind {
	case moveStart:
		return "start " + name
	case moveStep:
		return name + ": " + s.callOf(w, i, s.nodes[w.actors[i].node].op)
	case moveWake:
		return name + ": wake"
	case moveExit:
		return name + ": exit"
	case moveCommand:
		return fmt.Sprintf("%s: command exits %d", name, m.arg)
	case moveWait:
		verb := map[waitStage]string{blocked: "gets", granted: "releases", closed: "reports"}
		return fmt.Sprintf("%s: %s the lock of %s", name, verb[w.actors[i].waits[m.arg].stage], s.nameOfMain(i, m.arg))
	case moveStopped:
		return name + ": sidecar is stopped"
	case moveTick:
		return "tick"
	case moveKill:
		return "kill " + name
	case moveSidecarEnds:
		return fmt.Sprintf("%s: sidecar exits %d", name, sidecarCode)
	case moveFreeze:
		return "freeze " + name
	case moveThaw:
		return "thaw " + name
	case moveDelete:
		return "delete the pod"
	case moveEnd:
		return "end the pod"
	}
	panic(fmt.Sprintf("a move of kind %d has no text", m.kind))
}

// nameOfMain returns the name of one of a shim's mains.
func (s *sim) nameOfMain(shim int, main uint8) string { return s.nameOfRun(s.shim(shim).mains[main]) }

// callOf returns a step of an actor as text.
func (s *sim) callOf(w *situation, actor int, o op) string {
	switch o.kind {
	case opLstat:
		return "lstat " + s.shortName(o.name)
	case opOpen:
		return "open " + s.shortName(o.name)
	case opCreate:
		return "create a private file"
	case opRename, opRenameNoReplace:
		return "rename " + s.shortName(o.name) + " to " + s.shortName(o.to)
	case opRemove:
		return "unlink " + s.shortName(o.name)
	case opNames:
		return "list the volume"
	case opSleep:
		return "sleep"
	case opStat:
		return "fstat " + s.fileName(w, o.file)
	case opRead:
		return "read " + s.fileName(w, o.file)
	case opWriteAt:
		return fmt.Sprintf("write %q to %s", s.contents[o.content], s.fileName(w, o.file))
	case opTruncate:
		return fmt.Sprintf("truncate %s to %d bytes", s.fileName(w, o.file), o.content)
	case opTryWriteLock:
		return "lock " + s.fileName(w, o.file)
	case opUnlock:
		return "unlock " + s.fileName(w, o.file)
	case opWriteLocked:
		return "ask for the lock of " + s.fileName(w, o.file)
	case opClose:
		return "close " + s.fileName(w, o.file)
	case opWatch:
		return "watch the volume"
	case opPending:
		return "ask for the lock wait for " + s.nameOfMain(actor, o.main)
	case opAwait:
		return "wait for the lock of " + s.fileName(w, o.file)
	case opSidecar:
		return "look at the sidecar"
	case opLaunch:
		if actor < s.mains {
			return "start the command"
		}
		return "start the sidecar"
	case opStop:
		return "stop the sidecar"
	case opDecided:
		return "do not start the sidecar"
	case opEnds:
		return fmt.Sprintf("decide on code %d", o.content)
	case opForeign:
		return "truncate or create " + s.shortName(o.name)
	}
	panic(fmt.Sprintf("a step of kind %d has no text", o.kind))
}

// resultOf returns the result of a step as text, if it is of interest.
func (s *sim) resultOf(o op, r result) string {
	switch {
	case r.err != 0:
		return errnos[r.err].Error()
	case o.kind == opCreate:
		return s.shortName(r.name)
	case o.kind == opRead:
		return fmt.Sprintf("%q", s.contents[r.content])
	case o.kind == opNames:
		var names []string
		for mask := r.names; mask != 0; mask &= mask - 1 {
			names = append(names, s.shortName(int8(bits.TrailingZeros32(mask))))
		}
		return strings.Join(names, " ")
	case o.kind == opWriteLocked && r.yes:
		return "locked"
	case o.kind == opWriteLocked:
		return "not locked"
	case o.kind == opPending && r.yes:
		return "pending"
	case o.kind == opPending:
		return "none"
	}
	return ""
}

// shortName returns the name of a file. Of the digits of a private name, only the last one counts.
func (s *sim) shortName(name int8) string {
	if kind := kindOf(int(name)); kind >= privateFile {
		return fmt.Sprintf(".%s-%d", s.nameOfRun(runOf(int(name))), kind-privateFile)
	}
	return s.names[name]
}

// fileName returns the name of an open file.
func (s *sim) fileName(w *situation, file uint8) string {
	if name := slices.Index(w.volume.names[:], file+1); name >= 0 {
		return s.shortName(int8(name))
	}
	return "a removed file of " + s.nameOfRun(int(file)/filesPerRun)
}

// noteOf returns what a move about to be made does, with its result.
func (s *sim) noteOf(w *situation, m podMove) string {
	i := int(m.actor)
	var result string
	switch m.kind {
	case moveStart:
		result = fmt.Sprintf("start %d", w.actors[i].starts+1)
	case moveExit:
		result = fmt.Sprintf("code %d", s.nodes[w.actors[i].node].proc.code)
	case moveStep:
		then, o := *w, s.nodes[w.actors[i].node].op
		r, _ := s.take(&then, i, o)
		result = s.resultOf(o, r)
	}
	if result == "" {
		return s.textOf(w, m)
	}
	return s.textOf(w, m) + ": " + result
}

// endsProcedure reports whether a step has brought a wrapper to the end of a procedure.
func (s *sim) endsProcedure(after *situation, m podMove) bool {
	return m.kind == moveStep && s.nodes[after.actors[m.actor].node].parent < 0
}

// scheduleStep is a step of a schedule as text.
type scheduleStep struct {
	text  string
	notes []string // what it consists of
}

// scribe writes down the moves of a replay as steps.
type scribe struct {
	*sim
	steps []scheduleStep
	// calls are steps of one procedure that are not in steps yet, each with the forced moves after it.
	calls     []scheduleStep
	actor     uint8
	procedure string
}

// see is replay.see.
func (c *scribe) see(before, after *situation, m podMove, forced bool) {
	note := c.noteOf(before, m)
	switch {
	case forced && len(c.calls) > 0:
		last := &c.calls[len(c.calls)-1]
		last.notes = append(last.notes, note)
	case forced:
		last := &c.steps[len(c.steps)-1]
		last.notes = append(last.notes, note)
	case m.kind != moveStep:
		c.cut()
		c.steps = append(c.steps, scheduleStep{c.textOf(before, m), []string{note}})
	default:
		if c.actor != m.actor {
			c.cut()
		}
		if len(c.calls) == 0 {
			c.actor, c.procedure = m.actor, c.procedureOf(before, m.actor)
		}
		c.calls = append(c.calls, scheduleStep{c.textOf(before, m), []string{note}})
	}
	if len(c.calls) > 0 && c.actor == m.actor && c.endsProcedure(after, m) {
		c.steps = append(c.steps, scheduleStep{c.nameOfRun(int(c.actor)) + ": " + c.procedure, notesOf(c.calls)})
		c.calls = nil
	}
}

// cut turns the calls of a procedure that is interrupted into steps: one up to each call that has the text of the
// last one.
func (c *scribe) cut() {
	for from, i := 0, 0; i < len(c.calls); i++ {
		if last := c.calls[len(c.calls)-1].text; c.calls[i].text == last {
			c.steps = append(c.steps, scheduleStep{last, notesOf(c.calls[from : i+1])})
			from = i + 1
		}
	}
	c.calls = nil
}

func notesOf(steps []scheduleStep) (notes []string) {
	for _, step := range steps {
		notes = append(notes, step.notes...)
	}
	return notes
}

// write replays a schedule and returns its steps as text.
func (s *sim) write(schedule []podMove) []scheduleStep {
	c := &scribe{sim: s}
	r := newReplay(s)
	r.see = c.see
	_ = r.takeAll(schedule)
	c.cut()
	return c.steps
}

// lines returns steps as text, a line for each, with comments.
func lines(steps []scheduleStep) string {
	var b strings.Builder
	for _, step := range steps {
		fmt.Fprintf(&b, "%s\n", step.text)
		if len(step.notes) == 1 && step.notes[0] == step.text {
			continue
		}
		for _, note := range step.notes {
			fmt.Fprintf(&b, "    # %s\n", note)
		}
	}
	return b.String()
}

// oneLine returns steps as text, without comments.
func oneLine(steps []scheduleStep) string {
	var texts []string
	for _, step := range steps {
		texts = append(texts, step.text)
	}
	return strings.Join(texts, "; ")
}

// reader makes the moves of a schedule that is written as text.
type reader struct {
	*replay[situation, podMove]
	sim   *sim
	ended [maxActors]bool // the actor has come to the end of a procedure, in this step
}

// read returns the moves of a schedule that is written as text.
func (s *sim) read(text string) (schedule []podMove, err error) {
	r := &reader{replay: newReplay(s), sim: s}
	r.see = func(_, after *situation, m podMove, _ bool) {
		if s.endsProcedure(after, m) {
			r.ended[m.actor] = true
		}
	}
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		for step := range strings.SplitSeq(line, ";") {
			if step = strings.TrimSpace(step); step == "" {
				continue
			}
			if err := r.step(step); err != nil {
				return r.made, err
			}
		}
	}
	return r.made, nil
}

// step makes the moves of one step.
func (r *reader) step(text string) error {
	if r.finished() {
		if r.violated != nil {
			return fmt.Errorf("step %q comes after a violation: %w", text, r.violated)
		}
		return fmt.Errorf("step %q comes after the end of the pod", text)
	}
	possible := r.movesOf(&r.at, nil)
	var instead []string
	for _, m := range possible {
		if m.kind == moveStep {
			name, procedure := r.sim.nameOfRun(int(m.actor)), r.sim.procedureOf(&r.at, m.actor)
			if what, ok := strings.CutPrefix(text, name+": "); ok {
				return r.goOn(m, text, what == procedure)
			}
			instead = append(instead, name+": "+procedure)
			continue
		}
		if r.sim.textOf(&r.at, m) == text {
			r.take(m)
			return nil
		}
		instead = append(instead, r.sim.textOf(&r.at, m))
	}
	return fmt.Errorf("step %q is not possible after %d moves: possible are %q", text, len(r.made), instead)
}

// goOn takes steps of a wrapper: all that are left of its procedure, or up to a call.
func (r *reader) goOn(m podMove, text string, toTheEnd bool) error {
	r.ended = [maxActors]bool{}
	var calls []string
	for {
		call := r.sim.textOf(&r.at, m)
		calls = append(calls, call)
		if !r.take(m) {
			return fmt.Errorf("step %q is interrupted after %q", text, calls)
		}
		switch {
		case !toTheEnd && call == text, toTheEnd && r.ended[m.actor], r.violated != nil:
			return nil
		case r.ended[m.actor]:
			return fmt.Errorf("step %q does not come after %d moves: instead, %q ended the procedure",
				text, len(r.made)-len(calls), calls)
		}
	}
}

// procedureOf returns the name of the procedure in which an actor takes steps.
func (s *sim) procedureOf(w *situation, actor uint8) string {
	return procedureNames[s.nodes[w.actors[actor].node].proc.kind]
}

// finding is a violation and its schedule, for a test's log.
type finding struct {
	schedule []podMove // without forced moves
	steps    []scheduleStep
	violated error
	before   int // how many moves the schedule had before it was shrunk
}

// found shrinks the schedule of a violation. deadEnd is replay.deadEnd.
func (s *sim) found(schedule []podMove, err error, deadEnd func(at *situation) error) *finding {
	schedule = unforced(s, schedule)
	f := &finding{schedule: shrink(s, schedule, deadEnd), violated: err, before: len(schedule)}
	f.steps = s.write(f.schedule)
	r := newReplay(s)
	r.deadEnd = deadEnd
	if err := r.takeAll(f.schedule); err != nil {
		f.violated = err // of the same invariant, but with other details
	}
	return f
}

func (f *finding) Error() string {
	return fmt.Sprintf("a schedule of %d moves, shrunk from %d:\n%s%v",
		len(f.schedule), f.before, lines(f.steps), f.violated)
}

func (f *finding) Unwrap() error { return f.violated }
