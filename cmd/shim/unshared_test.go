package main

import (
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// On these volumes locks are not shared and no events come, as in gVisor. A shim can tell a live main from a dead one
// only by the modification time of its file, and sees its end only when it looks, once a second.

// unshared are the keys of refusals that simulate such a volume.
const unshared = "sharing,events"

// unsharedShim starts a shim that cannot see main's lock.
func (p pod) unsharedShim(lostAfter time.Duration) *drive.Process {
	p.t.Helper()
	s := p.shimWithout(unshared, "--lost-after "+lostAfter.String(), drive.Command("server", "TERM=143")...)
	s.Await("ready")
	return s
}

// unsharedMain starts a main that exits with the code on SIGUSR1.
func (p pod) unsharedMain(code int) *drive.Process {
	p.t.Helper()
	argv := drive.Wrap("sentinel", []string{"--dir", p.dir}, drive.Command("server", fmt.Sprintf("USR1=%d", code)))
	m := p.without(unshared, argv)
	m.Await("ready")
	return m
}

// wantBoth ends a main, and fails the test unless it and the shim end with the code. It returns how much later the shim
// ends.
func wantBoth(t *testing.T, m, s *drive.Process, code int) (took time.Duration) {
	t.Helper()
	wantAlive(t, s)
	m.Signal(syscall.SIGUSR1)
	m.Want(code)
	ended := time.Now()
	s.Want(code)
	took = time.Since(ended)
	s.Await("main exited")
	wantNot(t, s, "main is running") // what it logs if it sees the lock
	return took
}

// wantAlive fails the test if a shim has ended.
func wantAlive(t *testing.T, s *drive.Process) {
	t.Helper()
	select {
	case <-s.Exited():
		t.Fatalf("the shim gave up a live main:\n%s", s.Output())
	default:
	}
}

// wantLost fails the test unless a shim gives up its dead main, and not before --lost-after.
func wantLost(t *testing.T, s *drive.Process, lastSign time.Time, lostAfter time.Duration) {
	t.Helper()
	s.Want(137)
	if took := time.Since(lastSign); took < lostAfter {
		t.Errorf("the shim gave up main %s after its last sign of life, before --lost-after %s:\n%s",
			took, lostAfter, s.Output())
	}
	s.Await("main was killed before it could record an exit code")
}

// TestUnshared goes through two attempts: the end of the first does not stop the sidecar of the second.
func TestUnshared(t *testing.T) {
	t.Parallel()
	const lostAfter = time.Minute
	for _, end := range []int{0, 4} {
		t.Run(fmt.Sprintf("3, then %d", end), func(t *testing.T) {
			t.Parallel()
			p := newPod(t)
			m := p.unsharedMain(3)
			s := p.unsharedShim(lostAfter)
			s.Await("main is taken for running")
			first := wantBoth(t, m, s, 3)
			s = p.unsharedShim(lostAfter)
			s.Await("in an earlier attempt")
			second := wantBoth(t, p.unsharedMain(end), s, end)
			if took := min(first, second); took > 2*tick { // the shorter of two: other processes may delay one
				t.Errorf("the shim ended %s after main, at most %s are allowed:\n%s", took, 2*tick, s.Output())
			}
			p.wantFiles("main-terminated", "proxy-terminated")
		})
	}
	t.Run("main ends before the sidecar starts", func(t *testing.T) {
		t.Parallel()
		p := newPod(t)
		m := p.unsharedMain(3)
		m.Signal(syscall.SIGUSR1)
		m.Want(3)
		s := p.shimWithout(unshared, "", drive.Command("exit", "99")...)
		s.Want(3)
		wantNotLaunched(t, s)
	})
}

// TestUnsharedKilled kills a main that a shim has seen live.
func TestUnsharedKilled(t *testing.T) {
	t.Parallel()
	// killed returns a pod whose main was killed, and a shim that has seen it live.
	killed := func(t *testing.T, lostAfter time.Duration) (p pod, s *drive.Process) {
		p = newPod(t)
		m := p.unsharedMain(0)
		s = p.unsharedShim(lostAfter)
		s.Await("main is taken for running")
		m.Kill()
		m.Want(137)
		return p, s
	}
	t.Run("the shim gives it up, and its file does not stop the next sidecar", func(t *testing.T) {
		t.Parallel()
		const lostAfter = 3 * time.Second
		p, s := killed(t, lostAfter)
		wantLost(t, s, p.modified("main-running"), lostAfter) // last modified by Begin
		s = p.unsharedShim(time.Minute)
		wantBoth(t, p.unsharedMain(0), s, 0)
	})
	t.Run("the next sidecar is there before the next main, for longer than --lost-after", func(t *testing.T) {
		t.Parallel()
		p, s := killed(t, 2*time.Second)
		s.Want(137)
		s = p.unsharedShim(6 * time.Second)
		s.Await("in an earlier attempt")
		wantBoth(t, p.unsharedMain(4), s, 4)
	})
	t.Run("it comes back before --lost-after", func(t *testing.T) {
		t.Parallel()
		const lostAfter = 8 * time.Second
		p, s := killed(t, lostAfter)
		time.Sleep(lostAfter / 2) // not a wait for anything: nothing may happen
		m := p.unsharedMain(0)
		time.Sleep(lostAfter/2 + tick) // the same: now the shim would give up the killed one
		wantBoth(t, m, s, 0)
	})
}

// TestUnsharedStopped stops processes for a while. The shim gives up no main.
func TestUnsharedStopped(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name              string
		main, shim        bool
		lostAfter, period time.Duration
	}{
		{"main, for less than --lost-after", true, false, 9 * time.Second, 4 * time.Second},
		{"the shim, for longer: its own sleep is no evidence", false, true, 8 * time.Second,
			9 * time.Second},
		{"all of the pod, for longer, as on a suspended machine", true, true, 8 * time.Second, 9 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPod(t)
			m := p.unsharedMain(0)
			s := p.unsharedShim(c.lostAfter)
			s.Await("main is taken for running")
			var pids []int
			if c.main {
				pids = append(pids, children(t, m.PID())...)
				pids = append(pids, m.PID())
			}
			if c.shim {
				pids = append(pids, children(t, s.PID())...)
				pids = append(pids, s.PID())
			}
			signal := func(sig syscall.Signal) {
				for _, pid := range pids {
					if err := syscall.Kill(pid, sig); err != nil {
						t.Fatalf("process %d: %v", pid, err)
					}
				}
			}
			signal(syscall.SIGSTOP)
			time.Sleep(c.period) // not a wait for anything: nothing may happen
			signal(syscall.SIGCONT)
			time.Sleep(tick / 2) // the shim looks
			wantBoth(t, m, s, 0)
		})
	}
}

