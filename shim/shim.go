// Package shim wraps the entrypoint of a sidecar: it follows the runs of the mains on the shared
// volume, stops the sidecar when they have ended, and ends with their exit code (design, 4).
//
// The rules are one pure function, in rules.go. The loop in this file owns all state: it waits for
// an event, looks at everything, asks the rules, and acts.
package shim

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/sentinel-shim/sentinel-shim/sentinel/crashpoint"
	"github.com/sentinel-shim/sentinel-shim/sentinel/exitcode"
	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
	"github.com/sentinel-shim/sentinel-shim/sentinel/process"
)

// RestartPolicy is the restartPolicy of main's container: the pod's, unless the container has
// one of its own (Kubernetes 1.35 and later, KEP-5307).
type RestartPolicy string

const (
	// Undeclared: a failure found at the start is stale if this shim has run before on this volume.
	Undeclared RestartPolicy = ""
	// OnFailure: a main that has failed comes back.
	OnFailure RestartPolicy = "OnFailure"
	// Never: a main that has failed does not come back.
	Never RestartPolicy = "Never"
)

// Config configures a shim: its command line, and what the process provides.
type Config struct {
	// Dir is the shared volume, Name this shim's own run, and Mains are the runs to follow.
	Dir, Name string
	Mains     []string
	// StopSignal stops the sidecar. The shim treats it like SIGTERM when it receives it itself: the
	// kubelet sends what the image names as its STOPSIGNAL.
	StopSignal syscall.Signal
	// GracePeriod is the time between the stop signal and SIGKILL.
	GracePeriod time.Duration
	// Drain is how long the sidecar is kept after the mains have ended.
	Drain time.Duration
	// Hold is how long, at most, a SIGTERM is kept from the sidecar while a main is running. With 0
	// it stops the sidecar at once.
	Hold time.Duration
	// LostAfter is the parameter of lifetime.Watch.
	LostAfter time.Duration
	// StartTimeout is the time within which every main must begin; 0 is no limit.
	StartTimeout time.Duration
	// RestartPolicy is that of main's container, if declared.
	RestartPolicy RestartPolicy
	// KeepOnFailure keeps the sidecar when a main fails, because main comes back. It implies OnFailure.
	KeepOnFailure bool
	// NativeSidecar reports that the sidecar is an init container with restartPolicy Always (Kubernetes 1.29 and
	// later, KEP-753). When the mains have ended and do not come back, the shim leaves it to the kubelet to stop
	// the sidecar.
	NativeSidecar bool
	// Command is the sidecar's command and its arguments. It is not empty.
	Command []string
	// Version is the program's, for the log.
	Version string

	// Signals delivers the signals that the process receives: process.CatchSignals.
	Signals <-chan os.Signal
	// TerminationLog is the file for the container's termination message.
	TerminationLog string
	Log            zerolog.Logger
}

// Run runs the sidecar until it has ended, by itself or because the mains have. It returns the exit
// code for the program: the mains', or the sidecar's if that ends first, or one of package exitcode.
func Run(cfg Config) int {
	process.Catch(cfg.StopSignal) // the kubelet may send it before the sidecar has started
	cfg.logStart()
	if err := lifetime.CheckVolume(cfg.Dir); err != nil {
		return cfg.reportNotBegun(err)
	}
	if cfg.LostAfter < lifetime.MinLostAfter {
		cfg.Log.Warn().Msgf("--lost-after %s is less than %s: "+
			"where locks are not shared between containers, a running main may count as lost",
			cfg.LostAfter, lifetime.MinLostAfter)
	}
	watcher, err := lifetime.Watch(lifetime.Dir(cfg.Dir), cfg.Mains, cfg.LostAfter)
	if err != nil {
		cfg.Log.Warn().Err(err).Msg("no events from the volume: looking at it once a second instead")
	}
	defer watcher.Close()
	crashpoint.At("shim.watching")

	warnWaiting := func(live *lifetime.LiveError) {
		process.CatchOtherSignals()
		cfg.Log.Warn().Msg(live.Waiting())
	}
	run, ranBefore, err := lifetime.Begin(context.Background(), lifetime.Dir(cfg.Dir), cfg.Name, warnWaiting)
	var live *lifetime.LiveError
	if errors.As(err, &live) {
		return cfg.reportNotBegun(err)
	}
	if err != nil {
		cfg.Log.Warn().Err(err).Msgf("the run of %s is not recorded", cfg.Name)
	}

	crashpoint.At("shim.begun")
	l := &loop{
		Config:  cfg,
		rules:   cfg.rules(ranBefore),
		watcher: watcher,
		run:     run,
		began:   time.Now(),
		state:   newState(len(cfg.Mains)),
	}
	l.rules.cannotAnnounce = run == nil
	l.deps = dependencies{l.now, watcher.Look, l.sidecar, l.do}
	code := l.untilFinished()
	crashpoint.At("shim.ended")
	if run != nil {
		if err := run.End(code); err != nil {
			cfg.Log.Warn().Err(err).Int("code", code).Msgf("the end of %s could not be recorded in the usual way", cfg.Name)
		}
	}
	l.awaitSync()
	l.report()
	return code
}

