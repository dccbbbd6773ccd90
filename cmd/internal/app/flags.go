package app

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"github.com/xrash/smetrics"
)

// About is what --help says about a flag.
type About struct {
	// Name is the flag's name without dashes. The flag's variable is the program's name and this one, in
	// capitals: SENTINEL_WAIT_FOR for --wait-for.
	Name string
	// Type is the placeholder of the value, in capitals: DURATION.
	Type string
	// Usage is a sentence without a full stop.
	Usage string
	// Group is the heading above the flag.
	Group string
}

// Flag is a flag and its variable. The flag overrides the variable.
type Flag struct {
	About
	set    func(source, value string) error
	format func() string
	// bare is the flag's value where it stands alone. Such a flag takes another value only as --flag=value. It
	// is "" for a flag that takes the next argument.
	bare       string
	noVariable bool   // the flag has no variable
	short      string // a second name, of one letter; or ""

	// parse sets the rest. source is the name of what is being read: the variable, then the flag.
	source      string
	given       bool
	problems    *[]error
	defaultText string
}

// Value is a flag whose value parse converts and stores in dst. What dst holds before is the default;
// format formats it for --help.
func Value[T any](about About, dst *T, parse func(string) (T, error), format func(T) string) *Flag {
	return &Flag{About: about, format: func() string { return format(*dst) }, set: func(_, value string) error {
		parsed, err := parse(value)
		if err == nil {
			*dst = parsed
		}
		return err
	}}
}

// String is a flag for a text. The text must not be empty and must pass check, which may be nil.
func String(about About, dst *string, check func(string) error) *Flag {
	return Value(about, dst, func(s string) (string, error) {
		if s == "" {
			return "", errors.New("it is empty")
		}
		if check == nil {
			return s, nil
		}
		return s, check(s)
	}, func(s string) string { return s })
}

// Duration is a flag for a duration that is not negative.
func Duration(about About, dst *time.Duration) *Flag {
	about.Type = "DURATION"
	return Value(about, dst, func(s string) (time.Duration, error) {
		d, err := time.ParseDuration(s)
		if err != nil {
			return 0, errors.New("give a number with its unit, such as 500ms, 10s or 2m")
		}
		if d < 0 {
			return 0, errors.New("it is negative")
		}
		return d, nil
	}, formatDuration)
}

// formatDuration formats 1m0s as 1m, and 1h0m0s as 1h.
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

const switchedOn = "true"

// Switch is a flag that sets dst to true, unless its value is false: --switch=false.
func Switch(about About, dst *bool) *Flag {
	f := Value(about, dst, func(s string) (bool, error) {
		on, err := strconv.ParseBool(s)
		if err != nil {
			return false, errors.New("give true or false")
		}
		return on, nil
	}, func(bool) string { return "" })
	f.bare = switchedOn
	return f
}

// List is a flag that may be repeated. Its value may also hold several items, separated by spaces: a
// comma may be part of a URL.
func List[T any](about About, dst *[]T, parse func(string) (T, error), format func(T) string) *Flag {
	setBy := "" // the default
	return &Flag{About: about, set: func(source, value string) error {
		words := strings.Fields(value)
		if len(words) == 0 {
			return errors.New("it is empty")
		}
		if source != setBy {
			*dst, setBy = nil, source
		}
		for _, word := range words {
			item, err := parse(word)
			if err != nil {
				return err
			}
			*dst = append(*dst, item)
		}
		return nil
	}, format: func() string {
		var words []string
		for _, item := range *dst {
			words = append(words, format(item))
		}
		return strings.Join(words, " ")
	}}
}

// OneOf returns a parser that accepts one of the words.
func OneOf[T ~string](words ...T) func(string) (T, error) {
	return func(s string) (T, error) {
		var known []string
		for _, word := range words {
			if T(s) == word {
				return word, nil
			}
			known = append(known, string(word))
		}
		return "", fmt.Errorf("give one of %s", strings.Join(known, ", "))
	}
}

// Set implements flag.Value. It keeps the error for parse, and returns none.
func (f *Flag) Set(value string) error {
	if err := f.set(f.source, value); err != nil {
		f.addProblem(fmt.Errorf("%s %s: %w", f.source, quote(value), err))
	}
	return nil
}

func (f *Flag) addProblem(err error) { *f.problems = append(*f.problems, err) }

// String implements flag.Value: the current value, which is the default before parsing.
func (f *Flag) String() string {
	if f.format == nil { // the flag package asks a zero Flag for its default
		return ""
	}
	return f.format()
}

// quote quotes a value, but hides one that may hold credentials, such as the URL of a database.
func quote(value string) string {
	if strings.Contains(value, "@") {
		return `"…"`
	}
	return strconv.Quote(value)
}

// variable returns the name of the flag's variable, or "" if there is none.
func (f *Flag) variable(program string) string {
	if f.noVariable {
		return ""
	}
	return variablePrefix(program) + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
}

func variablePrefix(program string) string { return strings.ToUpper(program) + "_" }

