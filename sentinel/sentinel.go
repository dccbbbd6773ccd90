// Package sentinel runs the primary command of a pod and records its exit code on a
// volume that it shares with the sidecars (design, 3).
package sentinel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/sentinel-shim/sentinel-shim/sentinel/crashpoint"
	"github.com/sentinel-shim/sentinel-shim/sentinel/exitcode"
	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
	"github.com/sentinel-shim/sentinel-shim/sentinel/probe"
	"github.com/sentinel-shim/sentinel-shim/sentinel/process"
	"github.com/sentinel-shim/sentinel-shim/sentinel/terminationlog"
)

// Config is the command line of a sentinel, and what it shares with its program.
type Config struct {
	// Dir is the shared volume, and Name the run whose end is recorded there.
	Dir, Name string
	// WaitFor are the addresses that must answer before the command starts.
	WaitFor []probe.Target
	// WaitTimeout bounds each of two waits: for the sidecars of an earlier run to end,
	// and then for WaitFor.
	WaitTimeout time.Duration
	// Command is the command and its arguments.
	Command []string
	// Version is the program's version, for the log.
	Version string

	// Signals is the channel of process.CatchSignals.
	Signals <-chan os.Signal
	// TerminationLog is the path of the container's termination message.
	TerminationLog string
	Log            zerolog.Logger
}

// Run runs the command, records its end and returns the exit code for the program: the
// command's own, 128+n if it died of signal n, or one of package exitcode's. A program
// calls it once.
func Run(cfg Config) int {
	s := &session{Config: cfg}
	cfg.Log.Info().Str("version", cfg.Version).Str("name", cfg.Name).Str("dir", cfg.Dir).
		Msgf("sentinel %s records the end of %s as %s",
			cfg.Version, s.program(), lifetime.TerminatedPath(cfg.Dir, cfg.Name))
	actions := Actions{s.begin, s.awaitSidecars, s.awaitTargets, s.launch, s.supervise, s.notStarted, s.end}
	var p Progress
	for p.Step != Exit {
		p = p.Next(actions)
	}
	return s.report(p.Code)
}

// interrupted is the error of a start that a signal has aborted.
type interrupted struct{ signal syscall.Signal }

func (e interrupted) Error() string {
	return process.SignalName(e.signal) + " came before the command was started"
}

// aborts reports whether a signal that comes before the command has started means that
// the command must not start.
func aborts(sig os.Signal) bool {
	switch sig {
	case syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT:
		return true
	}
	return false
}

// session is one call of Run. Its methods are the Actions.
type session struct {
	Config
	run          *lifetime.Run    // nil until it has begun
	unrecordable bool             // the volume is missing, or another run has the name
	command      *process.Process // nil until it has started
	started      time.Time
	refusal      sync.Once // logs that the command may not be signalled
	message      string    // for the termination log, or ""
}

// interruptible runs fn and returns its error. If a signal aborts the start, it cancels
// fn's context, waits for fn and returns interrupted, whatever fn's error is. It drops other
// signals (design, 3).
func (s *session) interruptible(fn func(context.Context) error) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error)
	go func() { done <- fn(ctx) }()
	for {
		select {
		case err := <-done:
			return err
		case sig := <-s.Signals:
			if aborts(sig) {
				cancel()
				<-done //nolint:errcheck // the signal decides
				return interrupted{sig.(syscall.Signal)}
			}
		}
	}
}

// begin begins the run. If that fails, end still records the outcome, unless the volume is
// missing or another run has the name.
func (s *session) begin() (restarted bool, err error) {
	if err := lifetime.CheckVolume(s.Dir); err != nil {
		s.unrecordable = true
		return false, err
	}
	err = s.interruptible(func(ctx context.Context) (err error) {
		waited := false
		s.run, restarted, err = lifetime.Begin(ctx, lifetime.Dir(s.Dir), s.Name, func(live *lifetime.LiveError) {
			waited = true
			process.CatchOtherSignals()
			s.Log.Warn().Msg(live.Waiting())
		})
		// Begin waited for another main of this name. Its end stops sidecars, like that of an
		// earlier attempt.
		restarted = restarted || waited
		return err
	})
	if s.run != nil {
		crashpoint.At("sentinel.begun")
		s.Log.Debug().Bool("restarted", restarted).Msgf("the run %s has begun", s.Name)
		return restarted, err
	}
	var live *lifetime.LiveError
	switch {
	case errors.As(err, &live):
		s.unrecordable = true
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		err = fmt.Errorf("%w: the volume %s has to be writable for this user (readOnly, fsGroup)", err, s.Dir)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		err = fmt.Errorf("%w: make room on the volume %s (sizeLimit)", err, s.Dir)
	}
	return restarted, err
}

