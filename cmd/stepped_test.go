//go:build linux && (amd64 || arm64)

package cmd_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/cmd/internal/ptrace"
)

// stepped is a traced program that makes one call at a time, when the test says so.
type stepped struct {
	t      testing.TB
	stops  chan ptrace.Call // the call before or after which it stops
	resume chan struct{}
	held   *ptrace.Call // the call before which it is held; nil: it runs

	done   chan struct{} // closed when it has ended; result and err are valid then
	result ptrace.Result
	err    error
}

// step starts a program, to be held at each of its calls on a volume. output may be nil.
func step(t testing.TB, argv []string, dir string, output *os.File) *stepped {
	s := &stepped{t: t, stops: make(chan ptrace.Call), resume: make(chan struct{}), done: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(s.done)
		spec := ptrace.Spec{Args: argv, Stdout: output, Stderr: output, Returns: true}
		s.result, s.err = ptrace.Run(ctx, spec, touching(dir), func(_ *ptrace.Tracee, c ptrace.Call) {
			select {
			case s.stops <- c:
			case <-ctx.Done():
				return
			}
			select {
			case <-s.resume:
			case <-ctx.Done():
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-s.done
	})
	return s
}

// arrive waits until the program is held before a call, at most for a duration. It reports whether it is held.
func (s *stepped) arrive(within time.Duration) bool {
	s.t.Helper()
	timeout := time.After(within)
	for s.held == nil {
		select {
		case c := <-s.stops:
			if c.Done {
				s.resume <- struct{}{}
				continue
			}
			s.held = &c
		case <-s.done:
			if errors.Is(s.err, ptrace.ErrRefused) {
				s.t.Skip(s.err)
			}
			if s.err != nil {
				s.t.Fatal(s.err)
			}
			return false
		case <-timeout:
			return false
		}
	}
	return true
}

// next lets the program make its next call, and waits until the call has returned. It returns false if the program
// has ended.
func (s *stepped) next() (alive bool) {
	s.t.Helper()
	if !s.arrive(drive.Patience) {
		select {
		case <-s.done:
			return false
		default:
			s.t.Fatalf("the program has made no call for %s", drive.Patience)
		}
	}
	now := *s.held
	s.held = nil
	s.resume <- struct{}{}
	if isWait(now) {
		return true // it may not return for long
	}
	for s.held == nil {
		select {
		case c := <-s.stops:
			if !c.Done {
				s.held = &c // by another thread
				continue
			}
			s.resume <- struct{}{}
			if c.TID == now.TID {
				return true
			}
		case <-s.done:
			return true
		}
	}
	return true
}

// until lets the program run until it is held before a call of a certain kind.
func (s *stepped) until(is func(ptrace.Call) bool) {
	s.t.Helper()
	for {
		if !s.arrive(drive.Patience) {
			s.t.Fatalf("the program has ended, or has made no call for %s, before the call that the test waits for",
				drive.Patience)
		}
		if is(*s.held) {
			return
		}
		s.next()
	}
}
