// Package shim wraps the entrypoint of a sidecar: it follows the runs of the mains
// on the shared volume, stops the sidecar when they have ended, and ends with their
// exit code.
//
// What it does and when is one pure function, in rules.go. Here is the one loop that
// feeds it: it owns all state, waits for what may happen, looks, asks, acts.
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
	// Undeclared: the shim judges by whether it has run before on this volume.
	Undeclared RestartPolicy = ""
	// OnFailure: a main that has failed comes back.
	OnFailure RestartPolicy = "OnFailure"
	// Never: a main that has failed does not come back.
	Never RestartPolicy = "Never"
)

// Config is what a shim is told on its command line.
type Config struct {
	// Dir is the shared volume, Name this shim's own run, and Mains are the
	// runs to follow.
	Dir, Name string
	Mains     []string
	// StopSignal is what the sidecar is stopped with. Received by the shim, it
	// means the same as SIGTERM: what an image names as its STOPSIGNAL is what
	// the kubelet sends.
	StopSignal syscall.Signal
	// GracePeriod is the time between the stop signal and SIGKILL.
	GracePeriod time.Duration
	// Drain is for how long the sidecar is kept after the end of the mains.
	Drain time.Duration
	// Hold is for how long at most a SIGTERM is kept from the sidecar while a
	// main is running; 0 is not at all.
	Hold time.Duration
	// LostAfter: see lifetime.Watch.
	LostAfter time.Duration
	// StartTimeout is within what time every main has to begin; 0 is none.
	StartTimeout time.Duration
	// RestartPolicy is that of main's container, if declared.
	RestartPolicy RestartPolicy
	// KeepOnFailure keeps the sidecar when a main fails, for it comes back. It
	// implies OnFailure.
	KeepOnFailure bool
	// Command is the sidecar's command and its arguments.
	Command []string
	// Version is the program's, for the log.
	Version string

	// Signals is where process.CatchSignals delivers.
	Signals <-chan os.Signal
	// TerminationLog is the file for the container's termination message.
	TerminationLog string
	Log            zerolog.Logger
}

// Run runs the sidecar and returns the exit code for the program: that of the
// mains, or the sidecar's own if it ends first, or one of package exitcode's.
func Run(cfg Config) int {
	cfg.tellStart()
	if err := lifetime.CheckVolume(cfg.Dir); err != nil {
		return cfg.refuse(err)
	}
	if cfg.LostAfter < lifetime.MinLostAfter {
		cfg.Log.Warn().Msgf("--lost-after %s is less than %s: where locks are not shared between containers, a live main may be taken for dead", cfg.LostAfter, lifetime.MinLostAfter)
	}
	watcher, err := lifetime.Watch(lifetime.Dir(cfg.Dir), cfg.Mains, cfg.LostAfter)
	if err != nil {
		cfg.Log.Warn().Err(err).Msg("no events from the volume: looking at it once a second instead")
	}
	defer watcher.Close()
	crashpoint.At("shim.watching")

	run, ranBefore, err := lifetime.Begin(context.Background(), lifetime.Dir(cfg.Dir), cfg.Name, func(live *lifetime.LiveError) {
		cfg.Log.Warn().Msg(live.Waiting())
	})
	var live *lifetime.LiveError
	if errors.As(err, &live) {
		return cfg.refuse(err)
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
	l.surroundings = surroundings{l.now, watcher.Look, l.sidecar, l.do}
	code := l.untilFinished()
	crashpoint.At("shim.ended")
	if run != nil {
		if err := run.End(code); err != nil {
			cfg.Log.Warn().Err(err).Int("code", code).Msgf("the end of %s could not be recorded as it should", cfg.Name)
		}
	}
	l.awaitSync()
	l.report()
	return code
}

// rules are what the command line says, given whether this shim has run before.
func (cfg Config) rules(ranBefore bool) rules {
	return rules{
		drain: cfg.Drain, hold: cfg.Hold, startTimeout: cfg.StartTimeout,
		keepOnFailure: cfg.KeepOnFailure,
		staleAtStart:  cfg.expectsReturn(ranBefore),
	}
}

// expectsReturn reports whether a main that is found to have failed will come back.
func (cfg Config) expectsReturn(ranBefore bool) bool {
	switch {
	case cfg.KeepOnFailure:
		return true
	case cfg.RestartPolicy != Undeclared:
		return cfg.RestartPolicy == OnFailure
	}
	// A shim that is started again is in a pod that restarts containers, so main comes back,
	// too; unless main's container has another policy than the shim's, which must be declared.
	return ranBefore
}

// loop is the owner of the state.
type loop struct {
	Config
	rules   rules
	watcher *lifetime.Watcher
	run     *lifetime.Run // nil where it could not be recorded
	began   time.Time
	state   state

	// surroundings are the methods below.
	surroundings surroundings
	// synced is closed when the mains' ends are on disk; nil if nobody has asked for that.
	synced chan struct{}

	process *process.Process // the sidecar's, nil before the launch
	early   []syscall.Signal // what came for it before the launch
	failed  error            // why it could not be launched
	// launched is when the sidecar was started, drainFrom when --drain began.
	launched  time.Time
	drainFrom time.Duration

	stopping chan process.Stopped // from process.Stop
	stopFrom time.Time
	stopTook time.Duration
	stopped  *process.Stopped // nil until the stop has ended
	refused  bool             // it was said that the sidecar may not be signalled
}

// untilFinished runs the loop to its end and returns the exit code.
func (l *loop) untilFinished() (code int) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var e event
	for len(l.Signals) > 0 { // they have come during Begin
		e.term = l.receive(<-l.Signals) || e.term
	}
	for {
		l.step(e)
		if l.state.phase == finished {
			return l.state.exit.code
		}
		timer.Stop()
		if at := l.rules.wake(l.state); at > 0 {
			timer.Reset(at - l.now())
		}
		e = l.wait(timer.C)
	}
}