// TestUnsharedClock writes the heartbeats of a machine whose clock is set while main runs. Any change is a sign of
// life, also into the past; and a time in the future does not keep a dead main alive.
func TestUnsharedClock(t *testing.T) {
	t.Parallel()
	const lostAfter = 4 * time.Second
	past, future := time.Unix(1e6, 0), time.Now().AddDate(10, 0, 0)
	for _, c := range []struct {
		name  string
		clock []time.Time // at each heartbeat
	}{
		{"into the past", []time.Time{future, time.Now(), past}},
		{"into the future", []time.Time{past, time.Now(), future}},
		{"back by little each time", []time.Time{past}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPod(t)
			m := p.unsharedMain(0)
			s := p.unsharedShim(lostAfter)
			s.Await("main is taken for running")
			n, last := 0, time.Time{}
			for began := time.Now(); time.Since(began) < lostAfter+2*tick || n%len(c.clock) != 0; n++ {
				wantAlive(t, s)
				last = time.Now()
				// Never the same time twice: the shim does not look after each heartbeat.
				at := c.clock[n%len(c.clock)].Add(-time.Duration(n) * time.Microsecond)
				if err := os.Chtimes(p.path("main-running"), at, at); err != nil {
					t.Fatal(err)
				}
				time.Sleep(lostAfter / 8)
			}
			m.Kill()
			m.Want(137)
			wantLost(t, s, last, lostAfter)
		})
	}
}