// parse reads the variables, then the arguments up to the command, by the rules of package flag. args[0] is
// the program's name. Unlike cli.App.Run and flag.Parse, it reads on after an error: --help works even then,
// and sentinel must know where to record that the command was not started.
func (p Program) parse(flags []*Flag, args []string) (command []string, problems []error) {
	for _, f := range flags {
		f.problems, f.defaultText = &problems, f.String()
		if err := f.readVariable(p.Name); err != nil { // impossible: Flag.Set returns none
			problems = append(problems, err)
		}
		f.source = "--" + f.Name
	}
	rest := args[min(1, len(args)):]
	for len(rest) > 0 && len(rest[0]) > 1 && rest[0][0] == '-' {
		arg := rest[0]
		rest = rest[1:]
		if arg == "--" {
			break
		}
		name, value, hasValue := strings.Cut(strings.TrimPrefix(arg[1:], "-"), "=")
		known := slices.IndexFunc(flags, func(f *Flag) bool {
			return name != "" && (name == f.Name || name == f.short)
		})
		switch {
		case known >= 0:
			rest = flags[known].read(value, hasValue, rest)
		case name == "" || name[0] == '-':
			problems = append(problems, fmt.Errorf("%s is no flag: if it is %s's, put -- before %s",
				strconv.Quote(arg), p.CommandName, p.CommandName))
		default:
			problems = append(problems, p.unknown(name, len(rest) == 0, flags))
			// The next argument is the flag's value if a -- follows. Otherwise it may be the command.
			if !hasValue && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") && slices.Contains(rest, "--") {
				rest = rest[1:]
			}
		}
	}
	return rest, problems
}

// readVariable sets the flag to its variable, if that is set.
func (f *Flag) readVariable(program string) error {
	f.source = f.variable(program)
	if os.Getenv(f.source) == "" {
		return nil // Apply would do the same, but costs 5 µs, and 40 kB of memory the first time
	}
	applied := cli.GenericFlag{Name: f.Name, Value: f, EnvVars: []string{f.source}}
	return applied.Apply(flag.NewFlagSet(program, flag.ContinueOnError))
}

// read sets the flag to value, or to the next argument if there is no value. It returns the arguments that
// are left.
func (f *Flag) read(value string, hasValue bool, rest []string) []string {
	f.given = true
	switch {
	case hasValue:
	case f.bare != "":
		value = f.bare
		if f.bare == switchedOn && len(rest) > 0 && isBool(rest[0]) && slices.Contains(rest, "--") {
			f.addProblem(fmt.Errorf("%s takes no separate value: remove %s, or write %s=%s",
				f.source, rest[0], f.source, rest[0]))
			rest = rest[1:]
		}
	case len(rest) == 0:
		f.addProblem(fmt.Errorf("%s: its value is missing", f.source))
		return nil
	default:
		value, rest = rest[0], rest[1:]
	}
	_ = f.Set(value) // it returns no error
	return rest
}

func isBool(word string) bool {
	_, err := strconv.ParseBool(word)
	return err == nil
}

// unknown returns the error for a flag that there is not. alone means that no argument follows.
func (p Program) unknown(name string, alone bool, flags []*Flag) error {
	for _, f := range flags {
		if alike(name, f.Name) {
			f.given = alone // a mistyped --status, which takes no command, must not record anything either
			return fmt.Errorf("%s has no flag --%s: did you mean --%s?", p.Name, name, f.Name)
		}
	}
	return fmt.Errorf("%s has no flag --%s: if it is %s's, put -- before %s",
		p.Name, name, p.CommandName, p.CommandName)
}

// isOfService reports whether Kubernetes may have set the variable for a Service. A Service named
// sentinel-log sets SENTINEL_LOG_PORT, which is similar to SENTINEL_LOG_FORMAT.
func isOfService(variable string) bool {
	return strings.Contains(variable+"_", "_PORT_") || strings.Contains(variable+"_", "_SERVICE_")
}

// misspelt returns a warning for each variable whose name is similar to that of one of the program's own.
// It ignores those of a Service named like the program (SHIM_SERVICE_HOST, SHIM_PORT) and those of other
// programs (Redis' SENTINEL_QUORUM).
func (p Program) misspelt(flags []*Flag) (problems []string) {
	known := make(map[string]bool)
	for _, f := range flags {
		known[f.variable(p.Name)] = true
	}
	prefix := variablePrefix(p.Name)
	for _, entry := range os.Environ() {
		variable, _, _ := strings.Cut(entry, "=")
		if known[variable] || !strings.HasPrefix(strings.ToUpper(variable), prefix) || isOfService(variable) {
			continue
		}
		for _, f := range flags {
			if right := f.variable(p.Name); right != "" && alike(variable[len(prefix):], right[len(prefix):]) {
				problems = append(problems, fmt.Sprintf(
					"the variable %s is not %s's and has no effect: did you mean %s?", variable, p.Name, right))
				break
			}
		}
	}
	return problems
}

// alike reports whether one name is probably the other, mistyped. boostThreshold and prefixSize are those of
// urfave/cli's suggestions. With a smaller least, SHIM_PORT would count as one of our variables.
func alike(a, b string) bool {
	const boostThreshold, prefixSize, least = 0.7, 4, 0.9
	return smetrics.JaroWinkler(strings.ToLower(a), strings.ToLower(b), boostThreshold, prefixSize) >= least
}
