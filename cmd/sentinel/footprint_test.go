package main_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
)

// TestSize: a program that is added to other people's images is small.
func TestSize(t *testing.T) {
	t.Parallel()
	const most = 5_000_000 // bytes
	for _, program := range []string{"sentinel", "shim"} {
		info, err := os.Stat(drive.Program(program))
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > most {
			t.Errorf("%s has %d bytes, at most %d are allowed", program, info.Size(), most)
		}
	}
}

// TestIdle: while the command runs, neither program takes more than 6 MB, nor about any
// CPU.
func TestIdle(t *testing.T) {
	t.Parallel()
	const (
		most    = 6_000_000       // bytes
		stretch = 2 * time.Second // for which they are watched
		share   = 0.01            // of a processor
		second  = 100             // ticks: USER_HZ, which is the same everywhere
	)
	dir := t.TempDir()
	command := shell("echo ready; exec sleep 1000")
	var programs []*drive.Process
	for _, program := range []string{"shim", "sentinel"} {
		p := drive.Start(t, drive.Wrap(program, []string{"--dir", dir}, command))
		p.Await("ready")
		programs = append(programs, p)
	}

	before := make([]int, len(programs))
	start := time.Now()
	for i, p := range programs {
		before[i] = ticks(t, p.PID())
	}
	time.Sleep(stretch)
	for i, p := range programs {
		used := ticks(t, p.PID()) - before[i]
		if busy := float64(used) / second / time.Since(start).Seconds(); busy > share {
			t.Errorf("%s: %.1f %% of a processor while it is idle, at most %.1f %% are allowed", p, 100*busy, 100*share)
		}
		if resident := status(t, p.PID(), "VmRSS"); resident > most {
			t.Errorf("%s: %d bytes are resident, at most %d are allowed", p, resident, most)
		}
	}
}

// ticks is the processor time that a process has used (proc_pid_stat(5)).
func ticks(t *testing.T, pid int) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	fields := strings.Fields(rest)
	const utime, stime = 14 - 3, 15 - 3 // the name and what is before it are cut off
	sum := 0
	for _, i := range []int{utime, stime} {
		n, err := strconv.Atoi(fields[i])
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	return sum
}

// status is a size from proc_pid_status(5), in bytes.
func status(t *testing.T, pid int, name string) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			kB, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
			if err != nil {
				t.Fatal(err)
			}
			return kB << 10
		}
	}
	t.Fatalf("no %s in the status of process %d", name, pid)
	return 0
}
