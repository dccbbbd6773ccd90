package main

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// settled is how long a round waits for what the programs do at their start.
	settled = 40 * time.Millisecond
	// notice is how long a sidecar may take to get its signal.
	notice = 3 * time.Second
	// misses is after how many rounds in a row without a signal a subject is given up.
	misses = 3
)

// errMissed says that a sidecar has got no signal.
var errMissed = errors.New("no signal")

// A subject is one of those that are compared.
type subject struct {
	name    string
	every   int // it takes part in each round that is divisible by this
	measure func() (seconds float64, err error)
}

// interleave measures all subjects in each round, one after the other. One round more, the first, does not count.
func (s *stage) interleave(what string, rounds int, subjects []subject) ([]series, error) {
	all, missed := make([]series, len(subjects)), make([]int, len(subjects))
	for i, subject := range subjects {
		all[i].Name = subject.name
	}
	for round := -1; round < rounds; round++ {
		fmt.Fprintf(os.Stderr, "\r%s: round %d of %d ", what, round+1, rounds)
		for i, subject := range subjects {
			value := math.NaN()
			if missed[i] < misses && (round < 0 || round%subject.every == 0) {
				var err error
				switch value, err = subject.measure(); {
				case err == nil:
					missed[i] = 0
				case err == errMissed:
					missed[i]++
					all[i].Missed++
					value = math.NaN()
				default:
					return nil, fmt.Errorf("%s: %s: %w", what, subject.name, err)
				}
			}
			if round >= 0 {
				all[i].Values = append(all[i].Values, value)
			}
			if err := s.sleep(0); err != nil {
				return nil, err
			}
		}
	}
	fmt.Fprintln(os.Stderr)
	return all, nil
}

// A scene is what a reaction is measured in.
type scene struct {
	parent   string // the directory for the volumes
	sidecars int
	churned  int // how many files another process replaces on the volume, one after the other
}

// reactions measures the time from main's last instruction until all sidecars have SIGTERM. It returns in a second set
// of series the processor time that each sidecar's wrapper has used for that and for its own end.
func (s *stage) reactions(what string, rounds int, pairs []pair, in scene) (times, cpu []series, err error) {
	used := make([]series, len(pairs))
	var subjects []subject
	for i, p := range pairs {
		used[i].Name = p.name
		subjects = append(subjects, subject{p.name, p.every, func() (float64, error) {
			seconds, cpu, err := s.reaction(p, in)
			if err != nil || p.polls > 0 { // the processor time of a loop's children is not known well enough
				cpu = math.NaN()
			}
			used[i].Values = append(used[i].Values, cpu)
			return seconds, err
		}})
	}
	if times, err = s.interleave(what, rounds, subjects); err != nil {
		return nil, nil, err
	}
	for i := range used {
		used[i].Values = used[i].Values[1:] // the first round does not count
	}
	return times, used, nil
}

func (s *stage) reaction(p pair, in scene) (seconds, cpu float64, err error) {
	volume, finish, err := s.begin(in.parent)
	if err != nil {
		return 0, 0, err
	}
	defer finish()
	if in.churned > 0 {
		if _, err := s.start(command{argv: s.role(slots-1, "churn", volume, strconv.Itoa(in.churned))}); err != nil {
			return 0, 0, err
		}
		if err := s.await(slots - 1); err != nil {
			return 0, 0, err
		}
	}
	wrappers := make([]process, in.sidecars)
	for i := range wrappers {
		if wrappers[i], err = s.start(p.sidecar.wrap(volume, i+1, s.role(i+1, "sidecar"))); err != nil {
			return 0, 0, err
		}
	}
	for i := range wrappers {
		if err := s.await(i + 1); err != nil {
			return 0, 0, err
		}
	}

	// Main ends by itself while bench sleeps. It ends at any instant between two looks of a sidecar that polls.
	life := settled + time.Duration(in.sidecars)*8*time.Millisecond + rand.N(10*time.Millisecond)
	if p.polls > 0 {
		life += rand.N(p.polls)
	}
	main, err := s.start(p.main.wrap(volume, 0, s.role(0, "main", strconv.Itoa(int(life.Milliseconds())))))
	if err != nil {
		return 0, 0, err
	}
	if err := s.await(0); err != nil {
		return 0, 0, err
	}
	time.Sleep(life / 2)
	var before, after time.Duration
	for _, w := range wrappers {
		before += s.usageOf(w.cmd.Process.Pid).cpu
	}
	for i, w := range wrappers {
		used, killed := w.wait(notice + life)
		if killed || s.stamps[i+1].signaled.Load() == 0 {
			return 0, 0, errMissed
		}
		after += used - time.Duration(s.stamps[i+1].cpu.Load())
	}
	main.wait(patience)
	ended, last := s.stamps[0].ended.Load(), int64(0)
	for i := range wrappers {
		signaled := s.stamps[i+1].signaled.Load()
		if ended == 0 || signaled < ended {
			return 0, 0, s.failed("the sidecar has got SIGTERM before main's end")
		}
		last = max(last, signaled)
	}
	return between(ended, last), (after - before).Seconds() / float64(in.sidecars), nil
}

