package shim

import "github.com/sentinel-shim/sentinel-shim/sentinel/exitcode"

// What must hold in every schedule of a simulated pod. sim.take and sim.do call these checks, at the step or move that
// they are about; the explorer calls checkEnd.

// checkExit checks a wrapper that exits.
func (s *sim) checkExit(w *situation, i, code int) error {
	if code != exitcode.OK {
		return nil
	}
	mains := []int{i}
	if i >= s.mains {
		mains = s.shim(i).mains
	}
	for _, main := range mains {
		if !w.actors[main].succeeded {
			return violated(onlySuccess, "the %s exits with 0, but %s has not", s.nameOfActor(i), s.nameOfRun(main))
		}
	}
	return nil
}

// checkStop checks a shim that decides to stop its sidecar, or not to launch it.
func (s *sim) checkStop(w *situation, i int, why reason) error {
	if why != mainEnded {
		return nil
	}
	for m, main := range s.shim(i).mains {
		if s.sawLive(w, i, m) {
			return violated(notOlder, "the %s decides to stop after a look during which %s was running all the time",
				s.nameOfActor(i), s.nameOfRun(main))
		}
	}
	return nil
}

// checkLaunch checks a sentinel that launches its command.
func (s *sim) checkLaunch(w *situation, main int) error {
	for i := s.mains; i < s.actors; i++ {
		a := &w.actors[i]
		stops := a.container == containerRunning && a.side == sidecarStopping && a.why == mainEnded
		if stops && s.follows(i, main) && s.hasBarrier(i) {
			return violated(notOlder, "%s starts while the %s is stopping its sidecar",
				s.nameOfRun(main), s.nameOfActor(i))
		}
	}
	return nil
}

// checkEnd checks a pod that has ended.
func (s *sim) checkEnd(w *situation) error {
	if w.gone {
		return nil
	}
	for i := s.mains; i < s.actors; i++ {
		mains, name := s.shim(i).mains, s.nameOfActor(i)
		shim, main, nameOfMain := &w.actors[i], &w.actors[mains[0]], s.nameOfRun(mains[0])
		if s.policy == Never && len(mains) == 1 && w.kills == 0 && shim.code != main.code {
			return violated(allFail, "%s has ended with %d, but the %s with %d", nameOfMain, main.code, name, shim.code)
		}
		if s.policy == Never && !main.succeeded && shim.code == exitcode.OK {
			return violated(allFail, "the %s has ended with 0, but %s has not", name, nameOfMain)
		}
		if s.policy != OnFailure || w.kills > 0 {
			continue
		}
		switch together := s.prompt && s.events && s.hasBarrier(i); {
		case s.shim(i).keep && shim.starts != 1:
			return violated(oneRestart, "the %s has started %d times", name, shim.starts)
		case len(mains) > 1: // a main that fails may come back while the other one runs on
		case !s.shim(i).keep && together && shim.starts != main.starts:
			return violated(tandem, "%s has started %d times, but the %s %d times",
				nameOfMain, main.starts, name, shim.starts)
		}
	}
	return nil
}

const (
	onlySuccess invariant = "success is reported only if main exited 0"
	allFail     invariant = "every container of a failed attempt ends non-zero"
	notOlder    invariant = "a shim is never stopped by an end older than main's last start"
	notLost     invariant = "a live run is never taken for lost"
	tandem      invariant = "restart counts stay equal in tandem"
	oneRestart  invariant = "keep-on-failure costs one restart per attempt"
)

// hasBarrier reports whether a restarting main can know that a shim is stopping.
func (s *sim) hasBarrier(shim int) bool { return s.locks && !s.foreign && !s.shim(shim).readOnly }

// sawLive reports whether a main's run was live all through a shim's last look.
func (s *sim) sawLive(w *situation, shim, m int) bool {
	a, main := &w.actors[shim], &w.actors[s.shim(shim).mains[m]]
	return a.saw[m] != 0 && main.live && a.saw[m] == main.starts
}
