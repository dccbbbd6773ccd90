package lifetime

import (
	"testing"
	"time"
)

// Snapshots of a run's two files.

func file(inode uint64, sec int64) Identity { return Identity{Dev: 1, Ino: inode, Sec: sec} }

func ended(content string) Snapshot {
	return Snapshot{terminated: fileState{exists: true, readable: true, content: content, id: file(9, 1)}}
}

// unopenable is an end that cannot be read: a link, a FIFO, another user's.
var unopenable = Snapshot{terminated: fileState{exists: true, id: file(9, 1)}}

var nothing = Snapshot{}

func locked(id Identity) Snapshot {
	return Snapshot{running: fileState{exists: true, locked: true, id: id}}
}

func unlocked(id Identity, content string) Snapshot {
	return Snapshot{running: fileState{exists: true, readable: true, content: content, id: id}}
}

// unreadable is a NAME-running that cannot be opened, or is no regular file.
func unreadable(id Identity) Snapshot {
	return Snapshot{running: fileState{exists: true, id: id}}
}

// step is one snapshot, and the state that judge has to derive from it.
type step struct {
	seen    Snapshot
	want    string
	after   time.Duration // since the previous step
	pending bool          // the wait for the lock has not returned
}

func TestJudge(t *testing.T) {
	const minute, second = time.Minute, time.Second
	x, y := file(1, 100), file(2, 200)
	beat := file(1, 115) // x, a heartbeat later
	running, stopping := contentRunning, contentStopping

	for _, c := range []struct {
		name      string
		lostAfter time.Duration
		steps     []step
	}{
		// The rows of the table.
		{"an end with a code", minute, []step{
			{seen: ended("3\n"), want: "ended: 3"},
		}},
		{"an end wins over all else", minute, []step{
			{seen: locked(x), want: "running"},
			{seen: ended("0"), want: "ended: 0", pending: true},
		}},
		{"locked", minute, []step{
			{seen: locked(x), want: "running"},
			{seen: locked(x), want: "running", after: 24 * time.Hour},
		}},
		{"a code in an unlocked file", minute, []step{
			{seen: unlocked(x, "7\n"), want: "ended: 7"},
		}},
		{"a code in an unlocked file that was seen locked", minute, []step{
			{seen: locked(x), want: "running"},
			{seen: unlocked(beat, "0\n"), want: "ended: 0"},
		}},
		{"unlocked, seen locked", minute, []step{
			{seen: locked(x), want: "running"},
			{seen: unlocked(x, running), want: "lost: 137"},
			{seen: unlocked(x, running), want: "lost: 137"},
		}},
		{"unlocked while it was stopping", minute, []step{
			{seen: locked(x), want: "running"},
			{seen: unlocked(x, stopping), want: "lost: 137"},
		}},
		{"killed in the middle of its end", minute, []step{
			{seen: locked(x), want: "running"},
			{seen: unlocked(beat, "0\nnning\n"), want: "lost: 137"},
		}},
		{"unlocked, never seen locked", minute, []step{
			{seen: unlocked(x, running), want: "unverified"},
			{seen: unlocked(x, running), want: "unverified", after: minute - 1},
			{seen: unlocked(x, running), want: "lost, found dead: 137", after: 1},
			{seen: unlocked(x, running), want: "lost, found dead: 137", after: 1},
		}},
		{"not readable", minute, []step{
			{seen: unreadable(x), want: "unverified"},
			{seen: unreadable(x), want: "lost, found dead: 137", after: minute},
		}},
		{"neither", minute, []step{
			{seen: nothing, want: "not started"},
			{seen: nothing, want: "not started", after: 24 * time.Hour},
		}},

		// Unverified.
		{"a heartbeat", minute, []step{
			{seen: unlocked(x, running), want: "unverified"},
			{seen: unlocked(x, running), want: "unverified", after: minute - 1},
			{seen: unlocked(beat, running), want: "unverified", after: 1},
			{seen: unlocked(beat, running), want: "unverified", after: minute - 1},
			{seen: unlocked(beat, running), want: "lost: 137", after: 1},
		}},
		{"a heartbeat of what cannot be read", minute, []step{
			{seen: unreadable(x), want: "unverified"},
			{seen: unreadable(beat), want: "unverified", after: minute},
			{seen: unreadable(beat), want: "lost: 137", after: minute},
		}},
		{"a heartbeat with the clock set back", minute, []step{
			{seen: unlocked(beat, running), want: "unverified"},
			{seen: unlocked(x, running), want: "unverified", after: minute},
		}},
		{"a heartbeat after it was given up", minute, []step{
			{seen: unlocked(x, running), want: "unverified"},
			{seen: unlocked(x, running), want: "lost, found dead: 137", after: minute},
			{seen: unlocked(beat, running), want: "unverified", after: second},
			{seen: unlocked(beat, running), want: "unverified", after: minute - 1},
			{seen: unlocked(beat, running), want: "lost: 137", after: 1},
		}},
		{"lost at once", 0, []step{
			{seen: unlocked(x, running), want: "lost, found dead: 137"},
		}},
		{"lost at once, later", 0, []step{
			{seen: nothing, want: "not started"},
			{seen: unlocked(x, running), want: "lost: 137", after: second},
		}},
		{"a locked run is never lost", 0, []step{
			{seen: locked(x), want: "running"},
		}},
		{"not there at the first look: not found dead", minute, []step{
			{seen: nothing, want: "not started"},
			{seen: unlocked(x, running), want: "unverified"},
			{seen: unlocked(x, running), want: "lost: 137", after: minute},
		}},
		{"another file than at the first look: not found dead", minute, []step{
			{seen: unlocked(x, running), want: "unverified"},
			{seen: unlocked(y, running), want: "unverified", after: minute},
			{seen: unlocked(y, running), want: "lost: 137", after: minute},
		}},
		{"unverified, then seen locked: not found dead", minute, []step{
			{seen: unlocked(x, running), want: "unverified"},
			{seen: locked(x), want: "running"},
			{seen: unlocked(x, running), want: "lost: 137"},
		}},
		{"the time before a run counts for nothing", minute, []step{
			{seen: nothing, want: "not started"},
			{seen: unlocked(x, running), want: "unverified", after: minute},
		}},
		{"locked in between", minute, []step{
			{seen: unlocked(x, running), want: "unverified"},
			{seen: unlocked(x, running), want: "unverified", after: minute - 1},
			{seen: locked(y), want: "running", after: second},
			{seen: ended("1"), want: "ended: 1"},
			{seen: unlocked(x, running), want: "unverified", after: second},
			{seen: unlocked(x, running), want: "unverified", after: minute - 1},
		}},

		// The wait for the lock.
		{"a wait that goes on", minute, []step{
			{seen: locked(x), want: "running"},
			{seen: nothing, want: "running", pending: true},
			{seen: unlocked(y, running), want: "running", pending: true},
			{seen: unlocked(y, "0\n"), want: "running", pending: true},
			{seen: unreadable(y), want: "running", pending: true, after: minute},
			{seen: ended("4"), want: "ended: 4", pending: true},
		}},
		{"the next run begins before the wait returns", minute, []step{
			{seen: locked(x), want: "running"},
			{seen: ended("4"), want: "ended: 4", pending: true},
			{seen: unlocked(y, running), want: "running", pending: true},
		}},
		{"a wait that returns: an end", minute, []step{
			{seen: locked(x), want: "running"},
			{seen: locked(x), want: "running", pending: true},
			{seen: ended("4\n"), want: "ended: 4"},
		}},
		{"a wait that returns: the next run", minute, []step{
			{seen: locked(x), want: "running"},
			{seen: locked(y), want: "running"},
			{seen: unlocked(y, running), want: "lost: 137"},
		}},
		{"a wait that returns: no file is left", minute, []step{
			{seen: locked(x), want: "running"},
			{seen: nothing, want: "running", pending: true},
			{seen: nothing, want: "lost: 137"},
			{seen: nothing, want: "lost: 137"},
		}},
		{"a wait that returns: what is left cannot be read", minute, []step{
			{seen: locked(x), want: "running"},
			{seen: unreadable(y), want: "lost: 137"},
		}},

		// A lost run stays lost until there is something new.
		{"a lost file that is removed", minute, []step{
			{seen: locked(x), want: "running"},
			{seen: unlocked(x, running), want: "lost: 137"},
			{seen: nothing, want: "lost: 137"},
		}},
		{"a run that was found dead, and is removed", minute, []step{
			{seen: unlocked(x, running), want: "unverified"},
			{seen: unlocked(x, running), want: "lost, found dead: 137", after: minute},
			{seen: nothing, want: "lost, found dead: 137"},
		}},
		{"lost, then the next run", minute, []step{
			{seen: locked(x), want: "running"},
			{seen: unlocked(x, running), want: "lost: 137"},
			{seen: locked(y), want: "running"},
			{seen: ended("0"), want: "ended: 0"},
			{seen: nothing, want: "not started"},
		}},
		{"lost, then a run whose lock is not seen", minute, []step{
			{seen: locked(x), want: "running"},
			{seen: unlocked(x, running), want: "lost: 137"},
			{seen: unlocked(y, running), want: "unverified"},
			{seen: nothing, want: "not started"},
		}},
		{"lost, then an end after all", minute, []step{
			{seen: locked(x), want: "running"},
			{seen: unlocked(x, running), want: "lost: 137"},
			{seen: ended("5"), want: "ended: 5"},
			{seen: unlocked(y, running), want: "unverified"},
		}},
		{"what was locked in an earlier run does not count for the next", minute, []step{
			{seen: locked(x), want: "running"},
			{seen: ended("0"), want: "ended: 0"},
			{seen: unlocked(y, running), want: "unverified"},
		}},

		// Ends that settle.
		{"empty for a second", minute, []step{
			{seen: ended(""), want: "unsettled", after: minute},
			{seen: ended(""), want: "unsettled", after: second - 1},
			{seen: ended(""), want: "empty: 0", after: 1},
			{seen: ended(""), want: "empty: 0", after: 1},
		}},
		{"empty, then written", minute, []step{
			{seen: ended(""), want: "unsettled"},
			{seen: ended(""), want: "unsettled", after: second - 1},
			{seen: ended("3\n"), want: "ended: 3", after: 1},
		}},
		{"settled as empty, then written after all", minute, []step{
			{seen: ended(""), want: "unsettled"},
			{seen: ended(""), want: "empty: 0", after: second},
			{seen: ended("3\n"), want: "ended: 3", after: 1},
			{seen: ended(""), want: "unsettled", after: 1},
		}},
		{"garbage for a second", minute, []step{
			{seen: ended("done\n"), want: "unsettled"},
			{seen: ended("done\n"), want: "unsettled", after: second - 1},
			{seen: ended("done\n"), want: "unreadable: 125", after: 1},
		}},
		{"garbage, then empty: not a success before it has stood empty", minute, []step{
			{seen: ended("x"), want: "unsettled"},
			{seen: ended(""), want: "unsettled", after: second / 2},
			{seen: ended("x"), want: "unsettled", after: second/2 - 1},
			{seen: ended(""), want: "unsettled", after: second},
			{seen: ended("x"), want: "unreadable: 125", after: 1},
		}},
		{"garbage, then a code", minute, []step{
			{seen: ended("1000"), want: "unsettled"},
			{seen: ended("100"), want: "ended: 100", after: second - 1},
		}},
		{"garbage after a code settles anew", minute, []step{
			{seen: ended("x"), want: "unsettled"},
			{seen: ended("3"), want: "ended: 3", after: second},
			{seen: ended("x"), want: "unsettled", after: 1},
			{seen: ended("x"), want: "unsettled", after: second - 1},
			{seen: ended("x"), want: "unreadable: 125", after: 1},
		}},
		{"cannot be opened for a second", minute, []step{
			{seen: unopenable, want: "unsettled"},
			{seen: unopenable, want: "unsettled", after: second - 1},
			{seen: unopenable, want: "unreadable: 125", after: 1},
			{seen: unopenable, want: "unreadable: 125", after: 1},
		}},
		{"can be opened after all", minute, []step{
			{seen: unopenable, want: "unsettled"},
			{seen: ended("3"), want: "ended: 3", after: second},
		}},
		{"cannot be opened, then empty", minute, []step{
			{seen: unopenable, want: "unsettled"},
			{seen: ended(""), want: "unsettled", after: second},
			{seen: ended(""), want: "unsettled", after: second - 1},
			{seen: ended(""), want: "empty: 0", after: 1},
		}},
		{"an end that comes anew settles anew", minute, []step{
			{seen: ended(""), want: "unsettled"},
			{seen: ended(""), want: "unsettled", after: second - 1},
			{seen: nothing, want: "not started", after: 1},
			{seen: ended(""), want: "unsettled", after: second},
			{seen: ended(""), want: "unsettled", after: second - 1},
		}},
		{"an end that vanishes before it settles does not count", minute, []step{
			{seen: locked(x), want: "running"},
			{seen: ended(""), want: "unsettled", pending: true},
			{seen: unlocked(x, running), want: "lost: 137"},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := judge{lostAfter: c.lostAfter}
			for i, s := range c.steps {
				if got := describe(j.update(s.seen, s.pending, s.after)); got != s.want {
					t.Fatalf("the state after step %d is %q, not %q", i+1, got, s.want)
				}
			}
		})
	}
}