// deaths measures the time from the SIGKILL of main's wrapper until the sidecar has SIGTERM.
func (s *stage) deaths(rounds int, pairs []pair, parent string) ([]series, error) {
	var subjects []subject
	for _, p := range pairs {
		subjects = append(subjects, subject{p.name, p.every, func() (float64, error) { return s.death(p, parent) }})
	}
	return s.interleave("death notice", rounds, subjects)
}

func (s *stage) death(p pair, parent string) (float64, error) {
	volume, finish, err := s.begin(parent)
	if err != nil {
		return 0, err
	}
	defer finish()
	sidecar, err := s.start(p.sidecar.wrap(volume, 1, s.role(1, "sidecar")))
	if err != nil {
		return 0, err
	}
	if err := s.await(1); err != nil {
		return 0, err
	}
	main, err := s.start(p.main.wrap(volume, 0, s.role(0, "main", strconv.Itoa(int(time.Hour.Milliseconds())))))
	if err != nil {
		return 0, err
	}
	if err := s.await(0); err != nil {
		return 0, err
	}
	time.Sleep(settled)
	killed := now()
	if err := unix.Kill(main.cmd.Process.Pid, unix.SIGKILL); err != nil {
		return 0, err
	}
	_, late := sidecar.wait(notice)
	main.wait(patience)
	if signaled := s.stamps[1].signaled.Load(); !late && signaled != 0 {
		return between(killed, signaled), nil
	}
	return 0, errMissed
}

// starts measures the time from a wrapper's exec until its command's first instruction.
func (s *stage) starts(rounds int, wrappers []wrapper, parent string) ([]series, error) {
	var subjects []subject
	for _, w := range wrappers {
		subjects = append(subjects, subject{w.name, 1, func() (float64, error) {
			volume, finish, err := s.begin(parent)
			if err != nil {
				return 0, err
			}
			defer finish()
			c := w.wrap(volume, 1, s.role(1, "start"))
			c.argv = s.role(0, append([]string{"exec"}, c.argv...)...)
			p, err := s.start(c)
			if err != nil {
				return 0, err
			}
			p.wait(notice)
			if s.stamps[1].started.Load() == 0 {
				return 0, s.failed("the command has not been started")
			}
			return between(s.stamps[0].executed.Load(), s.stamps[1].started.Load()), nil
		}})
	}
	return s.interleave("start", rounds, subjects)
}

// forwards measures the time from a SIGTERM to a wrapper until its command has it.
func (s *stage) forwards(rounds int, wrappers []wrapper, parent string) ([]series, error) {
	var subjects []subject
	for _, w := range wrappers {
		subjects = append(subjects, subject{w.name, 1, func() (float64, error) {
			volume, finish, err := s.begin(parent)
			if err != nil {
				return 0, err
			}
			defer finish()
			p, err := s.start(w.wrap(volume, 1, s.role(1, "sidecar")))
			if err != nil {
				return 0, err
			}
			if err := s.await(1); err != nil {
				return 0, err
			}
			time.Sleep(settled / 4)
			sent := now()
			if err := unix.Kill(p.cmd.Process.Pid, unix.SIGTERM); err != nil {
				return 0, err
			}
			p.wait(notice)
			if signaled := s.stamps[1].signaled.Load(); signaled != 0 {
				return between(sent, signaled), nil
			}
			return 0, errMissed
		}})
	}
	return s.interleave("signal", rounds, subjects)
}
