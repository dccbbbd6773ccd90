//go:build linux && (amd64 || arm64)

package cmd_test

import (
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/cmd/internal/ptrace"
	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// TestKillTheShimAtEveryCall kills a shim at each of the calls that it makes on the volume, from its start until
// its own end is recorded. Main ends when the shim waits for that. The next shim ends with main's code, and every
// run on the volume has ended.
func TestKillTheShimAtEveryCall(t *testing.T) {
	t.Parallel()
	total := len(callsOfAShim(t, 0))
	if total < 30 {
		t.Fatalf("a shim makes only %d calls", total)
	}
	for _, n := range callsToTry(t, total) {
		callsOfAShim(t, n)
	}
}

// callsOfAShim runs a pod whose shim is killed at its call number n, and started again. With 0, the shim is not
// killed.
func callsOfAShim(t *testing.T, n int) (calls []string) {
	t.Helper()
	dir := testenv.FastVolume(t)
	main := drive.Start(t, sentinel(dir, neverEnding))
	main.Await("sleep started")
	w, err := lifetime.Watch(lifetime.Dir(dir), []string{"sidecar"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	w.Look()
	flags := []string{"--restart-policy", "Never", "--drain", "1ms"}
	killed, ended := "", false
	result := trace(t, shim(dir, flags...), touching(dir), func(p *ptrace.Tracee, c ptrace.Call) {
		calls = append(calls, c.String())
		if !ended && isWait(c) {
			ended = true
			main.Signal(syscall.SIGTERM)
			<-main.Exited()
		}
		if killed != "" || n == 0 || len(calls) < n {
			return
		}
		killed = c.String()
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
	})
	if n == 0 {
		if result.ExitCode != 143 {
			t.Fatalf("the shim ended with %d, not with main's 143", result.ExitCode)
		}
		return calls
	}
	// One call more or less is made, as the looks happen to fall. The last one may not be reached.
	if killed == "" && result.ExitCode != 143 {
		t.Fatalf("the shim was not killed at call #%d, and ended with %d", n, result.ExitCode)
	}
	w.Look()
	if got := describe(w.Look()[0]); !slices.Contains([]string{"not started", "unverified", "lost", "ended 143"}, got) {
		t.Fatalf("the shim was killed at %s: its run is seen as %q; the volume: %s", killed, got, testenv.Listing(dir))
	}
	if !ended {
		main.Signal(syscall.SIGTERM)
	}
	main.Want(143)
	next := drive.Start(t, shim(dir, flags...))
	if got := next.Code(); got != 143 {
		t.Fatalf("the shim was killed at %s: the next one ended with %d, not 143:\n%s", killed, got, next.Output())
	}
	for _, run := range lifetime.Runs(t.Context(), lifetime.Dir(dir)) {
		if run.Phase != lifetime.Ended || run.Code != 143 {
			t.Fatalf("the shim was killed at %s: %s is %s; the volume: %s", killed, run.Name, describe(run.State), testenv.Listing(dir))
		}
	}
	return calls
}
