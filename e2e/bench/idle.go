package main

import (
	"fmt"
	"os"
	"time"
)

// idleness is what a wrapper uses while its command runs and nothing happens.
type idleness struct {
	Name                string
	CPU, Wakeups        float64 // seconds, and how many, for each second
	Resident, Anonymous float64 // bytes
	Threads             float64
}

// copies is how many of each wrapper are looked at while they are idle: the median counts.
const copies = 3

// idleness measures all wrappers at the same time, each beside a main that runs.
func (s *stage) idleness(span time.Duration, all set, parent string) ([]idleness, error) {
	volume, finish, err := s.begin(parent)
	if err != nil {
		return nil, err
	}
	defer finish()
	fmt.Fprintf(os.Stderr, "idle: %s\n", span)
	type watched struct {
		wrapper
		pids []int
	}
	var programs []watched
	slot := 0
	run := func(w wrapper, volume string) (pid int, err error) {
		p, err := s.start(w.wrap(volume, slot, s.role(slot, "sidecar")))
		if err != nil {
			return 0, err
		}
		slot++
		return p.cmd.Process.Pid, s.await(slot - 1)
	}
	for _, w := range all.inits {
		program := watched{wrapper: w}
		for range copies {
			pid, err := run(w, volume)
			if err != nil {
				return nil, err
			}
			program.pids = append(program.pids, pid)
		}
		programs = append(programs, program)
	}
	for _, p := range all.pairs {
		main, sidecar := watched{wrapper: p.main}, watched{wrapper: p.sidecar}
		for range copies {
			shared, err := os.MkdirTemp(volume, "shared-")
			if err != nil {
				return nil, err
			}
			pid, err := run(p.sidecar, shared)
			if err != nil {
				return nil, err
			}
			sidecar.pids = append(sidecar.pids, pid)
			if pid, err = run(p.main, shared); err != nil {
				return nil, err
			}
			main.pids = append(main.pids, pid)
		}
		programs = append(programs, main, sidecar)
	}

	time.Sleep(10 * settled)
	before := make(map[int]usage)
	for _, program := range programs {
		for _, pid := range program.pids {
			before[pid] = s.usageOf(pid)
		}
	}
	start := time.Now()
	if err := s.sleep(span); err != nil {
		return nil, err
	}
	var rows []idleness
	for _, program := range programs {
		var cpu, wakeups, resident, anonymous, threads []float64
		for _, pid := range program.pids {
			after := s.usageOf(pid)
			if after.threads == 0 {
				return nil, s.failed("%s has ended while it should be idle", program.name)
			}
			passed := time.Since(start).Seconds()
			cpu = append(cpu, (after.cpu-before[pid].cpu).Seconds()/passed)
			wakeups = append(wakeups, float64(after.wakeups-before[pid].wakeups)/passed)
			resident = append(resident, float64(after.resident)*1024)
			anonymous = append(anonymous, float64(after.anonymous)*1024)
			threads = append(threads, float64(after.threads))
		}
		rows = append(rows, idleness{
			program.name, median(cpu), median(wakeups), median(resident), median(anonymous), median(threads),
		})
	}
	return rows, nil
}
