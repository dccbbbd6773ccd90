package shim

import (
	"context"
	"io"
	"io/fs"
	"iter"
	"math/bits"
	"time"

	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
)

// replayVolume is the lifetime.Volume of the code under test. It replays the results of the steps that the code has
// taken before, and stops the code at the first new step. So the simulation decides when that step is taken.
type replayVolume struct {
	sim   *sim
	taken []result
	now   time.Duration
	// next is the step at which the code is stopped.
	next    op
	stopped bool
	// created is the file of the last Create.
	created uint8
}

// halt is the value of the panic that stops the code at a new step.
type halt struct{}

func (t *replayVolume) do(o op) result {
	if t.stopped { // a deferred call, on the way out
		return result{}
	}
	if len(t.taken) == 0 {
		t.next, t.stopped = o, true
		panic(halt{})
	}
	r := t.taken[0]
	t.taken = t.taken[1:]
	return r
}

// play runs code with the results of the steps that it has taken before. It reports whether the code has returned. If
// not, t.next is its next step.
func (t *replayVolume) play(taken []result, code func()) (done bool) {
	t.taken, t.stopped, t.now = taken, false, 0
	defer func() {
		switch r := recover(); r {
		case nil:
		case halt{}:
			done = false
		default:
			panic(r)
		}
	}()
	code()
	return true
}

func pathError(op, name string, number uint8) error {
	if number == 0 {
		return nil
	}
	return &fs.PathError{Op: op, Path: name, Err: errnos[number]}
}

// The methods of lifetime.Volume.

func (t *replayVolume) Path(name string) string { return "/pod/" + name }

func (t *replayVolume) name(name string) int8 {
	number, ok := t.sim.nameOf[name]
	if !ok {
		panic("a name that no run has: " + name)
	}
	return number
}

func (t *replayVolume) Lstat(name string) (lifetime.Info, error) {
	r := t.do(op{kind: opLstat, name: t.name(name)})
	return r.info, pathError("lstat", name, r.err)
}

func (t *replayVolume) Open(name string, _ bool) (lifetime.File, error) {
	r := t.do(op{kind: opOpen, name: t.name(name)})
	if r.err != 0 {
		return nil, pathError("open", name, r.err)
	}
	return &replayFile{replayVolume: t, number: r.file}, nil
}

func (t *replayVolume) Create(prefix string) (string, lifetime.File, error) {
	first := t.name(prefix + firstRandom)
	r := t.do(op{kind: opCreate, name: first})
	t.created = r.file
	return t.sim.names[r.name], &replayFile{replayVolume: t, number: r.file}, nil
}

func (t *replayVolume) Rename(from, to string) error {
	r := t.do(op{kind: opRename, name: t.name(from), to: t.name(to)})
	return pathError("rename", from, r.err)
}

func (t *replayVolume) RenameNoReplace(from, to string) error {
	r := t.do(op{kind: opRenameNoReplace, name: t.name(from), to: t.name(to)})
	return pathError("rename", from, r.err)
}

func (t *replayVolume) Remove(name string) error {
	return pathError("remove", name, t.do(op{kind: opRemove, name: t.name(name)}).err)
}

func (t *replayVolume) Symlink(string, string) error { panic("the simulated volume is never full") }

// Names lists the volume in one step.
func (t *replayVolume) Names() iter.Seq[string] {
	return func(yield func(string) bool) {
		for mask := t.do(op{kind: opNames}).names; mask != 0; mask &= mask - 1 {
			if !yield(t.sim.names[bits.TrailingZeros32(mask)]) {
				return
			}
		}
	}
}

func (t *replayVolume) Full() bool { return false }

// Lock always succeeds: the kubelet runs a container only once at a time, so no two programs begin a run of one name.
func (t *replayVolume) Lock(time.Duration) func() { return func() {} }

func (t *replayVolume) Now() time.Time { return time.Unix(1, 0).Add(t.now) }

// Sleep sleeps much longer than it should. Such a schedule is possible, and there are fewer situations.
func (t *replayVolume) Sleep(_ context.Context, d time.Duration) error {
	t.do(op{kind: opSleep})
	t.now += 20 * d
	return nil
}

// Tick: the heartbeats come with the ticks of the simulated clock.
func (t *replayVolume) Tick(time.Duration, func()) (stop func()) { return func() {} }

// replayFile is an open file of a replayVolume.
type replayFile struct {
	*replayVolume
	number uint8
	locked bool
	read   bool
}

func (f *replayFile) do(o op) result {
	o.file = f.number
	return f.replayVolume.do(o)
}

func (f *replayFile) Stat() (lifetime.Info, error) { return f.do(op{kind: opStat}).info, nil }

// Read returns the whole content at once.
func (f *replayFile) Read(p []byte) (int, error) {
	if f.read {
		return 0, io.EOF
	}
	f.read = true
	return copy(p, f.sim.contents[f.do(op{kind: opRead}).content]), nil
}

func (f *replayFile) WriteAt(p []byte, _ int64) (int, error) {
	f.do(op{kind: opWriteAt, content: f.sim.content(string(p))})
	return len(p), nil
}

func (f *replayFile) Truncate(size int64) error {
	f.do(op{kind: opTruncate, content: uint8(size)})
	return nil
}

// Chmod has no effect that any program notices.
func (f *replayFile) Chmod(fs.FileMode) error { return nil }

func (f *replayFile) TryWriteLock() error {
	r := f.do(op{kind: opTryWriteLock})
	f.locked = r.err == 0
	return errnos[r.err]
}

func (f *replayFile) Unlock() error {
	f.do(op{kind: opUnlock})
	f.locked = false
	return nil
}

func (f *replayFile) WriteLocked() bool { return f.do(op{kind: opWriteLocked}).yes }

func (f *replayFile) AwaitUnlocked() error { panic("who waits is simulated") }

// Close is a step if other programs can notice it. If not, the file is closed at the end of the procedure.
func (f *replayFile) Close() error {
	if f.locked {
		f.do(op{kind: opClose})
	}
	return nil
}
