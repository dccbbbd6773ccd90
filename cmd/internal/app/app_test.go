package app

import (
	encoding "encoding/json"
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
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
	on      bool
	command []string // nil: Main was not called

	// what Main finds of the Go runtime's settings
	gcPercent   int
	memoryLimit int64
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
	dir, lostAfter := t.TempDir(), time.Minute
	o.code = Program{
		Name: "prog", CommandName: "COMMAND", Dir: &dir, LostAfter: &lostAfter,
		Flags: []*Flag{
			String(About{"text", "TEXT", "a text", "Values"}, &o.text, func(s string) error { _, err := parse(s); return err }),
			Duration(About{"wait-time", "", "a time", "Values"}, &o.wait),
			List(About{"list", "WORD", "a list", "Values"}, &o.list, parse, identity),
			Switch(About{"switch", "", "a switch", "Switches"}, &o.on),
		},
		Validate: func(c []string) error {
			if c[0] == "refuse" {
				return errors.New("--text and --list exclude each other: give one")
			}
			command = c
			return nil
		},
		Main: func(zerolog.Logger) int {
			o.command = command
			o.gcPercent, o.memoryLimit = debug.SetGCPercent(100), debug.SetMemoryLimit(-1)
			return 7
		},
		OnUsageError: func() { o.refused = true },
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
		{"variables of flags that have none", map[string]string{"PROG_HELP": "true", "PROG_VERSION": "true", "PROG_COPY_TO": "/"}, nil, "default", time.Minute, []string{"main"}},
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

// TestSwitch: a flag without a value.
func TestSwitch(t *testing.T) {
	for _, c := range []struct {
		env, arg string
		want     bool
	}{
		{"", "--switch", true}, {"", "--switch=true", true}, {"", "--switch=false", false},
		{"true", "--switch", true}, {"true", "--switch=false", false}, {"false", "--text=x", false}, {"1", "--text=x", true},
	} {
		t.Setenv("PROG_SWITCH", c.env)
		if o := try(t, c.arg, "--", "run"); o.code != 7 || o.on != c.want {
			t.Errorf("PROG_SWITCH=%s %s: %+v", c.env, c.arg, o)
		}
	}
}

// TestOwnSettings: the Go runtime's variables are the command's.
func TestOwnSettings(t *testing.T) {
	gcPercent, memoryLimit := debug.SetGCPercent(-1), debug.SetMemoryLimit(1<<40)
	defer func() {
		debug.SetGCPercent(gcPercent)
		debug.SetMemoryLimit(memoryLimit)
	}()
	if o := try(t, "--", "run"); o.gcPercent != 100 || o.memoryLimit != math.MaxInt64 {
		t.Errorf("it runs with GOGC=%d GOMEMLIMIT=%d", o.gcPercent, o.memoryLimit)
	}
}

// TestCommand: everything after the flags is the command's, whatever it looks like.
func TestCommand(t *testing.T) {
	for _, c := range []struct{ args, want []string }{
		{[]string{"--", "help", "me"}, []string{"help", "me"}},
		{[]string{"--", "help"}, []string{"help"}},
		{[]string{"--", "h"}, []string{"h"}},
		{[]string{"--", "run", "--text", "x", "--", "-h"}, []string{"run", "--text", "x", "--", "-h"}},
		{[]string{"--", "--", "run"}, []string{"--", "run"}},
		{[]string{"--", "--generate-bash-completion"}, []string{"--generate-bash-completion"}},
		{[]string{"--", "text"}, []string{"text"}}, // a flag's name
		{[]string{"--", ""}, []string{""}},
		{[]string{"run", "-h", "--text"}, []string{"run", "-h", "--text"}}, // the -- is left out
		{[]string{"-"}, []string{"-"}},
		{[]string{"--switch", "true"}, []string{"true"}}, // the program
		{[]string{"--switch", "true", "x"}, []string{"true", "x"}},
		{[]string{"--switch", "--", "true", "--", "x"}, []string{"true", "--", "x"}},
		{[]string{"--text", "-switch", "true", "--", "x"}, []string{"true", "--", "x"}},
	} {
		if o := try(t, c.args...); o.code != 7 || !slices.Equal(o.command, c.want) {
			t.Errorf("%q runs %q, want %q: %+v", c.args, o.command, c.want, o)
		}
	}
}

// TestRefusals: nothing is run, the exit code is 125, and one line on stderr names what
// is at fault and what to do.
func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		env  string // NAME=value
		args []string
		says string
	}{
		{"", nil, `no COMMAND: give the program to run and its arguments after -- (see prog --help)`},
		{"", []string{"--"}, "no COMMAND: "},
		{"", []string{"--text", "x"}, "no COMMAND: "},
		{"", []string{"--bogus", "--", "run"}, "prog has no flag --bogus: if it is COMMAND's, put -- before COMMAND"},
		{"", []string{"-bogus=x", "--", "run"}, "prog has no flag --bogus: if it is COMMAND's, put -- before COMMAND"},
		{"", []string{"--texts", "x", "--", "run"}, "prog has no flag --texts: did you mean --text?"},
		{"", []string{"--waittime=1s", "--", "run"}, "prog has no flag --waittime: did you mean --wait-time?"},
		{"", []string{"--text"}, "--text: its value is missing"},
		{"", []string{"--text=", "--", "run"}, `--text "": it is empty`},
		{"", []string{"--text", "bad", "--", "run"}, `--text "bad": it is bad: take a good one`},
		{"", []string{"--text", "bad", "--wait-time", "5", "--", "run"}, `--text "bad": it is bad: take a good one`}, // the first
		{"", []string{"--list", " ", "--", "run"}, `--list " ": it is empty`},
		{"", []string{"--list", "a bad", "--", "run"}, `--list "a bad": it is bad: take a good one`},
		{"", []string{"--text", `http://me:"se\cret"@web/bad`, "--", "run"}, `--text "…": it is bad: take a good one`},
		{"PROG_LIST=a http://me:secret@web/ bad", []string{"--", "run"}, `PROG_LIST "…": it is bad: take a good one`},
		{"", []string{"--wait-time", "5", "--", "run"}, `--wait-time "5": give a number with its unit, such as 500ms, 10s or 2m`},
		{"", []string{"--wait-time", "-5s", "--", "run"}, `--wait-time "-5s": it is negative`},
		{"", []string{"--wait-time", "1e99h", "--", "run"}, `--wait-time "1e99h": give a number with its unit`},
		{"", []string{"--switch=perhaps", "--", "run"}, `--switch "perhaps": give true or false`},
		{"", []string{"--switch", "true", "--", "run"}, `--switch takes no separate value: remove true, or write --switch=true`},
		{"", []string{"-switch", "false", "--text", "x", "--", "run"}, `--switch takes no separate value: remove false, or write --switch=false`},
		{"", []string{"--log-level", "loud", "--", "run"}, `--log-level "loud": give one of trace, debug, info, warn, error, disabled`},
		{"", []string{"--log-level", "1", "--", "run"}, `--log-level "1": give one of`},
		{"", []string{"--log-level=", "--", "run"}, `--log-level "": give one of`},
		{"", []string{"--log-format", "xml", "--", "run"}, `--log-format "xml": give one of auto, console, json`},
		{"", []string{"---", "run"}, `"---" is no flag: if it is COMMAND's, put -- before COMMAND`},
		{"", []string{"--=x", "run"}, `"--=x" is no flag: if it is COMMAND's, put -- before COMMAND`},
		{"", []string{"--", "refuse"}, "--text and --list exclude each other: give one"},
		{"", []string{"--", "--text", "x", "run"}, `"--text" is where COMMAND has to be: flags go before --`},
		{"", []string{"--", "-text=x", "run"}, `"-text=x" is where COMMAND has to be: flags go before --`},
		{"", []string{"--", "--help"}, `"--help" is where COMMAND has to be: flags go before --`},
		{"", []string{"--", "-v"}, `"-v" is where COMMAND has to be: flags go before --`},
		{"PROG_TEXT=bad", []string{"--", "run"}, `PROG_TEXT "bad": it is bad: take a good one`},
		{"PROG_WAIT_TIME=5", []string{"--", "run"}, `PROG_WAIT_TIME "5": give a number with its unit`},
		{"PROG_LIST=a bad", []string{"--", "run"}, `PROG_LIST "a bad": it is bad`},
		{"PROG_LIST= ", []string{"--", "run"}, `PROG_LIST " ": it is empty`},
		{"PROG_SWITCH=perhaps", []string{"--", "run"}, `PROG_SWITCH "perhaps": give true or false`},
		{"PROG_LOG_LEVEL=loud", []string{"--", "run"}, `PROG_LOG_LEVEL "loud": give one of`},
		{"PROG_LOG_FORMAT=xml", []string{"--", "run"}, `PROG_LOG_FORMAT "xml": give one of`},
		{"PROG_LOG_LEVEL=disabled", []string{"--bogus"}, "prog has no flag --bogus"},
	} {
		t.Run(strings.TrimSpace(c.env+" "+strings.Join(c.args, " ")), func(t *testing.T) {
			if name, value, ok := strings.Cut(c.env, "="); ok {
				t.Setenv(name, value)
			}
			o := try(t, c.args...)
			if o.code != 125 || o.command != nil || o.stdout != "" || !o.refused {
				t.Errorf("it was not refused with 125: %+v", o)
			}
			l := o.onlyLine(t)
			if _, err := time.Parse("2006-01-02T15:04:05.000Z07:00", l.Time); err != nil {
				t.Error(err)
			}
			if l.Level != "error" || l.Severity != "ERROR" || l.Code != 125 || !strings.HasPrefix(l.Message, c.says) || !strings.HasSuffix(l.Message, " (see prog --help)") {
				t.Errorf("it says %+v, want %s", l, c.says)
			}
		})
	}
}

