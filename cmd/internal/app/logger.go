package app

import (
	"errors"
	"io"
	"os"
	"strings"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// logFormat is how log lines look.
type logFormat string

const (
	auto    logFormat = "auto" // console on a terminal, else JSON
	console logFormat = "console"
	json    logFormat = "json"
)

// logging is what the command line says about the log.
type logging struct {
	level  zerolog.Level
	format logFormat
}

func (l *logging) flags() []*Flag {
	return []*Flag{
		Value(About{"log-level", "LEVEL", "the least that is logged: trace, debug, info, warn, error or disabled", loggingGroup},
			&l.level, parseLevel, zerolog.Level.String),
		Value(About{"log-format", "FORMAT", "json, console, or auto: console on a terminal, else json", loggingGroup},
			&l.format, OneOf(auto, console, json), func(f logFormat) string { return string(f) }),
	}
}

// parseLevel is strict, except that capitals do not matter: zerolog takes an empty level, and
// numbers, for levels at which nothing is logged.
func parseLevel(s string) (zerolog.Level, error) {
	for _, level := range []zerolog.Level{zerolog.TraceLevel, zerolog.DebugLevel, zerolog.InfoLevel, zerolog.WarnLevel, zerolog.ErrorLevel, zerolog.Disabled} {
		if strings.EqualFold(s, level.String()) {
			return level, nil
		}
	}
	return zerolog.NoLevel, errors.New("it is one of trace, debug, info, warn, error, disabled")
}

// logger returns a log on stderr that never blocks, and what to call at the end, so that
// nothing is lost that somebody reads.
func (l *logging) logger(program string) (log zerolog.Logger, flush func()) {
	zerolog.TimeFieldFormat = "2006-01-02T15:04:05.000Z07:00"
	stderr := patient{os.Stderr}
	direct := l.to(stderr, program)
	buffer := newLogBuffer(stderr, func(dropped int) {
		direct.Warn().Int("dropped", dropped).Msgf("%d lines of this log were dropped: nobody read stderr", dropped)
	})
	return l.to(buffer, program), buffer.flush
}

// to is a log on out, which looks as it should on stderr. The command writes there, too: hence
// the field logger.
func (l *logging) to(out io.Writer, program string) zerolog.Logger {
	var log zerolog.Logger
	terminal := isTerminal(os.Stderr)
	if l.format == console || l.format == auto && terminal {
		log = zerolog.New(zerolog.ConsoleWriter{Out: out, TimeFormat: "15:04:05.000", NoColor: !terminal})
	} else {
		log = zerolog.New(out).Hook(severity{})
	}
	return log.Level(l.level).With().Timestamp().Str("logger", program).Logger()
}

// severity adds the field that Google Cloud reads, by its names. Without one it shows all that
// comes from stderr as an error (LogSeverity in Cloud Logging's LogEntry).
type severity struct{}

func (severity) Run(e *zerolog.Event, level zerolog.Level, _ string) {
	switch level {
	case zerolog.TraceLevel, zerolog.DebugLevel:
		e.Str("severity", "DEBUG")
	case zerolog.WarnLevel:
		e.Str("severity", "WARNING")
	case zerolog.ErrorLevel:
		e.Str("severity", "ERROR")
	default:
		e.Str("severity", "INFO")
	}
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
