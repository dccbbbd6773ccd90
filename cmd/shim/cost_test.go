package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// TestIdle: a shim that waits needs at most 6 MiB of memory and 1 % of a processor.
func TestIdle(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	p.begin("main")
	s := p.shim("", "sleep", "1000")
	s.Await("main is running")
	before := cpuTime(t, s.PID())
	const span = 5 * time.Second
	time.Sleep(span) // not a wait for anything: the cost of that time is measured
	used := cpuTime(t, s.PID()) - before

	kib := drive.UsageOf(t, s.PID()).Resident
	t.Logf("%d KiB resident, %s of CPU in %s", kib, used, span)
	if kib > 6*1024 {
		t.Errorf("%d KiB resident, at most 6144 are allowed", kib)
	}
	if used > span/100 {
		t.Errorf("%s of CPU in %s, at most %s are allowed", used, span, span/100)
	}
}

// cpuTime returns how long the threads of a process have run.
func cpuTime(t *testing.T, pid int) (total time.Duration) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		t.Skipf("needs a kernel with /proc/PID/schedstat: %v", err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var ns int64
		if _, err := fmt.Sscan(string(content), &ns); err != nil {
			t.Fatal(err)
		}
		total += time.Duration(ns)
	}
	return total
}

// TestReaction compares a shim with the smallest program that could do its work: the time from the rename of
// main-terminated until the sidecar gets its signal.
func TestReaction(t *testing.T) {
	const rounds, bound = 15, 6
	var shims, readers []time.Duration
	for range rounds {
		shims = append(shims, reaction(t, func(p pod) *drive.Process {
			s := p.shim("--log-level error", drive.Command("server", "TERM=0")...)
			s.Await("ready")
			return s
		}))
		readers = append(readers, reaction(t, func(p pod) *drive.Process {
			sidecar := drive.Start(t, drive.Command("server", "TERM=0"))
			sidecar.Await("ready")
			drive.Start(t, drive.Command("reader", p.dir, fmt.Sprint(sidecar.PID()))).Await("watching")
			return sidecar
		}))
	}
	t.Logf("median: shim %s, plain reader %s", median(shims), median(readers))
	if median(shims) > bound*median(readers) {
		t.Errorf("the shim needs %s, a plain reader %s: more than %d times as long\n%v\n%v",
			median(shims), median(readers), bound, shims, readers)
	}
}

// reaction returns the time from main's end until a sidecar gets SIGTERM. start starts both, and returns the process
// that has the sidecar's output.
func reaction(t *testing.T, start func(pod) *drive.Process) time.Duration {
	t.Helper()
	p := newPod(t)
	s := start(p)
	testenv.Plant(t, p.path(".main"), "0\n")
	sent := now()
	if err := os.Rename(p.path(".main"), p.path("main-terminated")); err != nil {
		t.Fatal(err)
	}
	return time.Duration(number(t, s, "got SIGTERM at ") - sent)
}
