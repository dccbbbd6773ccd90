package cmd_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// Tests with limits give one of the two programs, or both, less than it needs of what a container may be short of.
// Each program then ends with the right code or a documented one, and none waits for ever.

// The exit codes of a shim whose main leaves no end: with a dead file, and with no file if the shim is stopped.
const (
	lost   = 137
	untold = 143
)

// stopUntold stops a shim if no file on the volume is main's.
func stopUntold(t testing.TB, dir string, sidecar *drive.Process) {
	t.Helper()
	if trace, err := filepath.Glob(filepath.Join(dir, "main-*")); err != nil || len(trace) > 0 {
		return
	}
	sidecar.Signal(syscall.SIGTERM)
}

// goGaveUp is the exit code of Go's runtime if it lacks something that it needs itself.
const goGaveUp = 2

// recordedEnd returns the content of main-terminated without the newline, or "" if there is none.
func recordedEnd(t testing.TB, dir string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(dir, "main-terminated"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return strings.TrimSuffix(string(content), "\n")
}

// scarce runs pairs of a sentinel and a shim, with one of the two under one of several limits. The confined program
// may succeed, or fail with 125, or Go's runtime may give up with one of the messages.
type scarce struct {
	limits   []int
	enough   int                                    // from this limit on, the program succeeds
	confine  func(t testing.TB, limit int) []string // returns the limits for confine
	messages []string
}

// sentinels puts the sentinel under the limit.
func (s scarce) sentinels(t *testing.T) {
	outcomes := make(chan string, len(s.limits))
	t.Run("the sentinel", func(t *testing.T) {
		for _, limit := range s.limits {
			t.Run(strconv.Itoa(limit), func(t *testing.T) {
				t.Parallel()
				dir := testenv.FastVolume(t)
				sidecar := drive.Start(t, shim(dir, impatient...))
				sidecar.Await("sleep started")
				main := drive.Start(t, confine(sentinel(dir, failing), s.confine(t, limit)...))
				code := main.Code()
				end := recordedEnd(t, dir)
				stopUntold(t, dir, sidecar)
				got := sidecar.Code()
				story := fmt.Sprintf("the sentinel ended with %d and recorded %q, the shim ended with %d:\n%s%s",
					code, end, got, main.Output(), sidecar.Output())
				switch {
				case code == 3 && end == "3" && got == 3:
					outcomes <- "success"
					return
				case code == 125 && got == 125:
				case s.gaveUp(main) && (got == lost || got == untold):
				default:
					t.Fatal(story)
				}
				outcomes <- "failure"
				if limit >= s.enough {
					t.Errorf("the limit %d is enough, but %s", limit, story)
				}
			})
		}
	})
	s.wantBoth(t, outcomes)
}

// shims puts the shim under the limit.
func (s scarce) shims(t *testing.T) {
	outcomes := make(chan string, len(s.limits))
	t.Run("the shim", func(t *testing.T) {
		for _, limit := range s.limits {
			t.Run(strconv.Itoa(limit), func(t *testing.T) {
				t.Parallel()
				dir := testenv.FastVolume(t)
				command, open := gated(t, 3)
				main := drive.Start(t, sentinel(dir, command))
				main.Await("ready")
				sidecar := drive.Start(t, confine(shim(dir, impatient...), s.confine(t, limit)...))
				sidecar.AwaitUnlessExited("sleep started")
				open()
				code, got := main.Code(), sidecar.Code()
				story := fmt.Sprintf("the sentinel ended with %d and the shim with %d:\n%s%s",
					code, got, main.Output(), sidecar.Output())
				switch {
				case code != 3:
					t.Fatal(story)
				case got == 3:
					outcomes <- "success"
					return
				case got == 125, s.gaveUp(sidecar):
				default:
					t.Fatal(story)
				}
				outcomes <- "failure"
				if limit >= s.enough {
					t.Errorf("the limit %d is enough, but %s", limit, story)
				}
			})
		}
	})
	s.wantBoth(t, outcomes)
}

// gaveUp reports whether Go's runtime gave up in a program, with one of the messages.
func (s scarce) gaveUp(p *drive.Process) bool {
	if p.Code() != goGaveUp {
		return false
	}
	p.Await("fatal error: ")
	return slices.ContainsFunc(s.messages, func(message string) bool { return strings.Contains(p.Output(), message) })
}

// wantBoth fails the test unless some limit was wide enough and another was not: else the limits test nothing.
func (s scarce) wantBoth(t *testing.T, outcomes chan string) {
	t.Helper()
	close(outcomes)
	seen := map[string]int{}
	for outcome := range outcomes {
		seen[outcome]++
	}
	if !t.Failed() && !t.Skipped() && len(seen) < 2 {
		t.Errorf("the outcomes of %d limits are %v: want both successes and failures", len(s.limits), seen)
	}
}
