package main_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// sidecar is a mode that begins a run and announces that it is stopping. On SIGUSR1 it retracts that, on SIGTERM it
// ends the run.
//
//	sidecar DIR NAME
func sidecar(args []string) int {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGTERM)
	run, _, err := lifetime.Begin(context.Background(), lifetime.Dir(args[0]), args[1], nil)
	if err == nil {
		err = run.AnnounceStopping()
	}
	if err != nil {
		panic(err)
	}
	fmt.Println("stopping")
	for sig := range signals {
		if sig == syscall.SIGTERM {
			break
		}
		if err := run.RetractStopping(); err != nil {
			panic(err)
		}
	}
	if err := run.End(0); err != nil {
		panic(err)
	}
	return 0
}

// stopping starts a sidecar that is stopping.
func stopping(t *testing.T, dir, name string) *drive.Process {
	t.Helper()
	p := drive.Start(t, drive.Command("sidecar", dir, name))
	p.Await("stopping")
	return p
}

// restarted returns a volume on which main has failed before.
func restarted(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	testenv.Plant(t, filepath.Join(dir, "main-terminated"), "1\n")
	return dir
}

const barred = "waiting for the sidecars of the earlier run to end"

// TestRestartBarrier: a sentinel that restarts waits until no sidecar is stopping any more, whether the sidecar ended,
// was killed, or retracted.
func TestRestartBarrier(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]syscall.Signal{
		"the sidecar ends": syscall.SIGTERM, "it is killed": syscall.SIGKILL, "it goes on": syscall.SIGUSR1,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := restarted(t)
			proxy, other := stopping(t, dir, "proxy"), stopping(t, dir, "other")
			p := sentinel(t, dir, nil, shell(`cat "$1/proxy-running" "$1/other-running"; echo launched`, dir)...)
			p.Await(barred)
			other.Signal(syscall.SIGTERM)
			other.Want(0)
			proxy.Signal(end)
			p.Await("the sidecars of the earlier run are no longer stopping: waited ")
			p.Await("launched\n")
			p.Want(0)
			// What the command saw. A killed sidecar leaves its word.
			left := p.Output()
			if n := strings.Count(left, "stopping\n"); end != syscall.SIGKILL && n > 0 {
				t.Errorf("launched while a sidecar was stopping:\n%s", left)
			}
			const oneOrder, otherOrder = `"sidecars":["proxy","other"]`, `"sidecars":["other","proxy"]`
			if !strings.Contains(left, oneOrder) && !strings.Contains(left, otherOrder) {
				t.Errorf("the log does not name both sidecars:\n%s", left)
			}
		})
	}
}

// TestRestartBarrierLooksAfresh: the sentinel also waits for a sidecar that begins to stop only while it waits for the
// others.
func TestRestartBarrierLooksAfresh(t *testing.T) {
	t.Parallel()
	dir := restarted(t)
	proxy := stopping(t, dir, "proxy")
	p := sentinel(t, dir, nil, "echo", "launched")
	p.Await(barred)
	other := stopping(t, dir, "other")
	proxy.Signal(syscall.SIGTERM)
	proxy.Want(0)
	time.Sleep(200 * time.Millisecond) // not a wait for anything: nothing is to happen
	if strings.Contains(p.Output(), "launched\n") {
		t.Errorf("launched while a sidecar was stopping:\n%s", p.Output())
	}
	other.Signal(syscall.SIGTERM)
	p.Await("launched\n")
	p.Want(0)
}

// TestRestartBarrierTimeout: after --wait-timeout the sentinel goes on with a warning, and then --wait-for has as much
// time again.
func TestRestartBarrierTimeout(t *testing.T) {
	t.Parallel()
	dir := restarted(t)
	stopping(t, dir, "proxy")
	const timeout = 300 * time.Millisecond
	start := time.Now()
	flags := []string{"--wait-timeout", timeout.String(), "--wait-for", "file://" + dir}
	p := sentinel(t, dir, flags, "echo", "launched")
	p.Await(barred)
	p.Await("launched\n")
	if took := time.Since(start); took < timeout {
		t.Errorf("launched after %s, before the --wait-timeout of %s", took, timeout)
	}
	p.Want(0)
	p.Await(`"level":"warn"`)
	p.Await(`"sidecars":["proxy"]`)
	p.Await("have not ended within --wait-timeout 300ms: going on without waiting")
	if got := recorded(t, dir, "main"); got != "0\n" {
		t.Errorf("the recorded end is %q, want 0", got)
	}
}

// TestRestartBarrierSignal: SIGTERM ends a sentinel that waits for sidecars.
func TestRestartBarrierSignal(t *testing.T) {
	t.Parallel()
	dir := restarted(t)
	stopping(t, dir, "proxy")
	p := sentinel(t, dir, nil, "echo", "launched")
	p.Await(barred)
	p.Signal(syscall.SIGTERM)
	p.Want(143)
	p.Await("echo was not started: SIGTERM came before")
	if got := recorded(t, dir, "main"); got != "143\n" || strings.Contains(p.Output(), "launched\n") {
		t.Errorf("the recorded end is %q, want 143 and nothing launched:\n%s", got, p.Output())
	}
}

// TestNoRestartBarrier: the sentinel does not wait at the first start, nor for a word without an owner, nor for a live
// sidecar that is not stopping.
func TestNoRestartBarrier(t *testing.T) {
	t.Parallel()
	first := t.TempDir()
	stopping(t, first, "proxy")

	leftover := restarted(t)
	if err := errors.Join(
		os.WriteFile(filepath.Join(leftover, "proxy-running"), []byte("stopping\n"), 0o644),
		os.WriteFile(filepath.Join(leftover, "proxy-terminated"), []byte("stopping\n"), 0o644),
		os.Symlink("proxy-running", filepath.Join(leftover, "link-running")),
		os.Mkdir(filepath.Join(leftover, "directory-running"), 0o755),
		syscall.Mkfifo(filepath.Join(leftover, "fifo-running"), 0o644),
	); err != nil {
		t.Fatal(err)
	}

	alive := restarted(t)
	proxy := stopping(t, alive, "proxy")
	proxy.Signal(syscall.SIGUSR1)
	drive.Eventually(t, "the sidecar retracts", func() bool {
		word, err := os.ReadFile(filepath.Join(alive, "proxy-running"))
		return err == nil && string(word) == "running\n"
	})

	for name, dir := range map[string]string{"first start": first, "leftover": leftover, "alive": alive} {
		p := sentinel(t, dir, []string{"--wait-timeout", "1h"}, "echo", "launched")
		p.Want(0)
		p.Await("launched\n")
		p.Await("echo exited")
		if strings.Contains(p.Output(), barred) {
			t.Errorf("%s: the sentinel has waited:\n%s", name, p.Output())
		}
	}
}
