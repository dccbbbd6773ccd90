package main

import (
	"fmt"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// slots is how many probes can run at once: a main, 256 sidecars, and one that churns.
const slots = 258

// stamps is what a probe notes, as in probe/probe.c.
type stamps struct {
	pid      atomic.Int64
	executed atomic.Int64
	started  atomic.Int64
	ended    atomic.Int64
	signaled atomic.Int64
	cpu      atomic.Int64
}

// mapStamps creates the file that the probes write to, and maps it. Reading memory neither wakes the probes nor bench.
func mapStamps(path string) (*[slots]stamps, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size := int(unsafe.Sizeof([slots]stamps{}))
	if err := f.Truncate(int64(size)); err != nil {
		return nil, err
	}
	memory, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", path, err)
	}
	return (*[slots]stamps)(unsafe.Pointer(&memory[0])), nil
}

// clear forgets everything.
func (s *stamps) clear() {
	for _, field := range []*atomic.Int64{&s.pid, &s.executed, &s.started, &s.ended, &s.signaled, &s.cpu} {
		field.Store(0)
	}
}

// now returns the clock of the probes.
func now() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic(err) // the clock is always there
	}
	return t.Nano()
}

// between returns the time between two stamps in seconds.
func between(from, to int64) float64 { return time.Duration(to - from).Seconds() }
