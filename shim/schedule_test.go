package shim

import (
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A schedule as text.

// describeSchedule returns an error that lists the moves of a schedule and the violation at its end.
func describeSchedule(s *sim, schedule []podMove, err error) error {
	var b strings.Builder
	w := s.newSituation()
	var numbers []string
	for _, m := range schedule {
		moves := s.movesOf(&w, nil)
		numbers = append(numbers, fmt.Sprint(slices.Index(moves, m)))
		fmt.Fprintf(&b, "  %s\n", s.describeMove(&w, m))
		_ = s.do(&w, m)
	}
	fmt.Fprint(&b, err)
	if s.exhaustive {
		fmt.Fprintf(&b, "\nto replay it: the same test with -v -args -long -schedule %s", strings.Join(numbers, ","))
	}
	return fmt.Errorf("a schedule of %d moves:\n%s", len(schedule), b.String())
}

// replay plays a schedule that was printed with a violation.
func (s *sim) replay(t *testing.T, schedule string) error {
	t.Helper()
	var made []podMove
	w := s.newSituation()
	var err error
	for _, number := range strings.Split(schedule, ",") {
		n, notANumber := strconv.Atoi(number)
		moves := s.movesOf(&w, nil)
		if notANumber != nil || n < 0 || n >= len(moves) {
			t.Fatalf("-schedule: %q is none of the %d moves that are possible after %d", number, len(moves), len(made))
		}
		made = append(made, moves[n])
		err = s.do(&w, moves[n])
	}
	return describeSchedule(s, made, err)
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
		did := map[waitStage]string{blocked: "has the lock", granted: "gives it back", closed: "says so"}
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

// describe describes a step and its result.
func (s *sim) describe(o op, r result) string {
	name := func(n int8) string { return s.names[n] }
	failed := ""
	if r.err != 0 {
		failed = ": " + errnos[r.err].Error()
	}
	content := func(c uint8) string { return fmt.Sprintf("%q", s.contents[c]) }
	switch o.kind {
	case opLstat:
		return "lstat " + name(o.name) + failed
	case opOpen:
		return "open " + name(o.name) + failed
	case opCreate:
		return "create " + name(r.name)
	case opRename, opRenameNoReplace:
		return "rename " + name(o.name) + " to " + name(o.to) + failed
	case opRemove:
		return "unlink " + name(o.name) + failed
	case opNames:
		var names []string
		for mask := r.names; mask != 0; mask &= mask - 1 {
			names = append(names, s.names[bits.TrailingZeros32(mask)])
		}
		return "list the volume: " + strings.Join(names, " ")
	case opSleep:
		return "sleep"
	case opStat:
		return fmt.Sprintf("fstat file %d", o.file+1)
	case opRead:
		return fmt.Sprintf("read %s from file %d", content(r.content), o.file+1)
	case opWriteAt:
		return fmt.Sprintf("write %s to file %d", content(o.content), o.file+1)
	case opTruncate:
		return fmt.Sprintf("truncate file %d to %d bytes", o.file+1, o.content)
	case opTryWriteLock:
		return fmt.Sprintf("lock file %d%s", o.file+1, failed)
	case opUnlock:
		return fmt.Sprintf("unlock file %d", o.file+1)
	case opWriteLocked:
		return fmt.Sprintf("is file %d locked? %v", o.file+1, r.yes)
	case opClose:
		return fmt.Sprintf("close file %d", o.file+1)
	case opWatch:
		return "watch the volume"
	case opPending:
		return fmt.Sprintf("is the lock wait pending? %v", r.yes)
	case opAwait:
		return fmt.Sprintf("wait for the lock of file %d", o.file+1)
	case opSidecar:
		return "look at the sidecar"
	case opLaunch:
		return "launch"
	case opStop:
		return "stop the sidecar"
	case opDecided:
		return "do not launch"
	case opEnds:
		return fmt.Sprintf("end with %d", o.content)
	case opForeign:
		return "truncate or create " + name(o.name)
	}
	return fmt.Sprint("step ", o.kind)
}
