package sentinel

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sentinel-shim/sentinel-shim/sentinel/crashpoint"
	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
	"github.com/sentinel-shim/sentinel-shim/sentinel/probe"
	"github.com/sentinel-shim/sentinel-shim/sentinel/process"
)

// barrierPoll is how often the restart barrier checks whether sidecars are still stopping.
const barrierPoll = 20 * time.Millisecond

// awaitSidecars is the restart barrier (design, 3 and 6.2). It waits until no run on the
// volume is stopping, so that this attempt does not work through a sidecar that is about to
// end. After WaitTimeout it warns and succeeds.
func (s *session) awaitSidecars() (done bool, err error) {
	volume := lifetime.Dir(s.Dir)
	var stopping []string
	err = s.interruptible(func(ctx context.Context) error {
		stopping = lifetime.StoppingRuns(ctx, volume)
		return nil
	})
	if err != nil || len(stopping) == 0 {
		return true, err
	}
	process.CatchOtherSignals()
	began := time.Now()
	s.Log.Info().Strs("sidecars", stopping).
		Msgf("waiting for the sidecars of the earlier run to end, at most %s", s.WaitTimeout)
	crashpoint.At("sentinel.barred")
	err = s.interruptible(func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, s.WaitTimeout)
		defer cancel()
		for len(stopping) > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(barrierPoll):
			}
			// To list 50,000 files takes a while, so not at each poll.
			if stopping = lifetime.StillStopping(volume, stopping); len(stopping) == 0 {
				stopping = lifetime.StoppingRuns(ctx, volume) // others may be stopping by now
			}
		}
		return ctx.Err()
	})
	switch {
	case err == nil:
		s.Log.Info().Msgf("the sidecars of the earlier run are no longer stopping: waited %s", waited(began))
	case errors.Is(err, context.DeadlineExceeded):
		s.Log.Warn().Strs("sidecars", stopping).
			Msgf("the sidecars of the earlier run have not ended within --wait-timeout %s: going on without waiting",
				s.WaitTimeout)
		err = nil
	}
	return true, err
}

// awaitTargets waits until each address of --wait-for has answered once, at most
// WaitTimeout. If a sidecar has ended, it logs that and goes on waiting, because the kubelet
// may restart the sidecar.
func (s *session) awaitTargets() error {
	if len(s.WaitFor) == 0 {
		return nil
	}
	var addresses []string
	for _, target := range s.WaitFor {
		addresses = append(addresses, target.String())
	}
	process.CatchOtherSignals()
	began := time.Now()
	s.Log.Info().Msgf("waiting for %s, at most %s", strings.Join(addresses, ", "), s.WaitTimeout)
	err := s.interruptible(func(ctx context.Context) error {
		limited, cancel := context.WithTimeout(ctx, s.WaitTimeout)
		defer cancel()
		err := probe.Wait(limited, s.WaitFor, func(target probe.Target) {
			s.Log.Info().Msgf("%s answered after %s", target, waited(began))
		}, func(err error) {
			s.Log.Info().Msgf("still waiting after %s: %v%s", waited(began), err, s.endedRuns(ctx))
		})
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("--wait-for timed out after --wait-timeout %s: %w%s",
				s.WaitTimeout, err, s.endedRuns(ctx))
		}
		return err
	})
	return err
}

// endedRuns lists the runs on the volume that have ended, as the tail of a message: whoever
// reads that a sidecar's address does not answer should learn that the sidecar has ended.
func (s *session) endedRuns(ctx context.Context) (text string) {
	for _, run := range lifetime.Runs(ctx, lifetime.Dir(s.Dir)) {
		if run.Phase == lifetime.Ended {
			text += fmt.Sprintf("; %s has ended with %d: see its log", run.Name, run.Code)
		}
	}
	return text
}

// waited is the time since a wait began, rounded for messages.
func waited(began time.Time) time.Duration {
	d := time.Since(began)
	if d < time.Second {
		return d.Round(time.Millisecond)
	}
	return d.Round(100 * time.Millisecond)
}
