package shim

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
)

// The simulated volume. A step is one atomic call on it. Package lifetime's own code takes its steps through a
// replayVolume (replay_volume_test.go).

const (
	maxActors = 6
	// Each run has a range of file numbers of its own, so the order of creation makes no difference between runs. A
	// free number is reused, as on ext4.
	filesPerRun = 5
	maxFiles    = maxActors * filesPerRun
	// The names of a run's files: NAME-running, NAME-terminated, and private names.
	filesOfRun     = 5
	runningFile    = 0
	terminatedFile = 1
	privateFile    = 2
	maxNames       = maxActors * filesOfRun
)

// file is one file of the simulated volume.
type file struct {
	content uint8 // which of sim.contents
	written uint8 // when it was written last, by the clock of its run
	beat    uint8 // 0 or 1; each heartbeat changes it
	writer  uint8 // the actor that has the write lock, plus 1
	readers uint8 // the actors that have a read lock, a bit for each
	names   uint8 // how many it has
	open    uint8 // the actors that have it open, a bit for each
}

// volume is the simulated volume. It is a value: a copy is independent.
type volume struct {
	files [maxFiles]file
	names [maxNames]uint8 // which file, plus 1
	// clocks are a clock for each run. It advances when the run begins and when it ends: the kernel's clock is
	// coarse, so writes in quick succession have the same time. With coarse, it advances only with each tick.
	clocks [maxActors]uint8
	coarse bool
}

func (v *volume) create(name int, content uint8) (number int) {
	run := runOf(name)
	for number := run * filesPerRun; number < (run+1)*filesPerRun; number++ {
		if f := &v.files[number]; f.names == 0 && f.open == 0 {
			*f = file{content: content, written: v.clocks[run], names: 1}
			v.names[name] = uint8(number + 1)
			return number
		}
	}
	panic("the simulated volume has no file left")
}

// at returns the file of a name, or nil.
func (v *volume) at(name int) *file {
	if v.names[name] == 0 {
		return nil
	}
	return &v.files[v.names[name]-1]
}

func (v *volume) unlink(name int) {
	v.at(name).names--
	v.names[name] = 0
}

func (v *volume) write(number int, content uint8) {
	f := &v.files[number]
	f.content, f.written, f.beat = content, v.clocks[number/filesPerRun], 0
}

// forget closes all files that an actor has open, and so releases its locks. The files in keep, a bit for each, stay
// open.
func (v *volume) forget(actor int, keep uint32) {
	for i := range v.files {
		f := &v.files[i]
		if f.open&(1<<actor) == 0 || keep&(1<<i) != 0 {
			continue
		}
		f.open &^= 1 << actor
		f.readers &^= 1 << actor
		if f.writer == uint8(actor+1) {
			f.writer = 0
		}
	}
}

// runOf and kindOf return the parts of a name.
func runOf(name int) (actor int) { return name / filesOfRun }
func kindOf(name int) int        { return name % filesOfRun }

// opKind is one of the steps that a program takes.
type opKind uint8

const (
	opLstat opKind = iota
	opOpen
	opCreate
	opRename
	opRenameNoReplace
	opRemove
	opNames
	opSleep

	opStat
	opRead
	opWriteAt
	opTruncate
	opTryWriteLock
	opUnlock
	opWriteLocked
	opClose

	// The rest is not on the volume.
	opWatch   // inotify_add_watch
	opPending // ask whether the wait for a main's lock is pending
	opAwait   // start such a wait
	opSidecar // look how the sidecar is
	opLaunch  // start the sidecar, or main's command
	opStop    // signal the sidecar
	opDecided // do not launch the sidecar
	opEnds    // end the shim; content is the exit code
	opForeign // open(2) with O_CREAT|O_TRUNC
)

// op is one step.
type op struct {
	kind     opKind
	name, to int8
	file     uint8
	content  uint8 // opWriteAt: what is written; opTruncate: the length
	main     uint8 // which of a shim's mains
	lost     uint8 // opSidecar: which of the mains were seen lost, a bit for each
	why      reason
	drained  bool
}

