package sentinel

import (
	"context"
	"errors"
	"time"

	"github.com/sentinel-shim/sentinel-shim/sentinel/crashpoint"
	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
	"github.com/sentinel-shim/sentinel-shim/sentinel/probe"
)

// barrierPoll is how often a sentinel that restarts looks whether the sidecars of
// the run before are still stopping.
const barrierPoll = 20 * time.Millisecond

// awaitSidecars is the restart barrier: the sidecars of the run before are given
// time to end, so that this attempt does not work through one that is about to be
// cut off.
func (s *session) awaitSidecars() (done bool, err error) {
	volume := lifetime.Dir(s.Dir)
	var stopping []string
	err = s.during(func(ctx context.Context) error {
		stopping = lifetime.Stopping(ctx, volume)
		return ctx.Err()
	})
	if err != nil || len(stopping) == 0 {
		return true, err
	}
	s.Log.Info().Strs("sidecars", stopping).Msg("waiting for the sidecars of the run before to end")
	crashpoint.At("sentinel.barred")
	err = s.during(func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, s.WaitTimeout)
		defer cancel()
		pause := barrierPoll
		for len(stopping) > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(pause):
				pause = barrierPoll
			}
			if stopping = lifetime.StillStopping(volume, stopping); len(stopping) == 0 {
				// Another may have come since. To look through 50,000 files
				// takes a while, and is not to be done all the time.
				began := time.Now()
				stopping = lifetime.Stopping(ctx, volume)
				pause = min(max(barrierPoll, 10*time.Since(began)), time.Second)
			}
		}
		return ctx.Err()
	})
	s.early = nil
	if errors.Is(err, context.DeadlineExceeded) {
		s.Log.Warn().Strs("sidecars", stopping).Msgf("the sidecars of the run before have not ended within --wait-timeout %s: going on without waiting", s.WaitTimeout)
		return true, nil
	}
	return true, err
}

// awaitTargets waits until the addresses of --wait-for answer.
func (s *session) awaitTargets() error {
	if len(s.WaitFor) == 0 {
		return nil
	}
	err := s.during(func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, s.WaitTimeout)
		defer cancel()
		return probe.Wait(ctx, s.WaitFor)
	})
	s.early = nil // what comes while we wait is for nobody
	return err
}