// line is a line of the log.
type line struct {
	Level, Severity, Logger, Time, Message string
	Code                                   int
}

func (o outcome) onlyLine(t *testing.T) (l line) {
	t.Helper()
	decoder := encoding.NewDecoder(strings.NewReader(o.stderr))
	if err := decoder.Decode(&l); err != nil || decoder.More() {
		t.Fatalf("it is not one line of JSON (%v): %s", err, o.stderr)
	}
	return l
}

// TestConsole: lines for people, in colour only on a terminal.
func TestConsole(t *testing.T) {
	o := try(t, "--log-format", "console", "--bogus", "--", "run")
	if !strings.Contains(o.stderr, " ERR prog has no flag --bogus") || strings.Contains(o.stderr, "\x1b") {
		t.Errorf("it says %q", o.stderr)
	}
}

// TestReadOn: behind what is wrong, the other flags still count: sentinel records by them.
func TestReadOn(t *testing.T) {
	for _, c := range []struct{ args, text string }{
		{"--bogus --text x -- run", "x"},
		{"--bogus=b --text x -- run", "x"},
		{"--bogus b --text x -- run", "x"},
		{"--bogus --text x run", "x"},
		{"--text x --bogus run --text y", "x"}, // without a --, run may be the command
		{"--text x --bogus -- run --text y", "x"},
		{"--text x --text bad -- run", "x"},
		{"--wait-time 5 --text x -- run", "x"},
		{"--wait-time --text x -- run", "default"}, // --text is the time, and x the command
		{"--text x --wait-time", "x"},
		{"--switch true --text x -- run", "x"},
		{"--- --text x -- run", "x"},
		{"--bogus=b run --text x -- run", "default"},
		{"- --text x", "default"},
	} {
		t.Setenv("PROG_TEXT", "")
		if o := try(t, strings.Fields(c.args)...); o.text != c.text || c.args[:2] == "--" && o.code != 125 {
			t.Errorf("%q: --text is %q, want %q: %+v", c.args, o.text, c.text, o)
		}
	}
}