// result is the result of a step.
type result struct {
	err     uint8 // an errno of those in errnos
	name    int8  // opCreate
	file    uint8 // opOpen, opCreate
	content uint8 // opRead
	yes     bool
	side    sidecarState // opSidecar
	info    lifetime.Info
	names   uint32 // opNames: a bit for each
}

var errnos = []error{nil, unix.ENOENT, unix.EEXIST, errLocked, unix.ENOSPC}

const (
	enoent = 1 + iota
	eexist
	elocked
	enospc
)

var errLocked = errors.New("locked")

// step does one step of an actor on the volume.
func (s *sim) step(w *situation, actor int, o op) (r result) {
	v := &w.volume
	switch o.kind {
	case opLstat:
		f := v.at(int(o.name))
		if f == nil {
			return result{err: enoent}
		}
		r.info = s.info(w, int(v.names[o.name]-1))
		if s.exhaustive {
			// The time matters only with the content.
			r.info.Sec, r.info.Nanos = 0, 0
		}
		return r
	case opOpen:
		f := v.at(int(o.name))
		if f == nil {
			return result{err: enoent}
		}
		f.open |= 1 << actor
		return result{file: v.names[o.name] - 1}
	case opCreate:
		name := int(o.name)
		for v.names[name] != 0 {
			if name++; kindOf(name) < privateFile {
				panic("the simulated volume has no private name left")
			}
		}
		s.passes(v, actor)
		file := v.create(name, s.content(""))
		v.files[file].open = 1 << actor
		return result{name: int8(name), file: uint8(file)}
	case opForeign:
		name := int(o.name)
		s.passes(v, runOf(name))
		if v.names[name] == 0 {
			v.create(name, s.content(""))
		} else {
			v.write(int(v.names[name]-1), s.content(""))
		}
		s.changed(w, name)
		return result{file: v.names[name] - 1}
	case opRename, opRenameNoReplace:
		if v.names[o.name] == 0 {
			return result{err: enoent}
		}
		if s.refusesEnds && kindOf(int(o.to)) == terminatedFile {
			return result{err: enospc}
		}
		if v.names[o.to] != 0 {
			if o.kind == opRenameNoReplace {
				return result{err: eexist}
			}
			v.unlink(int(o.to))
		}
		v.names[o.to], v.names[o.name] = v.names[o.name], 0
		s.renamed(w, actor)
		s.changed(w, int(o.to))
		s.changed(w, int(o.name))
	case opRemove:
		if v.names[o.name] == 0 {
			return result{err: enoent}
		}
		v.unlink(int(o.name))
		s.renamed(w, actor)
		s.changed(w, int(o.name))
	case opNames:
		for name, file := range v.names {
			if file != 0 && s.cares(w, actor, name) {
				r.names |= 1 << name
			}
		}
	case opStat:
		r.info = s.info(w, int(o.file))
	case opRead:
		r.content = v.files[o.file].content
	case opWriteAt:
		if o.content != s.word {
			s.passes(v, int(o.file)/filesPerRun)
		}
		old, over := s.contents[v.files[o.file].content], s.contents[o.content]
		v.write(int(o.file), s.content(over+old[min(len(old), len(over)):]))
		s.written(w, int(o.file))
	case opTruncate:
		old := s.contents[v.files[o.file].content]
		v.write(int(o.file), s.content(old[:min(len(old), int(o.content))]))
		s.written(w, int(o.file))
	case opTryWriteLock:
		f := &v.files[o.file]
		switch {
		case !s.locks: // it succeeds without effect, as in gVisor
		case f.writer != 0 || f.readers&^(1<<actor) != 0:
			return result{err: elocked}
		default:
			f.writer = uint8(actor + 1)
		}
	case opWriteLocked:
		r.yes = v.files[o.file].writer != 0
	case opUnlock, opClose:
		f := &v.files[o.file]
		if f.writer == uint8(actor+1) {
			f.writer = 0
		}
		if o.kind == opClose {
			f.open &^= 1 << actor
		}
	}
	return r
}

