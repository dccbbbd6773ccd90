package app

import (
	"errors"
	"io"
	"os"
	"strings"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// logFormat is a value of --log-format.
type logFormat string

const (
	auto    logFormat = "auto" // console on a terminal, else JSON
	console logFormat = "console"
	json    logFormat = "json"
)

// logging holds the values of the log's flags.
type logging struct {
	level  zerolog.Level
	format logFormat
}

func (l *logging) flags() []*Flag {
	return []*Flag{
		Value(About{"log-level", "LEVEL",
			"the lowest level that is logged: trace, debug, info, warn, error or disabled", loggingGroup},
			&l.level, parseLevel, zerolog.Level.String),
		Value(About{"log-format", "FORMAT", "json, console, or auto: console on a terminal, else json", loggingGroup},
			&l.format, OneOf(auto, console, json), func(f logFormat) string { return string(f) }),
	}
}

// parseLevel accepts the names of the levels below, in either case. zerolog.ParseLevel also accepts an empty
// text and numbers, and may return a level for them at which nothing is logged.
func parseLevel(s string) (zerolog.Level, error) {
	for _, level := range []zerolog.Level{
		zerolog.TraceLevel, zerolog.DebugLevel, zerolog.InfoLevel,
		zerolog.WarnLevel, zerolog.ErrorLevel, zerolog.Disabled,
	} {
		if strings.EqualFold(s, level.String()) {
			return level, nil
		}
	}
	return zerolog.NoLevel, errors.New("give one of trace, debug, info, warn, error, disabled")
}

// timeFormat is RFC 3339 with milliseconds.
const timeFormat = "2006-01-02T15:04:05.000Z07:00"

// logger returns a logger that writes to stderr and never blocks. flush must be called before the exit: it
// writes the lines that are still buffered.
func (l *logging) logger(program string) (log zerolog.Logger, flush func()) {
	zerolog.TimeFieldFormat = timeFormat
	out := stderr{int(os.Stderr.Fd())}
	direct := l.to(out, program)
	buffer := newLogBuffer(out, func(dropped int) {
		direct.Warn().Int("dropped", dropped).Msgf("%d lines of this log were dropped: nobody read stderr", dropped)
	})
	return l.to(buffer, program), buffer.flush
}

// to returns a logger that writes to out, in the format for stderr. The field logger marks its lines, because
// the command writes to the same stderr.
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

// severity adds the field "severity" for Google Cloud, which shows a line on stderr without it as an error
// (LogSeverity in Cloud Logging's LogEntry).
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
