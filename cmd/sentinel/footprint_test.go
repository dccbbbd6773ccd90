package main_test

import (
	"os"
	"testing"
	"time"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
)

// TestSize: the programs are small, because users add them to their images.
func TestSize(t *testing.T) {
	t.Parallel()
	const most = 4_500_000 // bytes
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

// TestIdle: while the command runs, neither program needs more than 5 MB of memory and 1 % of a processor.
func TestIdle(t *testing.T) {
	t.Parallel()
	const (
		most    = 5_000_000       // bytes
		stretch = 2 * time.Second // of the measurement
		share   = 0.01            // of a processor
	)
	dir := t.TempDir()
	command := shell("echo ready; exec sleep 1000")
	var programs []*drive.Process
	for _, program := range []string{"shim", "sentinel"} {
		p := drive.Start(t, drive.Wrap(program, []string{"--dir", dir}, command))
		p.Await("ready")
		programs = append(programs, p)
	}

	before := make([]drive.Usage, len(programs))
	for i, p := range programs {
		before[i] = drive.UsageOf(t, p.PID())
	}
	time.Sleep(stretch) // not a wait for anything: the cost of that time is measured
	for i, p := range programs {
		used := drive.UsageOf(t, p.PID())
		if busy := used.Share(before[i]); busy > share {
			t.Errorf("%s: %.1f %% of a processor while it is idle, at most %.1f %% are allowed", p, 100*busy, 100*share)
		}
		if resident := used.Resident << 10; resident > most {
			t.Errorf("%s: %d bytes are resident, at most %d are allowed", p, resident, most)
		}
	}
}
