package shim

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sentinel-shim/sentinel-shim/sentinel/exitcode"
	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
	"github.com/sentinel-shim/sentinel-shim/sentinel/process"
	"github.com/sentinel-shim/sentinel-shim/sentinel/terminationlog"
)

// What the shim logs. In every line, "code" is the shim's own exit code, "main_code" a main's, and
// "sidecar_code" the sidecar's.

func (cfg Config) logStart() {
	cfg.Log.Info().Str("version", cfg.Version).Str("name", cfg.Name).Str("dir", cfg.Dir).Strs("mains", cfg.Mains).
		Msgf("shim %s follows %s on %s", cfg.Version, strings.Join(cfg.Mains, ", "), cfg.Dir)
}

// reportNotBegun reports why the shim could not begin, in the log and as the container's termination
// message, and returns the exit code.
func (cfg Config) reportNotBegun(err error) (code int) {
	message := fmt.Sprintf("%s was not started: %v", filepath.Base(cfg.Command[0]), err)
	cfg.Log.Error().Int("code", exitcode.Wrapper).Msg(message)
	terminationlog.Write(cfg.TerminationLog, message)
	return exitcode.Wrapper
}

// logTurn logs what a turn has changed. e has woken the turn.
func (l *loop) logTurn(before, now state, e event) {
	l.logStates(before, now, e)
	for i, main := range now.mains {
		l.logMain(l.Mains[i], before.mains[i], main)
	}
	if now.phase == up && l.rules.leftToKubelet(now) && !l.rules.leftToKubelet(before) {
		l.drainBegan = l.now()
		l.Log.Info().Msgf("main has ended: %s is kept until the kubelet's SIGTERM (--native-sidecar)", l.program())
	}
	if before.phase == now.phase {
		return
	}
	log := l.Log.Info()
	switch now.phase {
	case up:
		if before.phase == starting {
			log.Int("pid", l.process.PID()).Msgf("%s started", l.program())
		} else {
			log.Msgf("%s is kept: main has begun", l.program())
		}
	case holding:
		log.Msgf("asked to stop: %s is kept until main has ended, at most %s (--hold)", l.program(), l.Hold)
	case draining:
		l.drainBegan = l.now()
		left := (now.drainUntil - l.drainBegan).Round(time.Millisecond)
		if now.why == terminated && left < l.Drain {
			log.Msgf("main has ended: %s is kept for %s, the rest of --hold %s (--drain is %s)",
				l.program(), left, l.Hold, l.Drain)
		} else {
			log.Msgf("main has ended: %s is kept for %s (--drain)", l.program(), l.Drain)
		}
	case stopping:
		cutOff := before.phase == draining && e.term
		if before.phase == confirming && now.why == terminated && now.all(l.rules.final) {
			if !l.rules.leftToKubelet(now) {
				l.drainBegan = l.now() // SIGTERM came before the look that saw main's end
			}
			cutOff = l.now()-l.drainBegan < l.Drain
		}
		if cutOff {
			l.Log.Warn().Msgf("--drain was cut off by SIGTERM after %s of %s: "+
				"if this is a native sidecar, delay the SIGTERM (lifecycle.preStop.sleep)",
				(l.now() - l.drainBegan).Round(100*time.Millisecond), l.Drain)
		}
		log.Msgf("stopping %s with %s", l.program(), process.SignalName(l.StopSignal))
	}
}

// logStates logs the states of all mains: at level debug if the phase has changed, else at level trace.
func (l *loop) logStates(before, now state, e event) {
	log, changed := l.Log.Trace(), before.phase != now.phase
	if changed {
		log = l.Log.Debug()
	}
	if !log.Enabled() {
		return
	}
	var seen []string
	for i, main := range now.mains {
		seen = append(seen, l.Mains[i]+" "+describeState(main))
	}
	if e.term {
		seen = append(seen, "SIGTERM")
	}
	log = log.Strs("seen", seen)
	if changed {
		log.Msgf("from %s to %s", before.phase, now.phase)
	} else {
		log.Msg("nothing to do")
	}
}

func describeState(m mainState) string {
	switch m.Phase {
	case lifetime.NotStarted:
		return "not started"
	case lifetime.Unsettled:
		return "not settled"
	case lifetime.Running:
		return "running"
	case lifetime.Unverified:
		return "unverified"
	}
	if m.stale {
		return fmt.Sprintf("ended %d, in an earlier attempt", m.Code)
	}
	return fmt.Sprintf("ended %d", m.Code)
}

func (l *loop) logMain(name string, before, now mainState) {
	if before.Phase == now.Phase && before.ID == now.ID {
		return
	}
	log := l.Log.Info().Str("main", name)
	switch now.Phase {
	case lifetime.Running:
		if before.Phase != lifetime.Running {
			log.Msgf("%s is running", name)
		}
	case lifetime.Unverified:
		if before.Phase != lifetime.Unverified {
			log.Msgf("%s is taken for running: no lock on its file is seen: "+
				"%s counts as lost if the file does not change for %s (--lost-after)", name, name, l.LostAfter)
		}
	case lifetime.Ended:
		if now.Cause != lifetime.Recorded {
			log = l.Log.Warn().Str("main", name)
		}
		log.Int("main_code", now.Code).Msgf("%s%s", describeEnd(l.Dir, name, now), ifStale(now))
	}
}

