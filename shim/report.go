package shim

import (
	"fmt"
	"strings"
	"time"

	"github.com/sentinel-shim/sentinel-shim/sentinel/exitcode"
	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
	"github.com/sentinel-shim/sentinel-shim/sentinel/process"
	"github.com/sentinel-shim/sentinel-shim/sentinel/terminationlog"
)

// What the shim tells people.

// tell logs what has changed.
func (l *loop) tell(before, now state) {
	for i, main := range now.mains {
		l.tellMain(l.Mains[i], before.mains[i], main)
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
			log.Msgf("%s goes on: main has begun", l.program())
		}
	case holding:
		log.Msgf("asked to stop: %s is kept until main has ended, at most %s (--hold)", l.program(), l.Hold)
	case draining:
		log.Msgf("main has ended: %s is kept for %s (--drain)", l.program(), (now.deadline - l.now()).Round(time.Millisecond))
	case stopping:
		log.Msgf("stopping %s with %s", l.program(), process.SignalName(l.StopSignal))
	}
}

func (l *loop) tellMain(name string, before, now mainState) {
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
			log.Msgf("%s is taken for running: nobody holds the lock of its file, lost if the file stands still for %s (--lost-after)", name, l.LostAfter)
		}
	case lifetime.Ended:
		if now.Cause != lifetime.Recorded {
			log = l.Log.Warn().Str("main", name)
		}
		log.Int("code", now.Code).Msgf("%s%s", describeEnd(l.Dir, name, now), ifStale(now))
	}
}

func describeEnd(dir, name string, m mainState) string {
	file := lifetime.TerminatedPath(dir, name)
	switch m.Cause {
	case lifetime.Lost:
		return fmt.Sprintf("%s was killed without a word (out of memory?)", name)
	case lifetime.Touched:
		return fmt.Sprintf("%s is empty: taken for a success; write the exit code into it", file)
	case lifetime.Unreadable:
		return fmt.Sprintf("%s holds no exit code: taken for a failure; write a number from 0 to 255 into it, readable to all", file)
	}
	return fmt.Sprintf("%s exited %d", name, m.Code)
}

func ifStale(m mainState) string {
	if m.stale {
		return ", in an earlier attempt: waiting for the next"
	}
	return ""
}

// warn logs that the shim's own file could not be written to.
func (l *loop) warn(err error) {
	if err != nil {
		l.Log.Warn().Err(err).Msgf("the state of %s could not be written: a main that restarts will not wait for it to end", l.Name)
	}
}

func (l *loop) warnNotBegun() {
	for i, m := range l.state.mains {
		if !m.hasBegun() {
			l.Log.Warn().Str("main", l.Mains[i]).Msgf("%s has not begun after %s: is the volume mounted in the main container at the same --dir, is its command wrapped by sentinel, does --main name it?", l.Mains[i], l.now().Round(time.Second))
		}
	}
}

// report says how it ended, in the log and to Kubernetes.
func (l *loop) report() {
	message := l.summary()
	log := l.Log.Info()
	if l.state.code != exitcode.OK {
		log = l.Log.Error()
	}
	if exited, _, code := l.sidecar(); exited {
		log = log.Int("sidecar_code", code)
	}
	log.Int("code", l.state.code).Msg(message)
	terminationlog.Write(l.TerminationLog, message)
}

// summary is the story of the shim in one line.
func (l *loop) summary() string {
	if l.failed != nil {
		return fmt.Sprintf("%s was not started: %v", l.program(), l.failed)
	}
	var cause string
	switch l.state.why {
	case mainEnded:
		cause = l.ends()
	case terminated:
		cause = "asked to stop"
		if l.state.ends != nil {
			cause += ", " + l.ends()
		}
	case startTimedOut:
		cause = fmt.Sprintf("main did not begin within --start-timeout %s", l.StartTimeout)
	case sidecarEnded:
		return fmt.Sprintf("%s before main had ended", describeStatus(l.program(), l.process.Status()))
	}
	switch {
	case l.process == nil:
		return fmt.Sprintf("%s; %s was not started", cause, l.program())
	case l.stopped == nil:
		return fmt.Sprintf("%s; %s", cause, describeStatus(l.program(), l.process.Status()))
	case l.killed:
		return fmt.Sprintf("%s; %s did not heed %s and was killed after %.1fs", cause, l.program(), process.SignalName(l.StopSignal), l.stopTook.Seconds())
	}
	return fmt.Sprintf("%s; %s stopped by %s in %.1fs", cause, l.program(), process.SignalName(l.StopSignal), l.stopTook.Seconds())
}

// ends are the mains' ends that the exit code was made of.
func (l *loop) ends() string {
	var ends []string
	for i, m := range l.state.ends {
		how := fmt.Sprintf("exited %d", m.Code)
		switch m.Cause {
		case lifetime.Lost:
			how = fmt.Sprintf("was killed (%d)", m.Code)
		case lifetime.Unreadable:
			how = fmt.Sprintf("left no exit code (%d)", m.Code)
		}
		ends = append(ends, l.Mains[i]+" "+how)
	}
	return strings.Join(ends, ", ")
}

func describeStatus(program string, status process.Status) string {
	if status.Signal != 0 {
		return fmt.Sprintf("%s died of %s", program, process.SignalName(status.Signal))
	}
	return fmt.Sprintf("%s exited %d by itself", program, status.Code)
}
