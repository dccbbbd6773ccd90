package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// usage is what a wrapper has used up to an instant, with all its descendants but the probes, and what it holds then.
type usage struct {
	cpu                 time.Duration
	wakeups             int // voluntary context switches
	resident, anonymous int // KiB of memory, which processes may share: all, and without the pages of files
	threads             int
}

func (u *usage) add(other usage) {
	u.cpu += other.cpu
	u.wakeups += other.wakeups
	u.resident += other.resident
	u.anonymous += other.anonymous
	u.threads += other.threads
}

// usageOf returns the usage of a process and its descendants. A process that ends meanwhile does not count.
func (s *stage) usageOf(pid int) (total usage) {
	for i := range s.stamps {
		if s.stamps[i].pid.Load() == int64(pid) {
			return usage{}
		}
	}
	if own, err := usageAlone(pid); err == nil {
		total.add(own)
	}
	for _, child := range children(pid) {
		total.add(s.usageOf(child))
	}
	return total
}

// usageAlone returns the usage of one process, and the processor time of the children that it has waited for.
func usageAlone(pid int) (u usage, err error) {
	proc := fmt.Sprintf("/proc/%d/", pid)
	status, err := os.ReadFile(proc + "status")
	if err != nil {
		return u, err
	}
	u.resident, u.anonymous = field(status, "VmRSS:"), field(status, "RssAnon:")

	tasks, _ := filepath.Glob(proc + "task/*") // the pattern is valid
	u.threads = len(tasks)
	for _, task := range tasks {
		schedstat, err := os.ReadFile(task + "/schedstat")
		if err != nil {
			return u, err
		}
		ns, _, _ := strings.Cut(string(schedstat), " ")
		cpu, err := strconv.ParseInt(ns, 10, 64)
		if err != nil {
			return u, fmt.Errorf("%s/schedstat: %w", task, err)
		}
		u.cpu += time.Duration(cpu)
		status, err := os.ReadFile(task + "/status")
		if err != nil {
			return u, err
		}
		u.wakeups += field(status, "\nvoluntary_ctxt_switches:")
	}

	stat, err := os.ReadFile(proc + "stat")
	if err != nil {
		return u, err
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	for _, text := range strings.Fields(rest)[13:15] { // cutime and cstime, in hundredths of a second
		ticks, err := strconv.Atoi(text)
		if err != nil {
			return u, fmt.Errorf("%sstat: %w", proc, err)
		}
		u.cpu += time.Duration(ticks) * 10 * time.Millisecond
	}
	return u, nil
}

// field returns a number of /proc/PID/status, 0 if it is not there.
func field(status []byte, name string) (number int) {
	if _, rest, found := strings.Cut(string(status), name); found {
		_, _ = fmt.Sscan(rest, &number)
	}
	return number
}
