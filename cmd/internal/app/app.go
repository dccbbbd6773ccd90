// Package app is what the command lines of sentinel and shim share: flags and their
// variables, --help, exit codes for what cannot be used, the log, the version, and --copy-to.
package app

import (
	"fmt"
	"math"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"github.com/rs/zerolog"

	"github.com/sentinel-shim/sentinel-shim/sentinel/exitcode"
	"github.com/sentinel-shim/sentinel-shim/sentinel/terminationlog"
)

// Program is one of the two commands.
type Program struct {
	// Name is the command's name, and the first word of its variables'.
	Name string
	// CommandName is what the command line calls the command that is to be run.
	CommandName string
	// Usage is a line for --help. ExitCodes and Examples are lines, too.
	Usage, ExitCodes, Examples string
	// Flags are the command's own. Those that both have are added.
	Flags []*Flag
	// Validate completes what the flags have set, and says what is wrong with it.
	// command is everything after the flags, and never empty.
	Validate func(command []string) error
	// Main does the work and returns the exit code.
	Main func(log zerolog.Logger) int
	// OnUsageError is called when arguments or variables cannot be used, unless they ask for no run
	// at all (--copy-to). All that can be used has been set by then. It may be nil.
	OnUsageError func()
}

// processors are how many processors a program uses at most: one to wait for events and
// one to act on them. Go would make threads for each of a node's hundred.
const processors = 2

// Run runs the program with its arguments, the first of which is the program's own
// name, and returns the exit code.
func (p Program) Run(args []string) (code int) {
	runtime.GOMAXPROCS(min(processors, runtime.GOMAXPROCS(0)))
	// GOGC and GOMEMLIMIT in the container's environment are meant for the command: with
	// GOGC=off we would only grow.
	debug.SetGCPercent(100)
	debug.SetMemoryLimit(math.MaxInt64)

	var help, version bool
	var directory string
	logging := logging{level: zerolog.InfoLevel, format: auto}
	copying := copyFlag(&directory)
	flags := slices.Concat(p.Flags, logging.flags(), []*Flag{copying, helpFlag(&help), versionFlag(&version)})
	command, problems := p.parse(flags, args)
	switch {
	case help:
		p.showHelp(flags)
		return exitcode.OK
	case version:
		fmt.Printf("%s version %s\n", p.Name, Version())
		return exitcode.OK
	}

	log, flush := logging.logger(p.Name)
	defer flush()
	for _, problem := range p.misspelt(flags) {
		log.Warn().Msg(problem)
	}
	var err error
	switch {
	case len(problems) > 0:
		err = problems[0]
	case copying.given:
		err = copyPrograms(directory, command)
	default:
		err = p.check(flags, command)
	}
	switch {
	case err == nil && copying.given:
		return exitcode.OK
	case err == nil:
		return p.Main(log)
	}
	if p.OnUsageError != nil && !copying.given {
		p.OnUsageError()
	}
	message := fmt.Sprintf("%v (see %s --help)", err, p.Name)
	terminationlog.Write(terminationlog.DefaultPath, message)
	// Even with --log-level disabled: a program that only exits with 125 explains nothing.
	log = log.Level(zerolog.ErrorLevel)
	log.Error().Int("code", exitcode.Wrapper).Msg(message)
	return exitcode.Wrapper
}

func (p Program) check(flags []*Flag, command []string) error {
	if len(command) == 0 {
		return fmt.Errorf("no %s: give the program to run and its arguments after --", p.CommandName)
	}
	name, isFlag := strings.CutPrefix(command[0], "-")
	name, _, _ = strings.Cut(strings.TrimPrefix(name, "-"), "=")
	for _, f := range flags {
		if isFlag && name != "" && (name == f.Name || name == f.short) {
			return fmt.Errorf("%s is where %s has to be: flags go before --", strconv.Quote(command[0]), p.CommandName)
		}
	}
	return p.Validate(command)
}