// TestEachFlag: behind each flag, with -- and without it, stands the command, and what looks like
// a flag of ours belongs to it.
func TestEachFlag(t *testing.T) {
	for _, flag := range [][]string{
		{"--text", "x"}, {"--text=x"}, {"-text", "x"}, {"--wait-time", "1s"}, {"--list", "x"}, {"--switch"}, {"-switch"}, {"--switch=true"},
		{"--log-level", "debug"}, {"--log-format", "json"},
	} {
		for _, dashes := range [][]string{nil, {"--"}} {
			for _, argument := range []string{"-h", "--help", "-v", "--version", "--text"} {
				args := slices.Concat(flag, dashes, []string{"run", argument})
				if o := try(t, args...); o.code != 7 || !slices.Equal(o.command, []string{"run", argument}) || o.stdout != "" {
					t.Errorf("%q: %+v", args, o)
				}
			}
		}
	}
}

// TestMisspeltVariables: a variable that is nearly one of ours is told, others are not.
func TestMisspeltVariables(t *testing.T) {
	for variable, meant := range map[string]string{
		"PROG_TEXTS":      "PROG_TEXT",
		"PROG_WAITTIME":   "PROG_WAIT_TIME",
		"PROG_LOGLEVEL":   "PROG_LOG_LEVEL",
		"prog_text":       "PROG_TEXT",
		"PROG_WAIT_UNTIL": "", // less alike
		"PROG_LIST":       "",
		// of a Service named prog
		"PROG_SERVICE_HOST": "", "PROG_SERVICE_PORT": "", "PROG_PORT": "", "PROG_PORT_80_TCP": "", "PROG_PORT_80_TCP_ADDR": "", "PROG_PORT_80_TCP_PROTO": "",
		// of one named prog-log
		"PROG_LOG_PORT": "", "PROG_LOG_PORT_80_TCP": "", "PROG_LOG_SERVICE_HOST": "",
		// of other programs
		"PROG_QUORUM": "", "PROG_MASTER_NAME": "", "PROG_TEX": "PROG_TEXT", "PROG_": "", "PROG": "", "PROGRAM_TEXT": "",
	} {
		t.Run(variable, func(t *testing.T) {
			t.Setenv(variable, "x")
			o := try(t, "--", "run")
			switch {
			case o.code != 7:
				t.Errorf("it was not run: %+v", o)
			case meant == "" && o.stderr != "":
				t.Errorf("it says %s", o.stderr)
			case meant != "":
				want := "the variable " + variable + " is not prog's and has no effect: did you mean " + meant + "?"
				if l := o.onlyLine(t); l.Level != "warn" || l.Severity != "WARNING" || l.Message != want {
					t.Errorf("it says %+v, want %s", l, want)
				}
			}
		})
	}
}