// end records the exit code. A failure to record is logged and never changes the code.
func (s *session) end(code int) {
	var err error
	switch {
	case s.run != nil:
		crashpoint.At("sentinel.ended")
		err = s.run.End(code)
	case !s.unrecordable:
		err = lifetime.Record(lifetime.Dir(s.Dir), s.Name, code)
	}
	if err != nil {
		s.Log.Warn().Err(err).Int("code", code).Msgf("the end of %s could not be recorded in the usual way", s.Name)
	}
}

// launch starts the command, unless a signal has come that aborts the start.
func (s *session) launch() (err error) {
	if err := s.dropSignals(); err != nil {
		return err
	}
	crashpoint.At("sentinel.waited")
	s.started = time.Now()
	if s.command, err = process.StartHere(s.Command); err != nil {
		return err
	}
	crashpoint.At("sentinel.launched")
	s.Log.Info().Int("pid", s.command.PID()).Msgf("%s started", s.program())
	return nil
}

// supervise forwards signals to the command and returns its exit code when it has ended. If
// the command died of a forwarded signal, supervise also waits for its process group
// (design, 5.2).
func (s *session) supervise() (code int) {
	go func() {
		for sig := range s.Signals {
			s.forward(sig)
		}
	}()
	status, after := s.command.Wait(), time.Since(s.started)
	groupEnded := s.command.EndGroup()
	if len(groupEnded) == 0 { // the log should say why the container does not end
		s.Log.Info().Msgf("%s was killed by %s: waiting for the rest of its process group",
			s.program(), process.SignalName(status.Signal))
	}
	s.logRefusal(<-groupEnded)
	return s.ended(status, after)
}

// forward sends a signal to the command.
func (s *session) forward(sig os.Signal) { s.logRefusal(s.command.Signal(sig.(syscall.Signal))) }

// logRefusal logs, once, that the command or its process group may not be signalled.
func (s *session) logRefusal(err error) {
	if err != nil {
		s.refusal.Do(func() { s.Log.Error().Msg(err.Error()) })
	}
}

// dropSignals drops the signals that have come outside of interruptible. It does not block. The
// error is interrupted if one of them aborts the start.
func (s *session) dropSignals() error {
	for {
		select {
		case sig := <-s.Signals:
			if aborts(sig) {
				return interrupted{sig.(syscall.Signal)}
			}
		default:
			return nil
		}
	}
}

// notStarted sets the message for a command that was not started, and returns the exit code.
func (s *session) notStarted(err error) (code int) {
	code = exitcode.Wrapper
	var sig interrupted
	var start *process.StartError
	switch {
	case errors.As(err, &sig):
		code = exitcode.OfSignal(sig.signal)
	case errors.As(err, &start):
		code = start.Code
	case errors.Is(err, context.DeadlineExceeded):
		code = exitcode.TimedOut
	}
	s.message = fmt.Sprintf("%s was not started: %v", s.Command[0], err)
	return code
}

// ended sets the message for a command that has ended, if there is one, and returns the
// exit code.
func (s *session) ended(status process.Status, after time.Duration) (code int) {
	if status.Err != nil {
		s.message = status.Err.Error()
	}
	if status.Signal != 0 {
		s.message = fmt.Sprintf("%s was killed by %s after %s",
			s.program(), process.SignalName(status.Signal), after.Round(time.Millisecond))
		if status.Signal == syscall.SIGKILL {
			s.message += " (out of memory?)"
		}
	}
	return status.Code
}

// report logs the outcome, writes the message to the termination log, and returns the code.
func (s *session) report(code int) int {
	log := s.Log.Info()
	if s.message != "" {
		log = s.Log.Error()
	}
	if s.command != nil {
		log = log.Float64("duration_seconds", float64(time.Since(s.started).Milliseconds())/1000)
	}
	log = log.Int("code", code)
	if s.message == "" {
		log.Msgf("%s exited", s.program())
		return code
	}
	log.Msg(s.message)
	terminationlog.Write(s.TerminationLog, s.message)
	return code
}

// program is the command's name in messages.
func (s *session) program() string { return filepath.Base(s.Command[0]) }