func describeEnd(dir, name string, m mainState) string {
	file := lifetime.TerminatedPath(dir, name)
	switch m.Cause {
	case lifetime.Lost:
		return fmt.Sprintf("%s was killed before it could record an exit code (out of memory?)", name)
	case lifetime.Empty:
		return fmt.Sprintf("%s is empty: counted as a success: write the exit code into it", file)
	case lifetime.NoRoom:
		return fmt.Sprintf("%s is empty and the volume is full: counted as a failure (%d): "+
			"free space or raise sizeLimit", file, m.Code)
	case lifetime.Unreadable:
		return fmt.Sprintf("%s holds no exit code: counted as a failure (%d): "+
			"write a number from 0 to 255 into it and make it readable for all users", file, m.Code)
	}
	return fmt.Sprintf("%s exited %d", name, m.Code)
}

func ifStale(m mainState) string {
	if m.stale {
		return ", in an earlier attempt: waiting for the next"
	}
	return ""
}

// logNotWritten warns that "stopping" or "running" could not be written to the shim's own file.
func (l *loop) logNotWritten(err error) {
	if err != nil {
		l.Log.Warn().Err(err).Msgf("the state of %s could not be written: "+
			"a main that restarts will not wait for %s to end", l.Name, l.Name)
	}
}

// logNotBegun warns about the mains that have not begun. The first warning needs runs of other names on
// the volume (see warnAfter).
func (l *loop) logNotBegun(first bool) {
	runs := "no other run is on the volume"
	if others := l.otherRuns(); len(others) > 0 {
		runs = "the other runs on the volume are " + strings.Join(others, ", ")
	} else if first {
		return
	}
	for i, m := range l.state.mains {
		if !m.hasBegun() {
			l.Log.Warn().Str("main", l.Mains[i]).Msgf("%s has not begun after %s, %s: check that the main container "+
				"mounts the volume at the same --dir, that sentinel wraps its command, and that --main names the run",
				l.Mains[i], l.now().Round(time.Second), runs)
		}
	}
}

// otherRuns returns the names of the runs on the volume that are neither mains nor this shim's own. It
// blocks the loop, so it reads a huge directory for at most 100 ms.
func (l *loop) otherRuns() (names []string) {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	for _, run := range lifetime.Runs(ctx, lifetime.Dir(l.Dir)) {
		if run.Name != l.Name && !slices.Contains(l.Mains, run.Name) {
			names = append(names, run.Name)
		}
	}
	return names
}

// report reports how the shim has ended, in the log and as the container's termination message.
func (l *loop) report() {
	message := l.summary()
	log := l.Log.Info()
	if l.state.exit.code != exitcode.OK {
		log = l.Log.Error()
	}
	if exited, _, code := l.sidecar(); exited {
		log = log.Int("sidecar_code", code)
	}
	if l.process != nil {
		log = log.Float64("duration_seconds", float64(time.Since(l.launchedAt).Milliseconds())/1000)
	}
	log.Int("code", l.state.exit.code).Msg(message)
	terminationlog.Write(l.TerminationLog, message)
}

// summary is one line: why the shim has ended, and how the sidecar has.
func (l *loop) summary() string {
	if l.launchErr != nil {
		return fmt.Sprintf("%s was not started: %v", l.program(), l.launchErr)
	}
	var cause string
	switch l.state.why {
	case mainEnded:
		cause = l.describeMains()
	case terminated:
		cause = "asked to stop"
		if l.state.exit.mains != nil {
			cause += ", " + l.describeMains()
		}
	case startTimedOut:
		cause = fmt.Sprintf("main did not begin within --start-timeout %s", l.StartTimeout)
	case sidecarEnded:
		status := l.process.Status()
		if status.Err != nil { // names the program itself
			return "before main had ended: " + status.Err.Error()
		}
		return fmt.Sprintf("%s before main had ended", describeStatus(l.program(), status))
	}
	switch {
	case l.process == nil:
		return fmt.Sprintf("%s; %s was not started", cause, l.program())
	case l.stopped == nil:
		return fmt.Sprintf("%s; %s", cause, describeStatus(l.program(), l.process.Status()))
	}
	return fmt.Sprintf("%s; %s", cause, l.describeStop())
}

// describeStop describes how the sidecar and the processes that it had started were stopped.
func (l *loop) describeStop() string {
	switch {
	case l.stopped.Refused != nil:
		return fmt.Sprintf("%s was not stopped: %v", l.program(), l.stopped.Refused)
	case !l.stopped.Killed:
		return fmt.Sprintf("%s stopped by %s in %.1fs",
			l.program(), process.SignalName(l.StopSignal), l.stopTook.Seconds())
	case !l.stopped.Exited:
		return fmt.Sprintf("%s did not stop within %s of %s and was killed",
			l.program(), l.GracePeriod, process.SignalName(l.StopSignal))
	}
	left := "processes that it had started"
	if len(l.stopped.Survivors) > 0 {
		left = strings.Join(l.stopped.Survivors, ", ")
	}
	return fmt.Sprintf("%s ended, but %s did not stop within %s (--grace-period) and had to be killed",
		l.program(), left, l.GracePeriod)
}

// describeMains describes the mains' ends that the exit code comes from.
func (l *loop) describeMains() string {
	var ends []string
	for i, m := range l.state.exit.mains {
		how := fmt.Sprintf("exited %d", m.Code)
		switch m.Cause {
		case lifetime.Lost:
			how = fmt.Sprintf("was killed (%d)", m.Code)
		case lifetime.Unreadable, lifetime.NoRoom:
			how = fmt.Sprintf("left no exit code (%d)", m.Code)
		}
		ends = append(ends, l.Mains[i]+" "+how)
	}
	return strings.Join(ends, ", ")
}

func describeStatus(program string, status process.Status) string {
	if status.Err != nil {
		return status.Err.Error()
	}
	if status.Signal != 0 {
		return fmt.Sprintf("%s died of %s", program, process.SignalName(status.Signal))
	}
	return fmt.Sprintf("%s exited %d by itself", program, status.Code)
}