// TestMisspeltOnce: a variable that is nearly one of several is told once.
func TestMisspeltOnce(t *testing.T) {
	t.Setenv("PROG_LISTE", "x")
	var list, lists string
	flags := []*Flag{String(About{Name: "list"}, &list, nil), String(About{Name: "lists"}, &lists, nil)}
	if problems := (Program{Name: "prog"}).misspelt(flags); len(problems) != 1 || !strings.HasSuffix(problems[0], "did you mean PROG_LIST?") {
		t.Errorf("it says %q", problems)
	}
}

// TestNobodyToRefuse: OnUsageError may be left out.
func TestNobodyToRefuse(t *testing.T) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	defer func(before *os.File) { os.Stderr = before }(os.Stderr)
	os.Stderr = null
	if code := (Program{Name: "prog", CommandName: "COMMAND"}).Run([]string{"prog"}); code != 125 {
		t.Errorf("the exit code is %d, want 125", code)
	}
}

func TestFormatDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		time.Minute: "1m", time.Hour: "1h", 90 * time.Second: "1m30s", 10 * time.Second: "10s", 70 * time.Minute: "1h10m", 1500 * time.Millisecond: "1.5s", 0: "0s",
	} {
		if got := formatDuration(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
}

// TestHelpText is all that --help shows of the flags.
func TestHelpText(t *testing.T) {
	const want = `
Values:
  --text TEXT               a text (default: default) [$PROG_TEXT]
  --wait-time DURATION      a time (default: 1m) [$PROG_WAIT_TIME]
  --list WORD               a list (default: main) [$PROG_LIST]

Switches:
  --switch                  a switch [$PROG_SWITCH]

Logging:
  --log-level LEVEL         the lowest level that is logged: trace, debug, info,
                            warn, error or disabled (default: info)
                            [$PROG_LOG_LEVEL]
  --log-format FORMAT       json, console, or auto: console on a terminal, else
                            json (default: auto) [$PROG_LOG_FORMAT]

Other:
  --status[=FORMAT]         show the runs on the volume, and exit: as a table,
                            or with --status=json as JSON; changes nothing
  --copy-to DIR             copy sentinel and shim into this directory, and exit
  --help, -h                show this help, and exit
  --version, -v             show the version, and exit
`
	if o := try(t, "--help"); !strings.Contains(o.stdout, want) {
		t.Errorf("it does not show%s\nbut\n%s", want, o.stdout)
	}
}

// TestHelpAndVersion: they come on stdout, with 0, whatever else is wrong.
func TestHelpAndVersion(t *testing.T) {
	for _, c := range []struct {
		env  string
		args []string
		want []string
	}{
		{"", []string{"--help"}, []string{"Usage: prog [flags] -- COMMAND [ARG...]\n", "\nValues:\n  --text TEXT ", "--wait-time DURATION ", "[$PROG_WAIT_TIME]", "(default: 1m)", "\nSwitches:\n  --switch  ", "--copy-to DIR ", "  --help, -h  "}},
		{"", []string{"-h"}, []string{"--list WORD ", "[$PROG_LIST]", "(default: main)"}},
		{"5", []string{"-h"}, []string{"(default: 1m)"}},
		{"", []string{"--help", "--version"}, []string{"Usage"}},
		{"", []string{"-h", "--help"}, []string{"Usage"}},
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

// TestVersion: what the linker has set comes before what the build knows.
func TestVersion(t *testing.T) {
	defer func(before string) { version = before }(version)
	version = ""
	if info, ok := debug.ReadBuildInfo(); ok && Version() != info.Main.Version {
		t.Errorf("the version is %s, want %s", Version(), info.Main.Version)
	}
	version = "v1.2.3"
	if got := Version(); got != version {
		t.Errorf("the version is %s, want %s", got, version)
	}
}

// TestRefusedCopy: who asks for a copy asks for no run that could be refused.
func TestRefusedCopy(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"--copy-to", "/nowhere/at/all"}, "--copy-to: stat /nowhere/at/all: no such file or directory: mount the shared volume there"},
		{[]string{"--copy-to="}, `--copy-to "": it is empty`},
		{[]string{"--copy-to"}, "--copy-to: its value is missing"},
		{[]string{"--copy-to", dir, "--", "run"}, "--copy-to " + dir + ` runs no command: remove "run"`},
		{[]string{"--copy-to", os.DevNull}, "--copy-to /dev/null: it is not a directory"},
		{[]string{"--copy-to", dir}, "--copy-to " + dir + ": open "}, // the programs are not where the test is
		{[]string{"--bogus", "--copy-to", "/nowhere"}, "prog has no flag --bogus"},
	} {
		o := try(t, c.args...)
		if o.code != 125 || o.refused || o.command != nil || o.onlyLine(t).Code != 125 || !strings.HasPrefix(o.onlyLine(t).Message, c.says) {
			t.Errorf("%q: %+v, want %s", c.args, o, c.says)
		}
	}
}

// TestCopyFile: a copy can be executed by everybody, whatever the umask is.
func TestCopyFile(t *testing.T) {
	defer unix.Umask(unix.Umask(0o777))
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(from, []byte("program"), 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(from, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := copyFile(from, to); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(to)
	if info, _ := os.Stat(to); err != nil || string(content) != "program" || info.Mode() != 0o755 {
		t.Errorf("the copy is %q with mode %v (%v)", content, info.Mode(), err)
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
		t.Errorf("copied over a directory: %v", err)
	}
	if err := copyFile(filepath.Join(dir, "none"), filepath.Join(dir, "copy")); err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("copied what is not there: %v", err)
	}
	if err := copyFile(from, filepath.Join(dir, "none", "copy")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("copied into what is not there: %v", err)
	}
	if err := copyFile(to, filepath.Join(dir, "copy")); err == nil {
		t.Errorf("copied a directory")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}