// TestCoarseTimes is about a file system with times in whole seconds, which gives the inode number of a removed file to
// the next one.
func TestCoarseTimes(t *testing.T) {
	t.Parallel()
	t.Run("a heartbeat is seen", func(t *testing.T) {
		t.Parallel()
		p := coarsePod(t)
		const lostAfter = 4 * time.Second
		m := p.unsharedMain(0)
		s := p.unsharedShim(lostAfter)
		s.Await("main is taken for running")
		var last time.Time
		for began := time.Now(); time.Since(began) < lostAfter+2*tick; time.Sleep(tick) {
			wantAlive(t, s)
			last = time.Now()
			if err := os.Chtimes(p.path("main-running"), time.Time{}, last); err != nil {
				t.Fatal(err)
			}
		}
		m.Kill()
		m.Want(137)
		wantLost(t, s, last, lostAfter)
	})
	write := func(p pod, content string) {
		testenv.Plant(p.t, p.path("main-terminated"), content)
	}
	for _, c := range []struct {
		name string
		fail func(p pod)
		end  func(p pod)
		code int
	}{
		{"two attempts of a sentinel within a second", func(p pod) {
			p.sentinel("", drive.Command("exit", "3")...).Want(3)
		}, func(p pod) {
			p.sentinel("", drive.Command("exit", "3")...).Want(3)
		}, 3},
		{"three attempts of a sentinel within a second, two of them unseen", func(p pod) {
			p.sentinel("", drive.Command("exit", "3")...).Want(3)
		}, func(p pod) {
			p.sentinel("", drive.Command("exit", "3")...).Want(3)
			p.sentinel("", drive.Command("exit", "0")...).Want(0)
		}, 0},
		{"two of a main that writes over its end", func(p pod) { write(p, "3\n") }, func(p pod) { write(p, "0\n") }, 0},
		{"two of a main that removes its end, and writes another", func(p pod) { write(p, "3\n") }, func(p pod) {
			if err := os.Remove(p.path("main-terminated")); err != nil {
				p.t.Fatal(err)
			}
			write(p, "0\n")
		}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			volume := coarsePod(t)
			for round, same := 0, false; !same; round++ {
				if round == 20 {
					t.Fatalf("in none of %d rounds had both ends the same time", round)
				}
				p := pod{t, volume.path(fmt.Sprint(round))}
				if err := os.Mkdir(p.dir, 0o777); err != nil {
					t.Fatal(err)
				}
				volume.awaitSecond() // to have a whole second left
				c.fail(p)
				first := p.modified("main-terminated")
				s := p.shim("--restart-policy OnFailure", "sleep", "1000")
				s.Await("in an earlier attempt")
				s.Await("sleep started")
				s.Signal(syscall.SIGSTOP) // so that it sees the last state only
				c.end(p)
				last := p.modified("main-terminated")
				s.Signal(syscall.SIGCONT)
				s.Want(c.code)
				same = last.Equal(first)
			}
		})
	}
}

// TestSuccessInDisguise is about a success with the same inode number and time as the failure before it, which coarse
// times can cause.
func TestSuccessInDisguise(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	p.record("main-terminated", "3\n")
	disguise := p.modified("main-terminated")
	s := p.shim("--restart-policy OnFailure", "sleep", "1000")
	s.Await("in an earlier attempt")
	s.Await("sleep started")
	s.Signal(syscall.SIGSTOP) // so that it sees the last state only
	testenv.Plant(t, p.path("main-terminated"), "0\n")
	if err := os.Chtimes(p.path("main-terminated"), disguise, disguise); err != nil {
		t.Fatal(err)
	}
	s.Signal(syscall.SIGCONT)
	s.Want(0)
}

// modified returns the modification time of a file on the volume.
func (p pod) modified(file string) time.Time {
	p.t.Helper()
	info, err := os.Lstat(p.path(file))
	if err != nil {
		p.t.Fatal(err)
	}
	return info.ModTime()
}

// awaitSecond waits for the next second of the volume's clock, which is a little behind time.Now.
func (p pod) awaitSecond() {
	p.t.Helper()
	p.record("time", "now")
	began := p.modified("time")
	drive.Eventually(p.t, "the time of "+p.path("time")+" is later", func() bool {
		p.record("time", "now")
		return p.modified("time").After(began)
	})
}

// coarsePod returns a pod whose volume is a disk with ext4. Its inodes have no room for parts of a second.
func coarsePod(t *testing.T) pod {
	t.Helper()
	p := newPod(t)
	testenv.Disk(t, p.dir, 4<<20, "-I", "128", "-O", "^has_journal")
	if err := os.Remove(p.path("lost+found")); err != nil {
		t.Fatal(err)
	}
	p.record("time", "")
	if at := p.modified("time"); at.Nanosecond() != 0 {
		t.Fatalf("this file system has times with parts of a second: %s", at)
	}
	return p
}

// TestStatus: where locks are not shared, --status takes a live run for unverified as long as it gives signs of life. A
// run whose time of creation is not known is shown without it.
func TestStatus(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	run := p.begin("main")
	argv := []string{drive.Program("shim"), "--dir", p.dir}
	want := func(refused, flag, says string) {
		t.Helper()
		s := p.without(refused, append(argv, flag))
		s.Want(0)
		s.Await(says)
	}
	want("sharing", "--status=json", `{"runs":[{"name":"main","state":"unverified","since":"`)
	want("locks", "--status=json", `{"runs":[{"name":"main","state":"unverified","since":"`)
	want("statx", "--status=json", `{"runs":[{"name":"main","state":"running"}]}`)
	want("statx", "--status", "main  running     -     -                         -\n")
	long := time.Now().Add(-time.Hour)
	if err := os.Chtimes(p.path("main-running"), long, long); err != nil {
		t.Fatal(err)
	}
	want("sharing", "--status=json", `{"runs":[{"name":"main","state":"lost","code":137,"since":"`)
	p.end(run, 3)
	want("sharing", "--status=json", `{"runs":[{"name":"main","state":"ended","code":3,"since":"`)

	// A volume that cannot be listed is an error, and not empty.
	s := p.without("listings", append(argv, "--status"))
	s.Want(125)
	s.Await("operation not permitted: run it as a user who may read the directory")
}
