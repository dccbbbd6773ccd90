//go:build linux && (amd64 || arm64)

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/cmd/internal/ptrace"
	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
)

// traced is a shim whose calls on the volume are traced.
type traced struct {
	pod
	sidecar []string
	// at is called before each call, and started when the sidecar has started; never both at the same time. They may
	// be nil.
	at      func(*ptrace.Tracee, ptrace.Call)
	started func(*ptrace.Tracee)
}

// run runs the shim to its end. It returns its exit code, 128+n for signal n, the number of its calls, and its output.
func (s traced) run() (code, calls int, output string) {
	s.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		s.t.Fatal(err)
	}
	defer r.Close()

	var mu sync.Mutex
	var tracee *ptrace.Tracee
	at := func(now *ptrace.Tracee, c ptrace.Call) {
		mu.Lock()
		defer mu.Unlock()
		tracee = now
		if s.at != nil {
			s.at(now, c)
		}
	}
	done := make(chan string)
	go func() {
		var all strings.Builder
		for lines := bufio.NewScanner(r); lines.Scan(); {
			fmt.Fprintln(&all, lines.Text())
			if s.started != nil && strings.Contains(lines.Text(), s.sidecar[0]+" started") {
				mu.Lock()
				s.started(tracee)
				mu.Unlock()
			}
		}
		done <- all.String()
	}()
	ctx, cancel := context.WithTimeout(context.Background(), drive.Patience)
	defer cancel()
	spec := ptrace.Spec{Args: drive.Wrap("shim", s.flags(""), s.sidecar), Stdout: w, Stderr: w}
	result, err := ptrace.Run(ctx, spec, ptrace.Touching(s.dir), at)
	w.Close()
	output = <-done
	if errors.Is(err, ptrace.ErrRefused) {
		s.t.Skip(err)
	}
	if err != nil {
		s.t.Fatalf("%v\n%s", err, output)
	}
	if result.Signal != 0 {
		return 128 + int(result.Signal), result.Calls, output
	}
	return result.ExitCode, result.Calls, output
}

// wholeLife returns how many calls on the volume a shim makes that starts its sidecar and ends with it. Its first calls
// are those of a shim until it waits for something.
func wholeLife(t *testing.T) int {
	t.Helper()
	code, calls, output := traced{pod: newPod(t), sidecar: []string{"true"}}.run()
	if code != 0 || calls < 10 {
		t.Fatalf("%d calls, exit code %d, want at least 10 and 0:\n%s", calls, code, output)
	}
	return calls
}

// TestEndAtEveryCallOfTheStart records main's end at each call that the shim makes on the volume until it waits. The
// shim never misses it.
func TestEndAtEveryCallOfTheStart(t *testing.T) {
	t.Parallel()
	for k := range wholeLife(t) {
		p := newPod(t)
		end := sync.OnceFunc(func() { p.record("main-terminated", "3\n") })
		held := "the end of the start"
		s := traced{pod: p, sidecar: []string{"sleep", "1000"}, started: func(*ptrace.Tracee) { end() }}
		s.at = func(_ *ptrace.Tracee, c ptrace.Call) {
			if c.N == k+1 {
				held = c.String()
				end()
			}
		}
		if code, _, output := s.run(); code != 3 {
			t.Fatalf("main's end at %s: exit code %d:\n%s", held, code, output)
		}
		p.want("proxy-terminated", "3\n")
	}
}

// TestTermAtEveryCallOfTheStart sends SIGTERM instead. The sidecar is not started, or it is stopped.
func TestTermAtEveryCallOfTheStart(t *testing.T) {
	t.Parallel()
	for k := range wholeLife(t) {
		p := newPod(t)
		sent := false
		term := func(tracee *ptrace.Tracee) {
			if sent {
				return
			}
			sent = true
			if err := tracee.Signal(syscall.SIGTERM); err != nil {
				t.Error(err)
			}
		}
		held := "the end of the start"
		s := traced{pod: p, sidecar: []string{"sleep", "1000"}, started: term}
		s.at = func(tracee *ptrace.Tracee, c ptrace.Call) {
			if c.N == k+1 {
				held = c.String()
				term(tracee)
			}
		}
		if code, _, output := s.run(); code != 143 {
			t.Fatalf("SIGTERM at %s: exit code %d:\n%s", held, code, output)
		}
		p.want("proxy-terminated", "143\n")
	}
}

