// Package app is what the command lines of sentinel and shim share: flags and their variables, --help,
// usage errors, the log, the version, --status, and --copy-to.
package app

import (
	"fmt"
	"math"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/sentinel-shim/sentinel-shim/sentinel/exitcode"
	"github.com/sentinel-shim/sentinel-shim/sentinel/terminationlog"
)

// Program is one of the two commands.
type Program struct {
	// Name is the program's name. In capitals it is the prefix of the program's variables.
	Name string
	// CommandName is the placeholder of the wrapped command in --help and in errors: COMMAND.
	CommandName string
	// Usage is one line for --help. ExitCodes and Examples may have several.
	Usage, ExitCodes, Examples string
	// Flags are the program's own. Run adds those that both programs have.
	Flags []*Flag
	// Dir is where the shared volume is, and LostAfter is as for lifetime.Watch: for --status. The program's own
	// flags set them.
	Dir       *string
	LostAfter *time.Duration
	// Validate completes and checks what the flags have set. command is everything after the flags. It is
	// not empty.
	Validate func(command []string) error
	// Main does the work and returns the exit code.
	Main func(log zerolog.Logger) int
	// OnUsageError is called if arguments or variables are invalid, except with --copy-to and --status. The
	// valid flags have been set by then. It may be nil.
	OnUsageError func()
}

// Run runs the program and returns the exit code. args[0] is the program's name.
func (p Program) Run(args []string) (code int) {
	// GOGC and GOMEMLIMIT in the container's environment are the command's (design, 5.1). With GOGC=off
	// this process would never free memory.
	debug.SetGCPercent(100)
	debug.SetMemoryLimit(math.MaxInt64)

	var help, version bool
	var directory, format string
	logging := logging{level: zerolog.InfoLevel, format: auto}
	copying, looking := copyFlag(&directory), statusFlag(&format)
	flags := slices.Concat(p.Flags, logging.flags(),
		[]*Flag{looking, copying, helpFlag(&help), versionFlag(&version)})
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
	case copying.given && looking.given:
		err = fmt.Errorf("--%s and --%s exclude each other: give one", copyTo, status)
	case looking.given:
		err = p.showStatus(format, command)
	case copying.given:
		err = copyPrograms(directory, command)
	default:
		err = p.check(flags, command)
	}
	switch {
	case err == nil && (copying.given || looking.given):
		return exitcode.OK
	case err == nil:
		return p.Main(log)
	}
	if p.OnUsageError != nil && !copying.given && !looking.given {
		p.OnUsageError()
	}
	message := fmt.Sprintf("%v (see %s --help)", err, p.Name)
	if !looking.given { // else the message would be taken for that of the container's command
		terminationlog.Write(terminationlog.DefaultPath, message)
	}
	// Log the error even with --log-level disabled: the exit code 125 alone explains nothing.
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