// passes advances the clock of a run that a shim follows.
func (s *sim) passes(v *volume, run int) {
	if !v.coarse && s.followed(run) {
		v.clocks[run]++
	}
}

// cares reports whether an actor that lists the volume uses a name.
func (s *sim) cares(w *situation, actor, name int) bool {
	switch s.nodes[w.actors[actor].node].proc.kind {
	case beginning:
		return runOf(name) == actor && kindOf(name) >= privateFile
	case atBarrier:
		return kindOf(name) == runningFile
	}
	return s.follows(actor, runOf(name))
}

// local reports whether no other actor can notice a step or change its result.
func (s *sim) local(w *situation, actor int, o op) bool {
	if s.whole && actor >= s.mains {
		switch o.kind { // not local: what it writes when it acts, and what it decides
		case opWriteAt, opStop, opDecided, opEnds:
			return s.nodes[w.actors[actor].node].proc.kind != acting
		}
		return true
	}
	ours := func(name int8) bool { return runOf(int(name)) == actor }
	f := &w.volume.files[o.file]
	switch o.kind {
	case opLstat, opOpen:
		return ours(o.name)
	case opRemove:
		return ours(o.name) && w.volume.names[o.name] == 0
	case opStat, opRead, opWriteLocked:
		return int(o.file)/filesPerRun == actor && f.readers == 0
	case opCreate:
		return !s.followed(actor)
	case opTryWriteLock, opWriteAt, opTruncate:
		if int(o.file)/filesPerRun != actor || f.readers != 0 {
			return false
		}
		for kind := range privateFile {
			if w.volume.names[actor*filesOfRun+kind] == o.file+1 {
				return false
			}
		}
		return true
	case opNames:
		return s.nodes[w.actors[actor].node].proc.kind == beginning
	case opPending:
		return w.actors[actor].waits[o.main].stage == noWait
	}
	return false
}

// followed reports whether a shim follows an actor's runs.
func (s *sim) followed(actor int) bool {
	return slices.ContainsFunc(s.shims, func(f follower) bool { return slices.Contains(f.mains, actor) })
}

func (s *sim) info(w *situation, number int) lifetime.Info {
	f := w.volume.files[number]
	written := f.written
	if s.stepped {
		written = bits.Reverse8(written) // no time comes twice
	}
	return lifetime.Info{Identity: lifetime.Identity{
		Dev: 1, Ino: uint64(number + 1), Sec: int64(written), Nanos: int64(f.beat),
	}}
}

// written and changed wake the shims that watch.
func (s *sim) written(w *situation, file int) {
	for name, f := range w.volume.names {
		if f == uint8(file+1) {
			s.changed(w, name)
		}
	}
}

func (s *sim) changed(w *situation, name int) {
	if kindOf(name) >= privateFile {
		return
	}
	for i := s.mains; i < s.actors; i++ {
		if a := &w.actors[i]; a.watching && s.follows(i, runOf(name)) {
			a.hint = true
		}
	}
}

// content returns the number of a file's content.
func (s *sim) content(text string) uint8 {
	number, ok := s.contentOf[text]
	if !ok {
		number = uint8(len(s.contents))
		s.contentOf[text] = number
		s.contents = append(s.contents, text)
	}
	return number
}

// firstRandom is the first of the private names; the last digit counts.
const firstRandom = "0000000000000000"

// nameFiles numbers all names that files on the volume may get.
func (s *sim) nameFiles() {
	s.nameOf = make(map[string]int8)
	for i := range s.actors {
		run := s.nameOfRun(i)
		s.names = append(s.names, run+"-running", run+"-terminated")
		for k := range filesOfRun - privateFile {
			s.names = append(s.names, fmt.Sprintf(".%s-%016d", run, k))
		}
	}
	for number, name := range s.names {
		s.nameOf[name] = int8(number)
	}
}
