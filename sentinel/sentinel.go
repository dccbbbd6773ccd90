// Package sentinel wraps the primary command of a pod and records its end, with
// the exit code, on a volume that it shares with the sidecars.
package sentinel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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

// Config is what a sentinel is told on its command line.
type Config struct {
	// Dir is the shared volume, and Name the run whose end is recorded there.
	Dir, Name string
	// WaitFor has to answer before the command is started.
	WaitFor []probe.Target
	// WaitTimeout is for how long the sentinel waits at most: for WaitFor, and
	// before that for the sidecars of an earlier run to end.
	WaitTimeout time.Duration
	// Command is the command and its arguments.
	Command []string
	// Version is the program's, for the log.
	Version string

	// Signals is where process.CatchSignals delivers.
	Signals <-chan os.Signal
	// TerminationLog is the file for the container's termination message.
	TerminationLog string
	Log            zerolog.Logger
}

// Run runs the command and returns the exit code for the program: the command's
// own, 128+n if a signal ended it, or one of package exitcode's.
func Run(cfg Config) int {
	s := &session{Config: cfg}
	cfg.Log.Info().Str("version", cfg.Version).Str("name", cfg.Name).Str("dir", cfg.Dir).
		Msgf("sentinel %s records the end of %s as %s", cfg.Version, s.program(), lifetime.TerminatedPath(cfg.Dir, cfg.Name))
	actions := Actions{s.begin, s.awaitSidecars, s.awaitTargets, s.launch, s.supervise, s.notStarted, s.end}
	var p Progress
	for p.Step != Exit {
		p = p.Next(actions)
	}
	return s.report(p.Code)
}

// interrupted says that a signal came before the command was started.
type interrupted struct{ signal syscall.Signal }

func (e interrupted) Error() string {
	return process.SignalName(e.signal) + " came before the command was started"
}

// ends tells whether a signal that comes before the command is there means that
// it is not to be started at all.
func ends(sig os.Signal) bool {
	switch sig {
	case syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT:
		return true
	}
	return false
}

// session is one call of Run. Its methods are the Actions.
type session struct {
	Config
	// run is nil until it has begun. Unrecordable: the volume is missing, or another
	// run has the name.
	run          *lifetime.Run
	unrecordable bool
	// command is nil until it has started.
	command *process.Process
	started time.Time
	// refused: it was said that the command may not be signalled.
	refused bool
	// early are the signals that came while we were not yet waiting for
	// anything, for the command to have as soon as it is there.
	early []os.Signal
	// message is what the termination log is to say, if anything.
	message string
}

// during runs fn and returns its error; or interrupted if a signal ends the matter,
// whatever has become of fn by then.
func (s *session) during(fn func(context.Context) error) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error)
	go func() { done <- fn(ctx) }()
	for {
		select {
		case err := <-done:
			return err
		case sig := <-s.Signals:
			if ends(sig) {
				cancel()
				<-done
				return interrupted{sig.(syscall.Signal)}
			}
			s.early = append(s.early, sig)
		}
	}
}

// begin begins the run. Where it fails, end records the outcome all the same, unless that
// cannot be or must not be.
func (s *session) begin() (restarted bool, err error) {
	if err := lifetime.CheckVolume(s.Dir); err != nil {
		s.unrecordable = true
		return false, err
	}
	err = s.during(func(ctx context.Context) (err error) {
		waited := false
		s.run, restarted, err = lifetime.Begin(ctx, lifetime.Dir(s.Dir), s.Name, func(live *lifetime.LiveError) {
			waited = true
			s.Log.Warn().Msg(live.Waiting())
		})
		// The end of another main of this name stops sidecars as that of an earlier attempt does.
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

// end records the exit code. A failure to do so never changes it.
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
		s.Log.Warn().Err(err).Int("code", code).Msgf("the end of %s could not be recorded as it should", s.Name)
	}
}

// launch starts the command, unless a signal has come that means that it must not start.
func (s *session) launch() (err error) {
	if err := s.collectSignals(); err != nil {
		return err
	}
	crashpoint.At("sentinel.waited")
	s.started = time.Now()
	if s.command, err = process.Start(s.Command); err != nil {
		return err
	}
	crashpoint.At("sentinel.launched")
	s.Log.Info().Int("pid", s.command.PID()).Msgf("%s started", s.program())
	return nil
}

// supervise passes signals on to the command until it has ended; if it has died of one of
// them, until its process group has.
func (s *session) supervise() (code int) {
	for _, sig := range s.early {
		s.signal(sig)
	}
	exited, ended := s.command.Exited(), (<-chan struct{})(nil)
	for {
		select {
		case sig := <-s.Signals:
			s.signal(sig)
		case <-exited:
			exited, ended = nil, s.command.EndGroup()
		case <-ended:
			return s.ended(s.command.Status(), time.Since(s.started))
		}
	}
}

// signal passes a signal on to the command. That this is not permitted is said once.
func (s *session) signal(sig os.Signal) {
	if err := s.command.Signal(sig.(syscall.Signal)); err != nil && !s.refused {
		s.refused = true
		s.Log.Error().Msg(err.Error())
	}
}

// collectSignals takes what has come while nothing was waited for.
func (s *session) collectSignals() error {
	for {
		select {
		case sig := <-s.Signals:
			if ends(sig) {
				return interrupted{sig.(syscall.Signal)}
			}
			s.early = append(s.early, sig)
		default:
			return nil
		}
	}
}

// notStarted says why the command was not started, and gives that its exit code.
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

// ended gives the end of the command its exit code.
func (s *session) ended(status process.Status, after time.Duration) (code int) {
	if status.Err != nil {
		s.message = status.Err.Error()
	}
	if status.Signal != 0 {
		s.message = fmt.Sprintf("%s was killed by %s after %s", s.program(), process.SignalName(status.Signal), after.Round(time.Millisecond))
		if status.Signal == syscall.SIGKILL {
			s.message += " (out of memory?)"
		}
	}
	return status.Code
}

// report says how it ended, after the end is on the volume. It returns the code.
func (s *session) report(code int) int {
	log := s.Log.Info()
	if s.message != "" {
		log = s.Log.Error()
	}
	if s.command != nil {
		log = log.Float64("duration_seconds", time.Since(s.started).Round(time.Millisecond).Seconds())
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

// program is what the command is called in messages.
func (s *session) program() string { return filepath.Base(s.Command[0]) }