// rules returns the rules for this command line. ranBefore reports whether this shim has run before
// on this volume.
func (cfg Config) rules(ranBefore bool) rules {
	return rules{
		drain: cfg.Drain, hold: cfg.Hold, startTimeout: cfg.StartTimeout,
		keepOnFailure: cfg.KeepOnFailure, nativeSidecar: cfg.NativeSidecar, neverRestarts: cfg.RestartPolicy == Never,
		staleAtStart: cfg.expectsReturn(ranBefore),
	}
}

// expectsReturn reports whether a main that had already failed when this shim started comes back
// (design, 4.1).
func (cfg Config) expectsReturn(ranBefore bool) bool {
	switch {
	case cfg.KeepOnFailure:
		return true
	case cfg.RestartPolicy != Undeclared:
		return cfg.RestartPolicy == OnFailure
	}
	// The kubelet has restarted this container, so it restarts main's, too, unless that has another
	// policy. Such a policy must be declared.
	return ranBefore
}

// loop owns the state of a running shim.
type loop struct {
	Config
	rules   rules
	watcher *lifetime.Watcher
	run     *lifetime.Run // nil if it could not be recorded
	began   time.Time
	state   state
	deps    dependencies // the methods now, sidecar and do, and the watcher's Look
	// synced is closed when syncEnds has finished; nil before syncEnds.
	synced chan struct{}

	process      *process.Process // the sidecar's; nil before the launch
	earlySignals []syscall.Signal // received before the launch, forwarded after it
	launchErr    error
	launchedAt   time.Time
	drainBegan   time.Duration // since the shim's start

	stopResult    <-chan process.Stopped // from process.Stop; nil before it
	stopBegan     time.Time
	stopTook      time.Duration
	stopped       *process.Stopped // nil until process.Stop has returned
	refusalLogged bool             // a signal for the sidecar was not permitted, and the log says so
}

// untilFinished runs the loop until the shim is finished, and returns the exit code.
func (l *loop) untilFinished() (code int) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var e event
	for len(l.Signals) > 0 { // received during Begin
		e.term = l.receive(<-l.Signals) || e.term
	}
	for {
		l.step(e)
		if l.state.phase == finished {
			return l.state.exit.code
		}
		timer.Stop()
		if at := l.rules.wakeAt(l.state); at > 0 {
			timer.Reset(at - l.now())
		}
		e = l.wait(timer.C)
	}
}

// wait blocks until something may have changed.
func (l *loop) wait(timeout <-chan time.Time) (e event) {
	var exited <-chan struct{}
	if l.process != nil && l.stopResult == nil {
		exited = l.process.Exited()
	}
	select {
	case <-l.watcher.Hints():
	case <-timeout:
	case <-exited:
	case sig := <-l.Signals:
		e.term = l.receive(sig)
	case stopped := <-l.stopResult:
		l.stopped, l.stopTook = &stopped, time.Since(l.stopBegan)
	}
	return e
}

