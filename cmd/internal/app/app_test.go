package app

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"
)

func identity(s string) string { return s }

// outcome is what one run of a program has done.
type outcome struct {
	code           int
	stdout, stderr string
	refused        bool

	text    string
	wait    time.Duration
	list    []string
	command []string // nil: Main was not called
}

// try runs a program "prog" that has a flag of each kind, and exits with 7.
func try(t *testing.T, args ...string) (o outcome) {
	t.Helper()
	o.text, o.wait, o.list = "default", time.Minute, []string{"main"}
	parse := func(s string) (string, error) {
		if strings.HasSuffix(s, "bad") {
			return "", errors.New("it is bad: take a good one")
		}
		return s, nil
	}
	streams := []**os.File{&os.Stdout, &os.Stderr}
	var files []*os.File
	for _, stream := range streams {
		f, err := os.Create(filepath.Join(t.TempDir(), "stream"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		defer func(before *os.File) { *stream = before }(*stream)
		*stream = f
		files = append(files, f)
	}
	var command []string
	o.code = Program{
		Name: "prog", Operand: "COMMAND",
		Flags: []cli.Flag{
			Text("prog", "text", "a text", &o.text, func(s string) error { _, err := parse(s); return err }),
			Duration("prog", "wait-time", "a time", &o.wait),
			List("prog", "list", "a list", &o.list, parse, identity),
		},
		Check: func(c []string) error {
			if c[0] == "refuse" {
				return errors.New("--text and --list exclude each other: give one")
			}
			command = c
			return nil
		},
		Main: func(zerolog.Logger) int {
			o.command = command
			return 7
		},
		Refused: func([]string) { o.refused = true },
	}.Run(append([]string{"prog"}, args...))
	read := func(f *os.File) string {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(f)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	o.stdout, o.stderr = read(files[0]), read(files[1])
	return o
}

// TestValues: the default, then the variable, then the flag; an empty variable is none.
func TestValues(t *testing.T) {
	for _, c := range []struct {
		name string
		env  map[string]string
		args []string
		text string
		wait time.Duration
		list []string
	}{
		{"nothing is given", nil, nil, "default", time.Minute, []string{"main"}},
		{"empty variables", map[string]string{"PROG_TEXT": "", "PROG_WAIT_TIME": "", "PROG_LIST": ""}, nil, "default", time.Minute, []string{"main"}},
		{"variables", map[string]string{"PROG_TEXT": "a b", "PROG_WAIT_TIME": "1h", "PROG_LIST": "a  b,c\td\ne "}, nil, "a b", time.Hour, []string{"a", "b,c", "d", "e"}},
		{"flags", nil, []string{"--text", "x", "--wait-time", "0s", "--list", "a"}, "x", 0, []string{"a"}},
		{"flags with one dash and =", nil, []string{"-text=x=y", "-wait-time=1.5s", "-list=http://h/?a=1,2"}, "x=y", 1500 * time.Millisecond, []string{"http://h/?a=1,2"}},
		{"a repeated list", nil, []string{"--list", "a", "--list", "b c", "--list=d"}, "default", time.Minute, []string{"a", "b", "c", "d"}},
		{"of others the last counts", nil, []string{"--text", "x", "--text", "y", "--wait-time", "1s", "--wait-time", "2s"}, "y", 2 * time.Second, []string{"main"}},
		{"flags over variables", map[string]string{"PROG_TEXT": "a", "PROG_WAIT_TIME": "1h", "PROG_LIST": "a b"}, []string{"--text", "x", "--wait-time", "2h", "--list", "c", "--list", "d"}, "x", 2 * time.Hour, []string{"c", "d"}},
		{"a value that looks like a flag", nil, []string{"--text", "--list"}, "--list", time.Minute, []string{"main"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for name, value := range c.env {
				t.Setenv(name, value)
			}
			o := try(t, append(c.args, "--", "run")...)
			if o.code != 7 || !slices.Equal(o.command, []string{"run"}) || o.refused {
				t.Fatalf("it was not run: %+v", o)
			}
			if o.text != c.text || o.wait != c.wait || !slices.Equal(o.list, c.list) {
				t.Errorf("got %q, %s, %q; want %q, %s, %q", o.text, o.wait, o.list, c.text, c.wait, c.list)
			}
			if o.stdout != "" || o.stderr != "" {
				t.Errorf("it says %q, %q", o.stdout, o.stderr)
			}
		})
	}
}

// TestCommand: what stands behind the flags is the command's, whatever it looks like.
func TestCommand(t *testing.T) {
	for _, c := range []struct{ args, want []string }{
		{[]string{"--", "help", "me"}, []string{"help", "me"}},
		{[]string{"--", "help"}, []string{"help"}},
		{[]string{"--", "h"}, []string{"h"}},
		{[]string{"--", "--help"}, []string{"--help"}},
		{[]string{"--", "-v"}, []string{"-v"}},
		{[]string{"--", "run", "--text", "x", "--", "-h"}, []string{"run", "--text", "x", "--", "-h"}},
		{[]string{"--", "--", "run"}, []string{"--", "run"}},
		{[]string{"--", "--generate-bash-completion"}, []string{"--generate-bash-completion"}},
		{[]string{"--", "text"}, []string{"text"}}, // a flag's name
		{[]string{"--", ""}, []string{""}},
		{[]string{"run", "-h", "--text"}, []string{"run", "-h", "--text"}}, // the -- is left out
		{[]string{"-"}, []string{"-"}},
	} {
		if o := try(t, c.args...); o.code != 7 || !slices.Equal(o.command, c.want) {
			t.Errorf("%q runs %q, want %q: %+v", c.args, o.command, c.want, o)
		}
	}
}

// TestRefusals: nothing is run, the exit code is 125, and one line on stderr names what
// is at fault and says more than that.
func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		env  string // NAME=value
		args []string
		says string
	}{
		{"", nil, "no COMMAND: give the program to run and its arguments after --"},
		{"", []string{"--"}, "no COMMAND"},
		{"", []string{"--text", "x"}, "no COMMAND"},
		{"", []string{"--bogus", "--", "run"}, "flag provided but not defined: --bogus"},
		{"", []string{"-bogus=x", "--", "run"}, "flag provided but not defined: --bogus"},
		{"", []string{"--text"}, "flag needs an argument: --text"},
		{"", []string{"--text=", "--", "run"}, `invalid value "" for flag --text: it is empty`},
		{"", []string{"--text", "bad", "--", "run"}, `invalid value "bad" for flag --text: it is bad: take a good one`},
		{"", []string{"--list", " ", "--", "run"}, `invalid value " " for flag --list: it is empty`},
		{"", []string{"--list", "a bad", "--", "run"}, `invalid value "a bad" for flag --list: it is bad`},
		{"", []string{"--text", `http://me:"se\cret"@web/bad`, "--", "run"}, `invalid value "…" for flag --text: it is bad`},
		{"PROG_LIST=a http://me:secret@web/ bad", []string{"--", "run"}, `could not parse "…" from environment variable "PROG_LIST" as value for flag list: it is bad`},
		{"", []string{"--wait-time", "5", "--", "run"}, `invalid value "5" for flag --wait-time: give a number with its unit`},
		{"", []string{"--wait-time", "-5s", "--", "run"}, `invalid value "-5s" for flag --wait-time: it is negative`},
		{"", []string{"--wait-time", "1e99h", "--", "run"}, `for flag --wait-time: give a number with its unit`},
		{"", []string{"--log-level", "loud", "--", "run"}, `invalid value "loud" for flag --log-level: it is one of trace, debug, info, warn, error, disabled`},
		{"", []string{"--log-level", "1", "--", "run"}, `for flag --log-level: it is one of`},
		{"", []string{"--log-level", "INFO", "--", "run"}, `for flag --log-level: it is one of`},
		{"", []string{"--log-format", "xml", "--", "run"}, `invalid value "xml" for flag --log-format: it is one of auto, console, json`},
		{"", []string{"---", "run"}, "bad flag syntax: ---"},
		{"", []string{"--=x", "run"}, "bad flag syntax: --=x"},
		{"", []string{"--", "refuse"}, "--text and --list exclude each other: give one"},
		{"PROG_TEXT=bad", []string{"--", "run"}, `could not parse "bad" from environment variable "PROG_TEXT"`},
		{"PROG_WAIT_TIME=5", []string{"--", "run"}, `could not parse "5" from environment variable "PROG_WAIT_TIME" as value for flag wait-time: give a number with its unit`},
		{"PROG_LIST=a bad", []string{"--", "run"}, `from environment variable "PROG_LIST"`},
		{"PROG_LIST= ", []string{"--", "run"}, `from environment variable "PROG_LIST" as value for flag list: it is empty`},
		{"PROG_LOG_LEVEL=loud", []string{"--", "run"}, `from environment variable "PROG_LOG_LEVEL"`},
		{"PROG_LOG_FORMAT=xml", []string{"--", "run"}, `from environment variable "PROG_LOG_FORMAT"`},
	} {
		t.Run(strings.TrimSpace(c.env+" "+strings.Join(c.args, " ")), func(t *testing.T) {
			if name, value, ok := strings.Cut(c.env, "="); ok {
				t.Setenv(name, value)
			}
			o := try(t, c.args...)
			if o.code != 125 || o.command != nil || o.stdout != "" || !o.refused {
				t.Errorf("it was not refused with 125: %+v", o)
			}
			line, rest, _ := strings.Cut(o.stderr, "\n")
			if !strings.HasPrefix(line, "prog: ") || !strings.Contains(line, c.says) || rest != "See prog --help.\n" {
				t.Errorf("it says %q, want prog: ... %s", o.stderr, c.says)
			}
		})
	}
}

// TestHelpAndVersion: they come on stdout, with 0, whatever else is wrong.
func TestHelpAndVersion(t *testing.T) {
	for _, c := range []struct {
		env  string
		args []string
		want []string
	}{
		{"", []string{"--help"}, []string{"prog [flags] -- COMMAND [ARG...]", "--wait-time", "$PROG_WAIT_TIME", "(default: 1m0s)", "--copy-to"}},
		{"", []string{"-h"}, []string{"--list", "$PROG_LIST", "(default: main)"}},
		{"", []string{"--help", "--", "run"}, []string{"--list"}},
		{"5", []string{"--help"}, []string{"--wait-time"}},
		{"", []string{"--bogus", "-h", "--", "run"}, []string{"--wait-time"}},
		{"", []string{"--version"}, []string{"prog version " + Version() + "\n"}},
		{"", []string{"-v", "--", "run"}, []string{"prog version " + Version() + "\n"}},
		{"5", []string{"--version"}, []string{"prog version " + Version() + "\n"}},
	} {
		t.Setenv("PROG_WAIT_TIME", c.env)
		o := try(t, c.args...)
		if o.code != 0 || o.command != nil || o.refused || o.stderr != "" {
			t.Errorf("PROG_WAIT_TIME=%s %q: %+v", c.env, c.args, o)
		}
		for _, want := range c.want {
			if !strings.Contains(o.stdout, want) {
				t.Errorf("PROG_WAIT_TIME=%s %q does not say %q:\n%s", c.env, c.args, want, o.stdout)
			}
		}
	}
}

// TestRefusedCopy: who asks for a copy asks for no run that could be refused.
func TestRefusedCopy(t *testing.T) {
	for _, args := range [][]string{
		{"--copy-to", "/nowhere/at/all"},
		{"--copy-to="},
		{"--copy-to"},
		{"--copy-to", t.TempDir(), "--", "run"},
		{"--bogus", "--copy-to", "/nowhere"},
	} {
		o := try(t, args...)
		if o.code != 125 || o.refused || o.command != nil || !strings.HasPrefix(o.stderr, "prog: ") {
			t.Errorf("%q: %+v", args, o)
		}
	}
}

// TestGiven: what can be read of arguments that are wrong somewhere.
func TestGiven(t *testing.T) {
	for _, c := range []struct {
		args  string
		value string
		given bool
	}{
		{"", "", false},
		{"--name x", "x", true},
		{"-name x", "x", true},
		{"--name=x", "x", true},
		{"--name=x=y", "x=y", true},
		{"--name=", "", true},
		{"--name", "", true},
		{"--name --bogus", "", true},
		{"--name x --name y", "y", true},
		{"--bogus --name x", "x", true},
		{"--bogus b --name x", "x", true},
		{"--bogus=b --name x -- run", "x", true},
		{"--dir name", "", false},
		{"--dir --name x", "x", true},
		{"--names x --nam y", "", false},
		{"name x", "", false},
		{"--bogus -- --name x", "", false},
		{"-- run --name x", "", false},
		{"--bogus b run --name x", "", false}, // the -- is left out
		{"- --name x", "", false},
	} {
		args := append([]string{"--name"}, strings.Fields(c.args)...) // the program's own name
		if value, given := Given(args, "name"); value != c.value || given != c.given {
			t.Errorf("in %q, --name is %q, %v; want %q, %v", c.args, value, given, c.value, c.given)
		}
	}
	if _, given := Given(nil, "name"); given {
		t.Error("found a flag in no arguments at all")
	}
}

// TestCopyFileFails: a copy that does not succeed leaves nothing behind.
func TestCopyFileFails(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	if err := os.WriteFile(from, []byte("program"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(to, "in the way"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := copyFile(from, to); err == nil || !strings.Contains(err.Error(), to) {
		t.Errorf("copied over a folder: %v", err)
	}
	if err := copyFile(filepath.Join(dir, "none"), filepath.Join(dir, "copy")); err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("copied what is not there: %v", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}
