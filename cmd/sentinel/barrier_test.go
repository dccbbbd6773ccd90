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
	"github.com/sentinel-shim/sentinel-shim/internal/testenv"
	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
)

// sidecar is a mode that begins a run and says that it is about to end. At SIGUSR1 it
// takes the word back, at SIGTERM it ends.
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

// stopping starts such a sidecar.
func stopping(t *testing.T, dir, name string) *drive.Process {
	t.Helper()
	p := drive.Start(t, drive.Command("sidecar", dir, name))
	p.Await("stopping")
	return p
}

// restarted is a volume on which main has failed before.
func restarted(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	testenv.Plant(t, filepath.Join(dir, "main-terminated"), "1\n")
	return dir
}

const barred = "waiting for the sidecars of the earlier run to end"

// TestRestartBarrier: a sentinel that restarts waits until no sidecar says any more that
// it is stopping, whatever has become of it.
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
			// What is seen at the launch; of the killed one, its word is left.
			left := p.Output()
			if n := strings.Count(left, "stopping\n"); end != syscall.SIGKILL && n > 0 {
				t.Errorf("launched while a sidecar was stopping:\n%s", left)
			}
			if !strings.Contains(left, `"sidecars":["proxy","other"]`) && !strings.Contains(left, `"sidecars":["other","proxy"]`) {
				t.Errorf("it does not name both sidecars:\n%s", left)
			}
		})
	}
}

// TestRestartBarrierLooksAfresh: a sidecar that says so only while the others are waited for is
// waited for, too.
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

// TestRestartBarrierTimeout: after --wait-timeout it goes on with a warning, and then
// gives --wait-for as much time again.
func TestRestartBarrierTimeout(t *testing.T) {
	t.Parallel()
	dir := restarted(t)
	stopping(t, dir, "proxy")
	const timeout = 300 * time.Millisecond
	start := time.Now()
	p := sentinel(t, dir, []string{"--wait-timeout", timeout.String(), "--wait-for", "file://" + dir}, "echo", "launched")
	p.Await(barred)
	p.Await("launched\n")
	if took := time.Since(start); took < timeout {
		t.Errorf("launched after %s, before --wait-timeout %s was over", took, timeout)
	}
	p.Want(0)
	for _, text := range []string{`"level":"warn"`, `"sidecars":["proxy"]`, "have not ended within --wait-timeout 300ms: going on without waiting"} {
		p.Await(text)
	}
	if got := recorded(t, dir, "main"); got != "0\n" {
		t.Errorf("the recorded end is %q, want 0", got)
	}
}

// TestRestartBarrierSignal: TERM ends the matter there, too.
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

// TestNoRestartBarrier: nobody is waited for at the first start, nor a word without an
// owner, nor an owner without the word.
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
	drive.Eventually(t, "the word is taken back", func() bool {
		word, err := os.ReadFile(filepath.Join(alive, "proxy-running"))
		return err == nil && string(word) == "running\n"
	})

	for name, dir := range map[string]string{"first start": first, "leftover": leftover, "alive": alive} {
		p := sentinel(t, dir, []string{"--wait-timeout", "1h"}, "echo", "launched")
		p.Want(0)
		p.Await("launched\n")
		p.Await("echo exited")
		if strings.Contains(p.Output(), barred) {
			t.Errorf("%s: it has waited:\n%s", name, p.Output())
		}
	}
}
