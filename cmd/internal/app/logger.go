package app

import (
	"fmt"
	"os"

	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"
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

func (l *logging) flags(program string) []cli.Flag {
	return []cli.Flag{
		Flag(program, "log-level", "the least that is logged: trace, debug, info, warn, error or disabled", &l.level, parseLevel, zerolog.Level.String),
		Flag(program, "log-format", "json, console, or auto: console on a terminal, else json", &l.format,
			OneOf(auto, console, json), func(f logFormat) string { return string(f) }),
	}
}

// parseLevel is strict: zerolog takes an empty level, and numbers, for levels at
// which nothing is logged.
func parseLevel(s string) (zerolog.Level, error) {
	for _, level := range []zerolog.Level{zerolog.TraceLevel, zerolog.DebugLevel, zerolog.InfoLevel, zerolog.WarnLevel, zerolog.ErrorLevel, zerolog.Disabled} {
		if s == level.String() {
			return level, nil
		}
	}
	return zerolog.NoLevel, fmt.Errorf("it is one of trace, debug, info, warn, error, disabled")
}

// logger writes to stderr, where the command's own lines go too: hence the name.
func (l *logging) logger(program string) zerolog.Logger {
	zerolog.TimeFieldFormat = "2006-01-02T15:04:05.000Z07:00"
	terminal := isTerminal(os.Stderr)
	if l.format == console || l.format == auto && terminal {
		out := zerolog.ConsoleWriter{Out: os.Stderr, TimeFormat: "15:04:05.000", NoColor: !terminal}
		return zerolog.New(out).Level(l.level).With().Timestamp().Str("logger", program).Logger()
	}
	return zerolog.New(os.Stderr).Level(l.level).With().Timestamp().Str("logger", program).Logger()
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