// A state has the identity of the file that it was derived from. It distinguishes a new end from a stale one.
func TestJudgeIdentity(t *testing.T) {
	x, y := file(1, 100), file(2, 200)
	for _, c := range []struct {
		name    string
		seen    []Snapshot
		want    Identity
		pending bool // with the last snapshot, the wait for the lock has not returned
	}{
		{"an end", []Snapshot{ended("3")}, file(9, 1), false},
		{"a run", []Snapshot{locked(x)}, x, false},
		{"an unverified run", []Snapshot{unlocked(x, contentRunning)}, x, false},
		{"a code in place", []Snapshot{unlocked(x, "3")}, x, false},
		{"a lost run", []Snapshot{locked(x), unlocked(x, contentRunning)}, x, false},
		{"a lost run that is removed", []Snapshot{locked(x), unlocked(x, contentRunning), nothing}, x, false},
		{"the next run", []Snapshot{locked(x), locked(y)}, y, false},
		{"a run that is lost without a file", []Snapshot{locked(x), nothing}, Identity{}, false},
		{"nothing", []Snapshot{nothing}, Identity{}, false},
		{"a run whose file was replaced", []Snapshot{locked(x), unlocked(y, contentRunning)}, x, true},
	} {
		j, got := judge{lostAfter: time.Minute}, State{}
		for i, s := range c.seen {
			got = j.update(s, c.pending && i == len(c.seen)-1, 0)
		}
		if got.ID != c.want {
			t.Errorf("%s: %+v; want %+v", c.name, got.ID, c.want)
		}
	}
}

// The next look is soon if the state is Unsettled, late while the run's lock is waited for, and at the next tick
// otherwise.
func TestPollInterval(t *testing.T) {
	for phase := NotStarted; phase <= Ended; phase++ {
		for _, pending := range []bool{false, true} {
			want := tick
			switch {
			case phase == Unsettled:
				want = settleTick
			case phase == Running && pending:
				want = pendingTick
			}
			if got := PollInterval(State{Phase: phase}, pending); got != want {
				t.Errorf("phase %d, pending %t: the next look is after %s, not %s", phase, pending, got, want)
			}
		}
	}
}
