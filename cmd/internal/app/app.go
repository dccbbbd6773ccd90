// Package app is what the command lines of sentinel and shim share: the frame
// around urfave/cli with its exit codes, the values of flags, the logger, the
// version, and --copy-to.
package app

import (
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strings"

	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"

	"github.com/sentinel-shim/sentinel-shim/sentinel/exitcode"
	"github.com/sentinel-shim/sentinel-shim/sentinel/terminationlog"
)

// Program is one of the two commands.
type Program struct {
	// Name is the command's name, and the first word of its variables'.
	Name string
	// Operand is what the command line calls the command that is to be run.
	Operand string
	// Usage is a line, and Description the rest of what --help says.
	Usage, Description string
	// Flags are the command's own. Those that both have are added.
	Flags []cli.Flag
	// Check completes what the flags have set, and says what is wrong with it.
	// command is what stands behind the flags, and never empty.
	Check func(command []string) error
	// Main does the work and returns the exit code.
	Main func(log zerolog.Logger) int
	// Refused is told of arguments and variables that cannot be used, unless they
	// ask for no run at all (--copy-to). It may be nil.
	Refused func(args []string)
}

// processors are how many processors a program uses at most: one to wait for events and
// one to act on them. Go would make threads for each of a node's hundred.
const processors = 2

// Run runs the program with its arguments, the first of which is the program's own
// name, and returns the exit code.
func (p Program) Run(args []string) (code int) {
	runtime.GOMAXPROCS(min(processors, runtime.GOMAXPROCS(0)))
	var folder string
	logging := logging{level: zerolog.InfoLevel, format: auto}
	frame := &cli.App{
		Name:            p.Name,
		Usage:           p.Usage,
		UsageText:       p.Name + " [flags] -- " + p.Operand + " [ARG...]",
		Description:     p.Description,
		Version:         Version(),
		HideHelpCommand: true, // "-- help me" is a command to run
		Flags:           append(p.Flags, append(logging.flags(p.Name), copyFlag(&folder))...),
		Action: func(c *cli.Context) error {
			command := c.Args().Slice()
			if folder != "" {
				return copyPrograms(folder, command)
			}
			if len(command) == 0 {
				return fmt.Errorf("no %s: give the program to run and its arguments after --", p.Operand)
			}
			if err := p.Check(command); err != nil {
				return err
			}
			code = p.Main(logging.logger(p.Name))
			return nil
		},
		// These say nothing and do not exit: that is done below, once.
		OnUsageError:   func(_ *cli.Context, err error, _ bool) error { return err },
		ExitErrHandler: func(*cli.Context, error) {},
	}

	// Who asks for help gets it, whatever else is wrong, with a variable say; and
	// urfave/cli would take a COMMAND for a topic to explain.
	frame.Setup()
	switch help := cli.NewContext(frame, nil, nil); {
	case anyGiven(args, "help", "h"):
		_ = cli.ShowAppHelp(help) // fails where nobody reads it
		return exitcode.OK
	case anyGiven(args, "version", "v"):
		cli.ShowVersion(help)
		return exitcode.OK
	}

	if err := frame.Run(args); err != nil {
		return p.refuse(args, err)
	}
	return code
}

// oneDash: the flag package writes flags with one dash.
var oneDash = strings.NewReplacer("for flag -", "for flag --", "not defined: -", "not defined: --", "an argument: -", "an argument: --")

// refuse says why nothing was run.
func (p Program) refuse(args []string, err error) (code int) {
	// The flag package and urfave/cli quote all of a value. One with an @ in it may hold
	// credentials (a database's URL), and what is wrong with it says enough.
	quoted := regexp.MustCompile(`^(invalid value|could not parse) "(?:[^"\\]|\\.)*@(?:[^"\\]|\\.)*"`)
	message := oneDash.Replace(quoted.ReplaceAllString(err.Error(), `$1 "…"`))
	if !anyGiven(args, copyTo) {
		if p.Refused != nil {
			p.Refused(args)
		}
		terminationlog.Write(terminationlog.DefaultPath, p.Name+": "+message)
	}
	fmt.Fprintf(os.Stderr, "%s: %s\nSee %s --help.\n", p.Name, message, p.Name)
	return exitcode.Wrapper
}

func anyGiven(args []string, names ...string) bool {
	for _, name := range names {
		if _, given := Given(args, name); given {
			return true
		}
	}
	return false
}

// Given finds a flag, and its value if it has one, in arguments that could not be
// parsed as a whole, up to the command. Of several the last counts.
func Given(args []string, name string) (value string, given bool) {
	for i := 1; i < len(args); i++ {
		flag := strings.TrimPrefix(strings.TrimPrefix(args[i], "-"), "-")
		if flag == "" || flag == args[i] {
			break // "--", or the command without one before it
		}
		flag, text, hasValue := strings.Cut(flag, "=")
		if !hasValue && i+1 < len(args) && !strings.HasPrefix(args[i+1], "-") {
			i++
			text = args[i]
		}
		if flag == name {
			value, given = text, true
		}
	}
	return value, given
}