// receive reports whether sig asks the shim to stop. It forwards all other signals to the sidecar.
func (l *loop) receive(sig os.Signal) (term bool) {
	switch {
	case sig == syscall.SIGTERM || sig == l.StopSignal:
		return true
	case l.process == nil:
		l.earlySignals = append(l.earlySignals, sig.(syscall.Signal))
	default:
		l.signal(sig.(syscall.Signal))
	}
	return false
}

// signal forwards a signal to the sidecar. It logs only the first error.
func (l *loop) signal(sig syscall.Signal) {
	if err := l.process.Signal(sig); err != nil && !l.refusalLogged {
		l.refusalLogged = true
		l.Log.Error().Msg(err.Error())
	}
}

// step takes turns until the next one must wait for an event. It logs the changes only after the
// last turn, so the log delays no action.
func (l *loop) step(e event) {
	states := []state{l.state}
	for wokenBy := e; ; wokenBy = (event{}) {
		l.state = l.rules.turn(l.deps, l.state, wokenBy)
		states = append(states, l.state)
		if !l.state.looksAgain() {
			break
		}
	}
	for i, now := range states[1:] {
		l.logTurn(states[i], now, e)
		e = event{}
	}
}

func (l *loop) now() time.Duration { return time.Since(l.began) }

// sidecar is dependencies.sidecar. A process that is left when process.Stop has returned counts as
// gone and as killed: it hangs in the kernel, or may not be signalled.
func (l *loop) sidecar() (exited, gone bool, code int) {
	switch {
	case l.process == nil:
		return false, false, exitcode.OK
	case l.stopResult != nil:
		gone = l.stopped != nil
	default:
		gone = isClosed(l.process.AllExited())
	}
	if !isClosed(l.process.Exited()) {
		return false, gone, exitcode.Lost
	}
	return true, gone, l.process.Status().Code
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// do is dependencies.do.
func (l *loop) do(a action, _, to state) error {
	switch a {
	case launch:
		return l.launch()
	case announceStopping:
		crashpoint.At("stop.decided")
		if l.run != nil {
			l.logNotWritten(l.run.AnnounceStopping())
		}
		crashpoint.At("stop.announced")
	case retractStopping:
		if l.run != nil {
			l.logNotWritten(l.run.RetractStopping())
		}
	case stop:
		l.stopBegan = time.Now()
		l.stopResult = l.process.Stop(l.StopSignal, l.GracePeriod)
		if to.exit.mains != nil {
			l.syncEnds()
		}
		l.watcher.Unsubscribe()
	case warnNotBegun:
		l.logNotBegun(to.warned == 1)
	}
	return nil
}

func (l *loop) launch() error {
	l.launchedAt = time.Now()
	l.process, l.launchErr = process.Start(l.Command)
	if l.launchErr != nil {
		return l.launchErr
	}
	crashpoint.At("shim.launched")
	for _, sig := range l.earlySignals {
		l.signal(sig)
	}
	return nil
}

// syncWait is how long a finished shim waits, at most, for the mains' ends to reach the disk. A disk
// that does not answer must not keep the pod from ending.
const syncWait = time.Second

// syncEnds writes the mains' ends to the disk, in the background. The sentinels do not wait for the
// disk themselves (design, 2.4).
func (l *loop) syncEnds() {
	l.synced = make(chan struct{})
	go func() {
		defer close(l.synced)
		for _, main := range l.Mains {
			if err := lifetime.Sync(lifetime.Dir(l.Dir), main); err != nil {
				l.Log.Debug().Err(err).Msgf("the end of %s may be lost if the node crashes", main)
			}
		}
	}()
}

func (l *loop) awaitSync() {
	if l.synced == nil {
		return
	}
	select {
	case <-l.synced:
	case <-time.After(syncWait):
		l.Log.Warn().Msgf("the mains' ends are not on disk after %s: they may be lost if the node crashes", syncWait)
	}
}

// program is the sidecar's name in messages.
func (l *loop) program() string { return filepath.Base(l.Command[0]) }
