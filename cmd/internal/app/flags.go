package app

import (
	"errors"
	"flag"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
)

// All flags are cli.GenericFlags: of all kinds of flags, these alone take an empty
// variable for none.

// envName is the variable of a flag: SENTINEL_WAIT_FOR of --wait-for.
func envName(program, flag string) string {
	return strings.ToUpper(program + "_" + strings.ReplaceAll(flag, "-", "_"))
}

// Flag is a flag with a variable that sets dst to what parse makes of it. What dst
// holds is the default; format shows it.
func Flag[T any](program, name, usage string, dst *T, parse func(string) (T, error), format func(T) string) cli.Flag {
	return &cli.GenericFlag{
		Name: name, Usage: usage, EnvVars: []string{envName(program, name)},
		Value: &value[T]{dst, parse, format},
	}
}

type value[T any] struct {
	dst    *T
	parse  func(string) (T, error)
	format func(T) string
}

func (v *value[T]) String() string { return v.format(*v.dst) }

func (v *value[T]) Set(s string) error {
	parsed, err := v.parse(s)
	if err == nil {
		*v.dst = parsed
	}
	return err
}

// Text is a flag for a text that is not empty and passes check, which may be nil.
func Text(program, name, usage string, dst *string, check func(string) error) cli.Flag {
	return Flag(program, name, usage, dst, func(s string) (string, error) {
		if s == "" {
			return "", errors.New("it is empty")
		}
		if check == nil {
			return s, nil
		}
		return s, check(s)
	}, func(s string) string { return s })
}

// Duration is a flag for a time that is not negative.
func Duration(program, name, usage string, dst *time.Duration) cli.Flag {
	return Flag(program, name, usage, dst, func(s string) (time.Duration, error) {
		d, err := time.ParseDuration(s)
		if err != nil {
			return 0, errors.New("give a number with its unit, such as 500ms, 10s or 2m")
		}
		if d < 0 {
			return 0, errors.New("it is negative")
		}
		return d, nil
	}, time.Duration.String)
}

// List is a flag that may be repeated, and whose values may also be separated by
// spaces. Commas belong to URLs.
func List[T any](program, name, usage string, dst *[]T, parse func(string) (T, error), format func(T) string) cli.Flag {
	v := &list[T]{dst: dst, parse: parse, format: format}
	return &listFlag{&cli.GenericFlag{
		Name: name, Usage: usage, EnvVars: []string{envName(program, name)}, Value: v,
	}, func() { v.replace = true }}
}

type list[T any] struct {
	dst    *[]T
	parse  func(string) (T, error)
	format func(T) string
	// replace: what dst holds is the default or the variable's.
	replace bool
}

func (l *list[T]) String() string {
	var words []string
	for _, item := range *l.dst {
		words = append(words, l.format(item))
	}
	return strings.Join(words, " ")
}

func (l *list[T]) Set(s string) error {
	words := strings.Fields(s)
	if len(words) == 0 {
		return errors.New("it is empty")
	}
	if l.replace {
		*l.dst, l.replace = nil, false
	}
	for _, word := range words {
		item, err := l.parse(word)
		if err != nil {
			return err
		}
		*l.dst = append(*l.dst, item)
	}
	return nil
}

// listFlag is a flag whose first occurrence replaces what the variable has set.
type listFlag struct {
	*cli.GenericFlag
	replace func()
}

func (f *listFlag) Apply(set *flag.FlagSet) error {
	f.replace() // the default
	err := f.GenericFlag.Apply(set)
	f.replace() // the variable's
	return err
}

// OneOf is a parser of a text that is one of some words.
func OneOf[T ~string](words ...T) func(string) (T, error) {
	return func(s string) (T, error) {
		var known []string
		for _, word := range words {
			if T(s) == word {
				return word, nil
			}
			known = append(known, string(word))
		}
		return "", fmt.Errorf("it is one of %s", strings.Join(known, ", "))
	}
}
