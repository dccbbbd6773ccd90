//go:build linux

// Sentinel wraps the primary command of a Kubernetes Job and records its end, with
// the exit code, on a volume that the pod's containers share.
//
//	sentinel [flags] -- COMMAND [ARG...]
//
// It begins a run on the volume: the file NAME-running, which it keeps locked. After a restart it waits for
// sidecars that are still stopping. Then it waits for the addresses of --wait-for.
//
// It runs COMMAND transparently: COMMAND gets its arguments as they are, and sentinel's environment, standard
// files, working directory, umask and limits. sentinel forwards signals and reaps every orphan. If COMMAND
// dies of a forwarded signal, the rest of its process group gets the same signal, and sentinel waits for it.
//
// When COMMAND has ended, sentinel renames the file to NAME-terminated, with the exit code in it, and exits
// with that code.
//
// The exit code is COMMAND's; 128+n if it died of signal n; 127 if it was not found, 126 if it cannot be
// executed; 124 if --wait-for did not answer within --wait-timeout; 125 for an error of sentinel's own, usage
// errors included. It is recorded on the volume, too, if that is writable and no live run has the name.
//
// With --status it runs nothing, and shows the runs on the volume.
//
// Every flag but --status, --copy-to, --help and --version has a variable: SENTINEL_WAIT_FOR for --wait-for. An
// empty variable counts as unset.
package main

import (
	"os"
	"time"

	"github.com/rs/zerolog"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/app"
	_ "github.com/sentinel-shim/sentinel-shim/cmd/internal/oneprocessor"
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

func run(args []string, signals <-chan os.Signal) int {
	cfg := sentinel.Config{
		Dir:            "/tmp/pod",
		Name:           "main",
		WaitTimeout:    time.Minute,
		Signals:        signals,
		TerminationLog: terminationlog.DefaultPath,
	}
	lostAfter := time.Minute // the default of the shims' --lost-after
	const recording, waiting = "Recording", "Waiting"
	return app.Program{
		Name:        program,
		CommandName: "COMMAND",
		Usage:       "run a command and record its end on a volume that its sidecars share",
		ExitCodes:   exitCodes,
		Examples:    examples,
		Flags: []*app.Flag{
			app.String(app.About{Name: "dir", Type: "DIR", Group: recording,
				Usage: "the shared volume"},
				&cfg.Dir, nil),
			app.String(app.About{Name: "name", Type: "NAME", Group: recording,
				Usage: "the name of the run, which shims follow with --main"},
				&cfg.Name, lifetime.CheckName),
			app.List(app.About{Name: "wait-for", Type: "ADDRESS", Group: waiting,
				Usage: "start COMMAND only once this answers: tcp://host:port, unix:///path, file:///path, " +
					"or http://host:port/path (any 2xx); may be repeated"},
				&cfg.WaitFor, probe.Parse, probe.Target.String),
			app.Duration(app.About{Name: "wait-timeout", Group: waiting,
				Usage: "how long to wait for --wait-for, then give up; " +
					"and after a restart for sidecars that are still stopping, then go on"},
				&cfg.WaitTimeout),
		},
		Dir:       &cfg.Dir,
		LostAfter: &lostAfter,
		Validate: func(command []string) error {
			cfg.Command = command
			return nil
		},
		Main: func(log zerolog.Logger) int {
			cfg.Log, cfg.Version = log, app.Version()
			return sentinel.Run(cfg)
		},
		// No shim may wait for a command that never starts. An error of Record is dropped: the usage error
		// is what matters.
		OnUsageError: func() {
			if lifetime.CheckVolume(cfg.Dir) == nil {
				_ = lifetime.Record(lifetime.Dir(cfg.Dir), cfg.Name, exitcode.Wrapper)
			}
		},
	}.Run(args)
}

const exitCodes = `COMMAND's  it has ended; 128+n if it died of signal n
127        COMMAND was not found
126        COMMAND cannot be executed
125        an error of sentinel's own
124        --wait-for did not answer within --wait-timeout
It is recorded in DIR/NAME-terminated, too.`

const examples = `sentinel -- ./migrate up
sentinel --wait-for tcp://127.0.0.1:5432 -- ./migrate up
kubectl exec POD -c main -- /tmp/pod/sentinel --status`
