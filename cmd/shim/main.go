//go:build linux

// Shim wraps the entrypoint of a sidecar, stops the sidecar when the pod's primary
// commands have ended, and exits with their exit code.
//
//	shim [flags] -- SIDECAR [ARG...]
//
// It follows the runs named by --main on the volume that the pod's containers share, and records its own run
// there, under --name. If the mains have already ended, it does not start SIDECAR. After a restart, however, a
// failure that it finds belongs to the attempt before: it starts SIDECAR and waits for main's next run
// (--restart-policy overrides this).
//
// When all mains have ended, it waits for --drain and sends --stop-signal to SIDECAR, then SIGTERM to the
// processes that SIDECAR has left, and after --grace-period SIGKILL to everything that is left. It exits with
// the first exit code of a main that is not 0. A main that was killed before it could record an exit code
// counts as 137. If SIDECAR ends first, shim exits with SIDECAR's code.
//
// While a main is running or unverified, shim keeps SIGTERM, and the signal of --stop-signal, from SIDECAR for
// at most --hold. A second one stops SIDECAR at once. shim forwards all other signals.
//
// With --native-sidecar, it keeps SIDECAR until SIGTERM if no main comes back: the kubelet sends that.
//
// The exit code is the mains', or SIDECAR's; 128+n for signal n; 127 if SIDECAR was not found, 126 if it cannot
// be executed; 124 after --start-timeout; 125 for an error of shim's own, usage errors included.
//
// With --status it runs nothing, and shows the runs on the volume.
//
// Every flag but --status, --copy-to, --help and --version has a variable: SHIM_GRACE_PERIOD for --grace-period. An
// empty variable counts as unset.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/app"
	_ "github.com/sentinel-shim/sentinel-shim/cmd/internal/oneprocessor"
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
	const following, stopping, restarts = "What to follow", "Stopping", "Restarts"
	return app.Program{
		Name:        program,
		CommandName: "SIDECAR",
		Usage:       "run a sidecar until main has ended, and exit with main's exit code",
		ExitCodes:   exitCodes,
		Examples:    examples,
		Flags: []*app.Flag{
			app.String(app.About{Name: "dir", Type: "DIR", Group: following,
				Usage: "the shared volume"},
				&cfg.Dir, nil),
			app.List(app.About{Name: "main", Type: "NAME", Group: following,
				Usage: "the run to follow: sentinel's --name; may be repeated"},
				&cfg.Mains, parseName, func(s string) string { return s }),
			app.String(app.About{Name: "name", Type: "NAME", Group: following,
				Usage: "this sidecar's own run (default: the base name of SIDECAR)"},
				&cfg.Name, lifetime.CheckName),
			app.Duration(app.About{Name: "start-timeout", Group: following,
				Usage: "give up if main does not begin within this time; 0s: never"},
				&cfg.StartTimeout),
			app.Duration(app.About{Name: "lost-after", Group: following,
				Usage: "where locks are not shared: main counts as killed if its file does not change for this long"},
				&cfg.LostAfter),
			app.Duration(app.About{Name: "drain", Group: stopping,
				Usage: "keep SIDECAR this long after main's end"},
				&cfg.Drain),
			app.Value(app.About{Name: "stop-signal", Type: "SIGNAL", Group: stopping,
				Usage: "the signal that stops SIDECAR: a name, with or without SIG, or a number"},
				&cfg.StopSignal, process.ParseSignal, process.SignalName),
			app.Duration(app.About{Name: "grace-period", Group: stopping,
				Usage: "the time between --stop-signal and SIGKILL"},
				&cfg.GracePeriod),
			app.Duration(app.About{Name: "hold", Group: stopping,
				Usage: "keep SIDECAR at most this long after a SIGTERM while main is running"},
				&cfg.Hold),
			app.Value(app.About{Name: "restart-policy", Type: "POLICY", Group: restarts,
				Usage: "the restartPolicy of main's container, OnFailure or Never: whether a main that has already " +
					"failed when shim starts comes back (default: OnFailure if this container was restarted; " +
					"declare it if main's container has another policy than this one)"},
				&cfg.RestartPolicy, app.OneOf(shim.OnFailure, shim.Never),
				func(p shim.RestartPolicy) string { return string(p) }),
			app.Switch(app.About{Name: "keep-on-failure", Group: restarts,
				Usage: "keep SIDECAR when main fails, because main comes back; implies --restart-policy OnFailure"},
				&cfg.KeepOnFailure),
			app.Switch(app.About{Name: "native-sidecar", Group: restarts,
				Usage: "this is an init container with restartPolicy Always: when main does not come back, " +
					"keep SIDECAR until the kubelet's SIGTERM"},
				&cfg.NativeSidecar),
		},
		Dir:       &cfg.Dir,
		LostAfter: &cfg.LostAfter,
		Validate: func(command []string) error {
			cfg.Command = command
			return check(&cfg)
		},
		Main: func(log zerolog.Logger) int {
			cfg.Log, cfg.Version = log, app.Version()
			return shim.Run(cfg)
		},
	}.Run(args)
}

const exitCodes = `main's     all mains have ended: the first code that is not 0
137        a main was killed before it could record an exit code
SIDECAR's  it ended first; 128+n if it died of signal n
127        SIDECAR was not found
126        SIDECAR cannot be executed
125        an error of shim's own, or an end of main that cannot be read
124        main did not begin within --start-timeout`

const examples = `shim -- /cloud-sql-proxy --port 5432 project:region:instance
shim --stop-signal USR1 --grace-period 30s -- haproxy -f /etc/haproxy.cfg
kubectl exec POD -c proxy -- /tmp/pod/shim --status`

func parseName(s string) (string, error) { return s, lifetime.CheckName(s) }

// check completes cfg, and returns an error if its flags contradict each other.
func check(cfg *shim.Config) error {
	if cfg.KeepOnFailure && cfg.RestartPolicy == shim.Never {
		return errors.New("--keep-on-failure and --restart-policy Never exclude each other: " +
			"under Never, a main that has failed does not come back")
	}
	if cfg.Name == "" {
		cfg.Name = filepath.Base(cfg.Command[0])
		if err := lifetime.CheckName(cfg.Name); err != nil {
			if hint := process.Misquoted(cfg.Command[0]); hint != "" {
				return fmt.Errorf("%s: %s", cfg.Command[0], hint)
			}
			return fmt.Errorf("%w: give this sidecar a --name", err)
		}
	}
	for _, main := range cfg.Mains {
		if main == cfg.Name {
			return fmt.Errorf("--name %s is also a --main: a sidecar cannot follow itself: "+
				"give the sidecar another --name", main)
		}
	}
	return nil
}