// TestNextRunAtEveryCallOfTheStart: a shim that has run before finds a failure, and main begins again at each of its
// calls. The old failure never stops the sidecar.
func TestNextRunAtEveryCallOfTheStart(t *testing.T) {
	t.Parallel()
	for k := range wholeLife(t) {
		p := newPod(t)
		p.record("main-terminated", "3\n")
		p.record("proxy-terminated", "3\n")
		var next *lifetime.Run
		begin := sync.OnceFunc(func() { next = p.begin("main") })
		held := "the end of the start"
		ended := make(chan error, 1)
		s := traced{pod: p, sidecar: []string{"sleep", "1000"}}
		s.at = func(_ *ptrace.Tracee, c ptrace.Call) {
			if c.N == k+1 {
				held = c.String()
				begin()
			}
		}
		s.started = func(*ptrace.Tracee) {
			begin()
			// Not in this goroutine: End syncs to disk, and the shim may be held at a call meanwhile.
			go func() { ended <- next.End(4) }()
		}
		if code, _, output := s.run(); code != 4 {
			t.Fatalf("main begins again at %s: exit code %d:\n%s", held, code, output)
		}
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	}
}

// TestKilledAtEveryCall kills a shim at each of its calls. The next one works.
func TestKilledAtEveryCall(t *testing.T) {
	t.Parallel()
	for k := range wholeLife(t) {
		p := newPod(t)
		held := "none"
		s := traced{pod: p, sidecar: []string{"true"}, at: func(tracee *ptrace.Tracee, c ptrace.Call) {
			if c.N == k+1 {
				held = c.String()
				if err := tracee.Kill(); err != nil {
					t.Error(err)
				}
			}
		}}
		s.run()
		run := p.begin("main")
		next := p.shim("", "sleep", "1000")
		next.Await("main is running")
		next.Await("sleep started")
		p.end(run, 3)
		if code := next.Code(); code != 3 {
			t.Fatalf("after a shim that was killed at %s, the next one ended with %d:\n%s", held, code, next.Output())
		}
		p.want("proxy-terminated", "3\n")
	}
}

// TestNextRunAtEveryCallOfTheStop: main has failed, the shim is about to stop the sidecar, and main begins again at
// each of the shim's calls. A sentinel that does not read the word "stopping" then starts its command, and so the shim
// has to keep this sidecar.
func TestNextRunAtEveryCallOfTheStop(t *testing.T) {
	t.Parallel()
	const most = 100
	for k := 1; ; k++ {
		if k > most {
			t.Fatalf("a stop takes more than %d calls", most)
		}
		if !nextRunAtCallOfTheStop(t, k) {
			if k < 10 {
				t.Fatalf("a stop takes only %d calls, not at least 9", k-1)
			}
			return
		}
	}
}

// nextRunAtCallOfTheStop begins main's next run at the kth call after the end of the first. It returns false if the
// sidecar does not live at that call.
func nextRunAtCallOfTheStop(t *testing.T, k int) bool {
	t.Helper()
	p := newPod(t)
	run := p.begin("main")
	var (
		isUp, isEnded, alive, waits bool
		calls                       int
		held                        string
		next                        *lifetime.Run
	)
	ended := make(chan error, 1)
	s := traced{pod: p, sidecar: []string{"sleep", "1000"}, started: func(*ptrace.Tracee) {
		isUp = true
		// This causes a look: a shim makes calls only when it looks.
		if err := os.Chtimes(p.path("main-running"), time.Time{}, time.Now()); err != nil {
			t.Error(err)
		}
	}}
	s.at = func(tracee *ptrace.Tracee, c ptrace.Call) {
		switch {
		case !isUp:
			return
		case !isEnded:
			isEnded = true
			p.end(run, 3)
			return
		}
		if calls++; calls != k {
			return
		}
		held, alive = c.String(), hasChild(t, tracee.PID)
		next = p.begin("main")
		waits = slices.Contains(lifetime.StoppingRuns(t.Context(), lifetime.Dir(p.dir)), "proxy")
		go func() {
			if !waits {
				// Its command needs the sidecar meanwhile. Not a wait for anything: nothing may happen.
				time.Sleep(100 * time.Millisecond)
			}
			ended <- next.End(0)
		}()
	}
	code, _, output := s.run()
	if next == nil {
		return false
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	switch {
	case alive && !waits && code != 0:
		t.Fatalf("main begins again at %s and does not wait, but the sidecar is stopped: exit code %d:\n%s",
			held, code, output)
	case code != 0 && code != 3:
		t.Fatalf("main begins again at %s: exit code %d:\n%s", held, code, output)
	}
	return alive
}

// hasChild reports whether a process has a child that has not ended.
func hasChild(t *testing.T, pid int) bool {
	t.Helper()
	return len(children(t, pid)) > 0
}

// children returns the children of a process that have not ended.
func children(t *testing.T, pid int) (pids []int) {
	t.Helper()
	lists, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range lists {
		list, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, task.Name()))
		if err != nil {
			continue // the thread has ended
		}
		for _, child := range strings.Fields(string(list)) {
			stat, err := os.ReadFile("/proc/" + child + "/stat")
			if err == nil && !strings.Contains(string(stat), ") Z ") {
				n, err := strconv.Atoi(child)
				if err != nil {
					t.Fatal(err)
				}
				pids = append(pids, n)
			}
		}
	}
	return pids
}
