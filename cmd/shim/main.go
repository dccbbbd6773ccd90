// Shim wraps the entrypoint of a sidecar, stops the sidecar when the pod's primary
// commands have ended, and exits with their exit code.
//
//	shim [flags] -- SIDECAR [ARG...]
//
// It follows the runs named by --main on the volume that the pod's containers share,
// and records its own by the same contract, under --name. If the mains have ended before
// SIDECAR is started, it is not started; except that a failure which is found after a
// restart is of the attempt before, and main's next run is waited for.
//
// When all mains have ended it waits --drain, sends --stop-signal to SIDECAR, after
// --grace-period SIGKILL, and exits with the first of the mains' exit codes that is not
// 0. A main that was killed without a word counts as 137. A SIDECAR that ends first ends
// the shim with its own code.
//
// SIGTERM (or what --stop-signal names) is kept from SIDECAR while a main is running, at
// most for --hold; a second one is not. All other signals are passed on.
//
// The exit code is the mains', or SIDECAR's; 128+n for signal n; 127 if SIDECAR was not
// found, 126 if it cannot be executed; 124 after --start-timeout; 125 for an error of
// shim's own, usage errors included.
//
// Every flag but --copy-to has a variable: SHIM_GRACE_PERIOD for --grace-period. An empty
// one is none.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/app"
	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
	"github.com/sentinel-shim/sentinel-shim/sentinel/process"
	"github.com/sentinel-shim/sentinel-shim/sentinel/terminationlog"
	"github.com/sentinel-shim/sentinel-shim/shim"
)

const program = "shim"

func main() {
	signals := process.CatchSignals()
	os.Exit(run(os.Args, signals))
}

func run(args []string, signals <-chan os.Signal) int {
	cfg := shim.Config{
		Dir:            "/tmp/pod",
		Mains:          []string{"main"},
		StopSignal:     syscall.SIGTERM,
		GracePeriod:    10 * time.Second,
		Hold:           15 * time.Second,
		LostAfter:      time.Minute,
		Signals:        signals,
		TerminationLog: terminationlog.DefaultPath,
	}
	return app.Program{
		Name:    program,
		Operand: "SIDECAR",
		Usage:   "run a sidecar until the pod's primary command has ended, and exit with its code",
		Description: "The exit code is main's; SIDECAR's own if it ends first; 137 if main was killed without a word.\n" +
			"128+n: died of signal n. 127: not found. 126: not executable. 124: --start-timeout.\n" +
			"125: an error of shim's own, or an end that cannot be read.",
		Flags: []cli.Flag{
			app.Text(program, "dir", "the shared volume", &cfg.Dir, nil),
			app.List(program, "main", "the `NAME` of a run to follow; may be repeated", &cfg.Mains, parseName, func(s string) string { return s }),
			app.Text(program, "name", "the `NAME` of this sidecar's own run (default: the base name of SIDECAR)", &cfg.Name, lifetime.CheckName),
			app.Flag(program, "stop-signal", "what SIDECAR is stopped with: a name, with or without SIG, or a number", &cfg.StopSignal, process.ParseSignal, process.SignalName),
			app.Duration(program, "grace-period", "the time between --stop-signal and SIGKILL", &cfg.GracePeriod),
			app.Duration(program, "drain", "keep SIDECAR this long after main's end", &cfg.Drain),
			app.Duration(program, "hold", "keep SIDECAR this long at most after a SIGTERM, while main is running", &cfg.Hold),
			app.Duration(program, "lost-after", "where locks are not shared: take main for killed if it gives no sign of life for this long", &cfg.LostAfter),
			app.Duration(program, "start-timeout", "give up if main does not begin within this time; 0s: never", &cfg.StartTimeout),
			app.Flag(program, "restart-policy", "the pod's restartPolicy, OnFailure or Never: whether a main that is found to have failed comes back", &cfg.RestartPolicy, app.OneOf(shim.OnFailure, shim.Never), func(p shim.RestartPolicy) string { return string(p) }),
			&cli.BoolFlag{Name: "keep-on-failure", Usage: "keep SIDECAR when main fails, for it comes back; implies --restart-policy OnFailure", EnvVars: []string{"SHIM_KEEP_ON_FAILURE"}, Destination: &cfg.KeepOnFailure},
		},
		Check: func(command []string) error {
			cfg.Command = command
			return check(&cfg)
		},
		Main: func(log zerolog.Logger) int {
			cfg.Log, cfg.Version = log, app.Version()
			return shim.Run(cfg)
		},
	}.Run(args)
}

func parseName(s string) (string, error) { return s, lifetime.CheckName(s) }

// check completes cfg, and says which flags do not go together.
func check(cfg *shim.Config) error {
	if cfg.KeepOnFailure && cfg.RestartPolicy == shim.Never {
		return errors.New("--keep-on-failure and --restart-policy Never exclude each other: under Never, a main that has failed does not come back")
	}
	if cfg.Name == "" {
		cfg.Name = filepath.Base(cfg.Command[0])
		if err := lifetime.CheckName(cfg.Name); err != nil {
			return fmt.Errorf("%w: give this sidecar a --name", err)
		}
	}
	for _, main := range cfg.Mains {
		if main == cfg.Name {
			return fmt.Errorf("--name %s is also a --main: a sidecar cannot follow itself, give it another --name", main)
		}
	}
	return nil
}