// wait waits until something has happened.
func (l *loop) wait(timeout <-chan time.Time) (e event) {
	var exited <-chan struct{}
	if l.process != nil && l.stopping == nil {
		exited = l.process.Exited()
	}
	select {
	case <-l.watcher.Hints():
	case <-timeout:
	case <-exited:
	case sig := <-l.Signals:
		e.term = l.receive(sig)
	case stopped := <-l.stopping:
		l.stopped, l.stopTook = &stopped, time.Since(l.stopFrom)
	}
	return e
}

// receive passes a signal on to the sidecar, unless it asks to stop.
func (l *loop) receive(sig os.Signal) (term bool) {
	switch {
	case sig == syscall.SIGTERM || sig == l.StopSignal:
		return true
	case l.process == nil:
		l.early = append(l.early, sig.(syscall.Signal))
	default:
		l.signal(sig.(syscall.Signal))
	}
	return false
}

// signal passes a signal on to the sidecar. That this is not permitted is said once.
func (l *loop) signal(sig syscall.Signal) {
	if err := l.process.Signal(sig); err != nil && !l.refused {
		l.refused = true
		l.Log.Error().Msg(err.Error())
	}
}

// step takes turns until the next one has to wait for something. Then it logs what has
// changed, so that the log cannot delay what was decided.
func (l *loop) step(e event) {
	states := []state{l.state}
	for wokenBy := e; ; wokenBy = (event{}) {
		l.state = l.rules.turn(l.surroundings, l.state, wokenBy)
		states = append(states, l.state)
		if !l.state.again() {
			break
		}
	}
	for i, now := range states[1:] {
		l.tell(states[i], now, e)
		e = event{}
	}
}

func (l *loop) now() time.Duration { return time.Since(l.began) }

// sidecar: one that is left though it was killed hangs in the kernel, and counts as
// killed.
func (l *loop) sidecar() (exited, gone bool, code int) {
	switch {
	case l.process == nil:
		return false, false, exitcode.OK
	case l.stopping != nil:
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

func (l *loop) do(a action, _, to state) error {
	switch a {
	case launch:
		return l.launch()
	case announceStopping:
		crashpoint.At("stop.decided")
		if l.run != nil {
			l.warn(l.run.AnnounceStopping())
		}
		crashpoint.At("stop.said")
	case retractStopping:
		if l.run != nil {
			l.warn(l.run.RetractStopping())
		}
	case stop:
		if to.exit.mains != nil {
			l.syncEnds()
		}
		l.stopFrom, l.stopping = time.Now(), make(chan process.Stopped, 1)
		go func() { l.stopping <- l.process.Stop(l.StopSignal, l.GracePeriod) }()
	case warnNotBegun:
		l.warnNotBegun(to.warned == 1)
	}
	return nil
}

func (l *loop) launch() error {
	l.launched = time.Now()
	l.process, l.failed = process.Start(l.Command)
	if l.failed != nil {
		return l.failed
	}
	crashpoint.At("shim.launched")
	for _, sig := range l.early {
		l.signal(sig)
	}
	return nil
}

// syncWait is for how long a shim that is done waits until the mains' ends are on disk. A disk
// that does not answer must not keep the pod from ending.
const syncWait = time.Second

// syncEnds makes the mains' ends outlive a crash of the node, in the background: the sentinels
// do not wait for the disk themselves.
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

// program is what the sidecar is called in what is told to people.
func (l *loop) program() string { return filepath.Base(l.Command[0]) }
