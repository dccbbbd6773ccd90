// Sentinel wraps the primary command of a Kubernetes Job and records its end, with
// the exit code, on a volume that the pod's containers share.
//
//	sentinel [flags] -- COMMAND [ARG...]
//
// It begins a run on the volume: the file NAME-running, which it keeps locked. After
// a restart it waits for sidecars that are still stopping; then for the addresses of
// --wait-for. It runs COMMAND, transparently: arguments, environment, standard files,
// working directory, umask and limits are COMMAND's, every signal is passed on, every
// orphan is reaped. When COMMAND has ended it renames the file to NAME-terminated, with
// the exit code in it, and exits with that code.
//
// The exit code is COMMAND's; 128+n if it died of signal n; 127 if it was not found, 126
// if it cannot be executed; 124 if --wait-for was in vain; 125 for an error of sentinel's
// own, usage errors included. Whatever it is, it is also on the volume.
//
// Every flag but --copy-to has a variable: SENTINEL_WAIT_FOR for --wait-for. An empty one
// is none.
package main

import (
	"os"
	"time"

	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/app"
	"github.com/sentinel-shim/sentinel-shim/sentinel"
	"github.com/sentinel-shim/sentinel-shim/sentinel/exitcode"
	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
	"github.com/sentinel-shim/sentinel-shim/sentinel/probe"
	"github.com/sentinel-shim/sentinel-shim/sentinel/process"
	"github.com/sentinel-shim/sentinel-shim/sentinel/terminationlog"
)

const program = "sentinel"

func main() {
	signals := process.CatchSignals()
	os.Exit(run(os.Args, signals))
}

func defaults() sentinel.Config {
	return sentinel.Config{
		Dir:            "/tmp/pod",
		Name:           "main",
		WaitTimeout:    time.Minute,
		TerminationLog: terminationlog.DefaultPath,
	}
}

func run(args []string, signals <-chan os.Signal) int {
	cfg := defaults()
	cfg.Signals = signals
	return app.Program{
		Name:    program,
		Operand: "COMMAND",
		Usage:   "run a command and record its end on a volume that its sidecars share",
		Description: "COMMAND's exit code is sentinel's, and stands in DIR/NAME-terminated when it has ended.\n" +
			"128+n: died of signal n. 127: not found. 126: not executable. 124: --wait-for was in vain.\n" +
			"125: an error of sentinel's own.",
		Flags: []cli.Flag{
			app.Text(program, "dir", "the shared volume", &cfg.Dir, nil),
			app.Text(program, "name", "whose end is recorded: the `NAME` that shims follow with --main", &cfg.Name, lifetime.CheckName),
			app.List(program, "wait-for", "start COMMAND only once this `ADDRESS` answers: tcp://host:port, unix:///path, file:///path, or http://host:port/path (any 2xx); may be repeated", &cfg.WaitFor, probe.Parse, probe.Target.String),
			app.Duration(program, "wait-timeout", "for how long to wait for --wait-for, then give up; and after a restart for sidecars that still stop, then go on", &cfg.WaitTimeout),
		},
		Check: func(command []string) error {
			cfg.Command = command
			return nil
		},
		Main: func(log zerolog.Logger) int {
			cfg.Log, cfg.Version = log, app.Version()
			return sentinel.Run(cfg)
		},
		Refused: recordRefusal,
	}.Run(args)
}

// recordRefusal records that the command never begins, as far as the arguments tell
// where: no shim may wait for it. If it cannot be recorded, there is nothing left to
// do, and the error that matters has been told.
func recordRefusal(args []string) {
	cfg := defaults()
	for _, flag := range []struct {
		name, variable string
		dst            *string
		check          func(string) error
	}{
		{"dir", "SENTINEL_DIR", &cfg.Dir, lifetime.CheckVolume},
		{"name", "SENTINEL_NAME", &cfg.Name, lifetime.CheckName},
	} {
		value, given := app.Given(args, flag.name)
		if !given || flag.check(value) != nil {
			value = os.Getenv(flag.variable)
		}
		if value != "" && flag.check(value) == nil {
			*flag.dst = value
		}
	}
	_ = lifetime.Record(lifetime.Dir(cfg.Dir), cfg.Name, exitcode.Wrapper)
}
