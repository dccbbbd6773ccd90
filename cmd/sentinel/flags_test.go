package main_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// TestFlags: each flag and its variable work, and the flag overrides the variable.
func TestFlags(t *testing.T) {
	t.Parallel()
	one, two := t.TempDir(), t.TempDir()
	none := filepath.Join(one, "none")
	for _, c := range []struct {
		name string
		env  []string
		args []string
		file string // path of the recorded end, without its suffix
		code int
		says string // on stderr; "": nothing
	}{
		{"--dir", nil, []string{"--dir", one}, one + "/main", 0, `"message":"sh exited"`},
		{"SENTINEL_DIR", []string{"SENTINEL_DIR=" + one}, nil, one + "/main", 0, `"message":"sh exited"`},
		{"--dir over SENTINEL_DIR", []string{"SENTINEL_DIR=" + two}, []string{"--dir", one}, one + "/main", 0,
			"exited"},
		{"--name", nil, []string{"--dir", one, "--name", "job-1"}, one + "/job-1", 0, "exited"},
		{"SENTINEL_NAME", []string{"SENTINEL_NAME=job-2"}, []string{"--dir", one}, one + "/job-2", 0, "exited"},
		{"--name over SENTINEL_NAME", []string{"SENTINEL_NAME=job-3"}, []string{"--dir", one, "--name=job-4"},
			one + "/job-4", 0, "exited"},
		{"an empty SENTINEL_NAME", []string{"SENTINEL_NAME="}, []string{"--dir", one}, one + "/main", 0, "exited"},
		{"--wait-timeout", []string{"SENTINEL_WAIT_TIMEOUT=1h"},
			[]string{"--dir", one, "--wait-for", "file://" + none, "--wait-timeout", "10ms"}, one + "/main", 124,
			"--wait-timeout 10ms: file://" + none + ": "},
		{"SENTINEL_WAIT_FOR, SENTINEL_WAIT_TIMEOUT",
			[]string{"SENTINEL_WAIT_FOR=file://" + one + " file://" + none, "SENTINEL_WAIT_TIMEOUT=20ms"},
			[]string{"--dir", one}, one + "/main", 124, "--wait-timeout 20ms: file://" + none + ": "},
		{"--wait-for over SENTINEL_WAIT_FOR", []string{"SENTINEL_WAIT_FOR=file://" + none},
			[]string{"--dir", one, "--wait-for", "file://" + one}, one + "/main", 0, "exited"},
		{"an empty SENTINEL_WAIT_FOR", []string{"SENTINEL_WAIT_FOR="}, []string{"--dir", one}, one + "/main", 0,
			"exited"},
		{"--log-level", nil, []string{"--dir", one, "--log-level", "error"}, one + "/main", 0, ""},
		{"SENTINEL_LOG_LEVEL", []string{"SENTINEL_LOG_LEVEL=disabled"},
			[]string{"--dir", one, "--wait-for", "file://" + none, "--wait-timeout", "0s"}, one + "/main", 124, ""},
		{"an empty SENTINEL_LOG_LEVEL", []string{"SENTINEL_LOG_LEVEL="}, []string{"--dir", one}, one + "/main", 0,
			`"level":"info"`},
		{"--log-format", []string{"SENTINEL_LOG_FORMAT=json"}, []string{"--dir", one, "--log-format", "console"},
			one + "/main", 0, " INF sh exited code=0 duration_seconds=0."},
		{"SENTINEL_LOG_FORMAT", []string{"SENTINEL_LOG_FORMAT=json"}, []string{"--dir", one}, one + "/main", 0,
			`"logger":"sentinel"`},
	} {
		t.Run(c.name, func(t *testing.T) { // not parallel, because they share the volumes
			argv := append(append([]string{drive.Program("sentinel")}, c.args...), "--")
			code, stdout, stderr := ended(t, append(argv, shell("echo launched")...), env(c.env...))
			if code != c.code || (stdout == "launched\n") != (code == 0) {
				t.Errorf("the exit code is %d, want %d:\n%s%s", code, c.code, stdout, stderr)
			}
			if c.says == "" && stderr != "" || !strings.Contains(stderr, c.says) {
				t.Errorf("stderr is %q, want %q in it", stderr, c.says)
			}
			end, err := os.ReadFile(c.file + "-terminated")
			if string(end) != strconv.Itoa(c.code)+"\n" {
				t.Errorf("%s-terminated holds %q, want %d (%v)", c.file, end, c.code, err)
			}
			if err := os.Remove(c.file + "-terminated"); err != nil {
				t.Error(err)
			}
			if names := testenv.Names(t, one) + testenv.Names(t, two); names != "" {
				t.Errorf("%q is left on the volumes", names)
			}
		})
	}
}

// TestLogLines: by default the log is JSON, one object per line, with level, time and logger. It shows which command
// runs, and where its end is recorded.
func TestLogLines(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, _, stderr := ended(t, drive.Wrap("sentinel", []string{"--dir", dir}, shell("sleep 0.01; kill -TERM $$")))
	type line struct {
		Level, Severity, Logger, Time, Message string
		Version, Name, Dir                     string
		PID, Code                              int
		Seconds                                float64 `json:"duration_seconds"`
	}
	var lines []line
	for decoder := json.NewDecoder(strings.NewReader(stderr)); decoder.More(); {
		var l line
		if err := decoder.Decode(&l); err != nil {
			t.Fatalf("%v: %s", err, stderr)
		}
		if l.Logger != "sentinel" || l.Time == "" {
			t.Errorf("a line has another logger or no time: %s", stderr)
		}
		lines = append(lines, l)
	}
	if len(lines) != 3 {
		t.Fatalf("%d lines, not 3: %s", len(lines), stderr)
	}
	first, started, last := lines[0], lines[1], lines[2]
	records := "records the end of sh as " + dir + "/main-terminated"
	if first.Level != "info" || first.Version == "" || first.Name != "main" || first.Dir != dir ||
		!strings.HasSuffix(first.Message, records) {
		t.Errorf("the first line is %+v", first)
	}
	if started.Level != "info" || started.PID == 0 || started.Message != "sh started" {
		t.Errorf("the second line is %+v", started)
	}
	if first.Severity != "INFO" || last.Severity != "ERROR" {
		t.Errorf("the severities are %s and %s", first.Severity, last.Severity)
	}
	if last.Level != "error" || last.Code != 143 || last.Seconds < 0.01 ||
		!strings.HasPrefix(last.Message, "sh was killed by SIGTERM after ") {
		t.Errorf("the last line is %+v", last)
	}
}

// TestWaitForHTTP: a comma in a URL does not end it.
func TestWaitForHTTP(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 100)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked <- r.RequestURI
	}))
	defer server.Close()
	dir := t.TempDir()
	p := sentinel(t, dir, []string{"--wait-for", server.URL + "/ready?names=a,b"}, "true")
	p.Want(0)
	if got := <-asked; got != "/ready?names=a,b" {
		t.Errorf("sentinel asked for %s, not for /ready?names=a,b", got)
	}
	wantRecord(t, dir, 0)
}

// TestPassword: the URL of a database is not a valid --wait-for, and its password does not appear in the error.
func TestPassword(t *testing.T) {
	t.Parallel()
	const address = "postgres://me:hunter2@db:5432/app"
	for _, c := range []struct{ env, flags []string }{
		{nil, []string{"--wait-for", address}},
		{[]string{"SENTINEL_WAIT_FOR=" + address}, nil},
	} {
		argv := drive.Wrap("sentinel", append([]string{"--dir", t.TempDir()}, c.flags...), []string{"true"})
		code, stdout, stderr := ended(t, argv, env(c.env...))
		shown := strings.Contains(stdout+stderr, "hunter2")
		if code != 125 || !strings.Contains(stderr, "postgres://xxxxx@db:5432/app") || shown {
			t.Errorf("%q %q: exit code %d, password shown %t:\n%s", c.env, c.flags, code, shown, stderr)
		}
	}
}

// TestUsageErrorsAreRecorded: a sentinel with an invalid command line records an end, so that no shim waits for it, if
// the command line has a volume and a name.
func TestUsageErrorsAreRecorded(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		env, args, want string // V is the volume; want is what is on it, or "" for nothing
	}{
		{"", "--dir V --bogus -- true", "main-terminated"},
		{"", "--dir=V --name=job --bogus -- true", "job-terminated"},
		{"", "-dir V -name job -bogus -- true", "job-terminated"},
		{"", "--bogus --name job --dir V -- true", "job-terminated"},
		{"", "--dir V", "main-terminated"},
		{"", "--dir V --", "main-terminated"},
		{"", "--dir V --wait-timeout 5 -- true", "main-terminated"},
		{"", "--dir V --wait-for db:5432 -- true", "main-terminated"},
		{"", "--dir V --name a/b -- true", "main-terminated"},
		{"", "--dir V --name", "main-terminated"},
		{"", "--dir V --bogus x curl -v -h --name other", "main-terminated"},
		{"", "--dir V --bogus -- true --name other --help", "main-terminated"},
		{"SENTINEL_DIR=V", "--bogus -- true", "main-terminated"},
		{"SENTINEL_DIR=V", "--dir V/none --bogus -- true", ""}, // no volume, with or without --bogus
		{"SENTINEL_DIR=V SENTINEL_NAME=job", "--bogus -- true", "job-terminated"},
		{"SENTINEL_DIR=V SENTINEL_NAME=job", "--name a/b -- true", "job-terminated"},
		{"SENTINEL_DIR=V SENTINEL_NAME=a/b", "-- true", "main-terminated"},
		{"SENTINEL_DIR=V SENTINEL_WAIT_TIMEOUT=5", "-- true", "main-terminated"},
		{"SENTINEL_DIR=/nowhere/at/all", "--dir V --bogus -- true", "main-terminated"},

		{"", "--dir V --help --bogus -- true", ""},
		{"", "--dir V -h", ""},
		{"", "--dir V --version", ""},
		{"SENTINEL_WAIT_TIMEOUT=5", "--dir V -v", ""},
		{"", "--dir V --copy-to /nowhere/at/all", ""},
		{"SENTINEL_WAIT_TIMEOUT=5", "--dir V --copy-to V", ""},
		{"", "--dir V --copy-to V -- true", ""},
		{"", "--dir V --status", ""},
		{"", "--dir V --status -- true", ""},
		{"", "--dir V --status --bogus -- true", ""},
		{"", "--dir V --bogus --status=json", ""},
		{"SENTINEL_WAIT_TIMEOUT=5", "--dir V --status", ""},
		{"SENTINEL_DIR=V", "--statsu", ""},
		{"SENTINEL_DIR=V", "--stats=json", ""},
	} {
		t.Run(strings.TrimSpace(c.env+" "+c.args), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			words := func(s string) []string { return strings.Fields(strings.ReplaceAll(s, "V", dir)) }
			vars := strings.Fields(c.env)
			for i, v := range vars {
				name, value, _ := strings.Cut(v, "=")
				vars[i] = name + "=" + strings.ReplaceAll(value, "V", dir)
			}
			argv := append([]string{drive.Program("sentinel")}, words(c.args)...)
			code, stdout, stderr := ended(t, argv, env(vars...))
			if names := testenv.Names(t, dir); names != c.want {
				t.Errorf("on the volume is %q, want %q; exit code %d:\n%s%s", names, c.want, code, stdout, stderr)
			}
			if c.want == "" {
				return
			}
			if code != 125 || stdout != "" || !strings.Contains(stderr, `"code":125`) {
				t.Errorf("exit code %d, want 125:\n%s%s", code, stdout, stderr)
			}
			if end, err := os.ReadFile(filepath.Join(dir, c.want)); string(end) != "125\n" {
				t.Errorf("%s holds %q, want 125 (%v)", c.want, end, err)
			}
		})
	}
}

// TestUsageErrorBesideALiveRun: the end of an invalid command line is not recorded over a live run.
func TestUsageErrorBesideALiveRun(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := sentinel(t, dir, nil, shell(untilUSR1)...)
	p.Await("ready")
	code, _, stderr := ended(t, drive.Wrap("sentinel", []string{"--dir", dir, "--bogus"}, []string{"true"}))
	if code != 125 || !strings.Contains(stderr, "--bogus") {
		t.Errorf("exit code %d, want 125:\n%s", code, stderr)
	}
	if names := testenv.Names(t, dir); names != "main-running" {
		t.Errorf("on the volume is %q, want main-running alone", names)
	}
	p.Signal(syscall.SIGUSR1)
	p.Want(3)
	wantRecord(t, dir, 3)
}

// TestDefaults: sentinel works without flags, in a root file system with only the two programs and the volume.
func TestDefaults(t *testing.T) {
	testenv.NeedRoot(t, "to change the root directory")
	t.Parallel()
	for _, c := range []struct {
		args    []string
		code    int
		end     string
		message string // how the termination message begins
	}{
		{[]string{"--", "/shim", "--version"}, 0, "0\n", ""},
		{[]string{"--", "no-such-job"}, 127, "127\n", "no-such-job was not started: no-such-job: not found in PATH ("},
		{[]string{"--bogus", "--", "/shim", "--version"}, 125, "125\n",
			"sentinel has no flag --bogus: if it is COMMAND's, put -- before COMMAND (see sentinel --help)\n"},
		{[]string{"--help"}, 0, "", ""},
		{[]string{"--status"}, 0, "", ""},
		{[]string{"--status", "--", "/shim"}, 125, "", ""}, // main's termination message is main's
	} {
		root := t.TempDir()
		for _, dir := range []string{"tmp/pod", "dev"} {
			if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if code, _, stderr := ended(t, []string{drive.Program("sentinel"), "--copy-to", root}); code != 0 {
			t.Fatal(stderr)
		}
		terminationLog := filepath.Join(root, "dev/termination-log")
		testenv.Plant(t, terminationLog, "")
		code, stdout, stderr := ended(t, append([]string{"/sentinel"}, c.args...), func(cmd *exec.Cmd) {
			cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
			cmd.Dir = "/"
		})
		if end := recorded(t, filepath.Join(root, "tmp/pod"), "main"); code != c.code || end != c.end {
			t.Errorf("%q: exit code %d, recorded %q; want %d, %q:\n%s%s",
				c.args, code, end, c.code, c.end, stdout, stderr)
		}
		message, err := os.ReadFile(terminationLog)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(message), c.message) || c.message == "" && len(message) > 0 {
			t.Errorf("%q: the termination message is %q, want %q", c.args, message, c.message)
		}
	}
}

// TestNastyCommandLines: with any combination of these words, sentinel neither panics nor hangs, and says what is
// wrong.
func TestNastyCommandLines(t *testing.T) {
	t.Parallel()
	const lines, seed = 200, 1
	random := rand.New(rand.NewPCG(seed, seed))
	words := []string{
		// No directory outside of the test's.
		"", " ", "-", "--", "---", "=", "-=", "--=", "--=x", "\n", "\xff\xfe", "%s%n", "$(true)",
		strings.Repeat("x", 5000), "/nowhere/", "/dev/null", ".", "..",
		"--dir", "--dir=", "-dir", "--DIR", "--dir=/dev/null", "--dir=/nowhere",
		"--name", "--name=", "--name=..", "--name=\n", "--name=" + strings.Repeat("n", 300), "--name=-",
		"--wait-for", "--wait-for=", "--wait-for=tcp://", "--wait-for=http://[::1", "--wait-for=file:///%zz",
		"--wait-for=unix:///\x01",
		"--wait-timeout", "--wait-timeout=1ms", "--wait-timeout=-1s", "--wait-timeout=9999999h", "--wait-timeout=NaN",
		"--log-level", "--log-level=panic", "--log-level=fatal", "--log-format=", "--log-format=console",
		"--status", "--status=", "--status=json", "--status=\x1b",
		"--copy-to", "--copy-to=", "--copy-to=/dev/null", "--copy-to=/nowhere",
		"-h", "--help", "--help=maybe", "-v", "--version", "--generate-bash-completion", "--init-completion",
		"help", "h", "true", "exit",
	}
	names := []string{
		"SENTINEL_DIR", "SENTINEL_NAME", "SENTINEL_WAIT_FOR", "SENTINEL_WAIT_TIMEOUT", "SENTINEL_LOG_LEVEL",
		"SENTINEL_LOG_FORMAT", "SENTINEL_COPY_TO", "PATH", "HOME", "TZ",
	}
	for range lines {
		argv, vars := []string{drive.Program("sentinel")}, []string{}
		for range random.IntN(5) {
			argv = append(argv, words[random.IntN(len(words))])
		}
		for range random.IntN(3) {
			vars = append(vars, names[random.IntN(len(names))]+"="+words[random.IntN(len(words))])
		}
		dir := t.TempDir()
		t.Run("", func(t *testing.T) {
			t.Parallel()
			code, stdout, stderr := ended(t, argv, env("SENTINEL_DIR="+dir, "SENTINEL_WAIT_TIMEOUT=1ms"), env(vars...),
				func(cmd *exec.Cmd) { cmd.Dir = dir })
			what := fmt.Sprintf("%.300q %.300q", vars, argv[1:])
			switch code {
			case 0, 124, 125, 126, 127:
			default:
				t.Errorf("%s: exit code %d:\n%s%s", what, code, stdout, stderr)
			}
			if code == 0 && stdout == "" && !strings.Contains(what, `"true"`) ||
				code != 0 && stderr == "" && !strings.Contains(what, "disabled") {
				t.Errorf("%s: exit code %d and no output", what, code)
			}
			for _, sign := range []string{"panic:", "goroutine ", "%!"} {
				if both := stdout + stderr; strings.Contains(both, sign) {
					t.Errorf("%s: %q in the output:\n%s", what, sign, both)
				}
			}
		})
	}
}

// TestHelp: --help has every flag with its type, its default and its variable, in 80 columns.
func TestHelp(t *testing.T) {
	t.Parallel()
	for program, flags := range map[string]map[string]string{
		"sentinel": {
			"--dir DIR":               "(default: /tmp/pod) [$SENTINEL_DIR]",
			"--name NAME":             "(default: main) [$SENTINEL_NAME]",
			"--wait-for ADDRESS":      "may be repeated [$SENTINEL_WAIT_FOR]",
			"--wait-timeout DURATION": "(default: 1m) [$SENTINEL_WAIT_TIMEOUT]",
			"--log-level LEVEL":       "(default: info) [$SENTINEL_LOG_LEVEL]",
			"--log-format FORMAT":     "(default: auto) [$SENTINEL_LOG_FORMAT]",
			"--status[=FORMAT]":       "and exit: as a table",
			"--copy-to DIR":           "and exit",
			"--version, -v":           "and exit",
			"--help, -h":              "and exit",
		},
		"shim": {
			"--dir DIR":                "(default: /tmp/pod) [$SHIM_DIR]",
			"--main NAME":              "(default: main) [$SHIM_MAIN]",
			"--name NAME":              "(default: the base name of SIDECAR) [$SHIM_NAME]",
			"--start-timeout DURATION": "(default: 0s) [$SHIM_START_TIMEOUT]",
			"--lost-after DURATION":    "(default: 1m) [$SHIM_LOST_AFTER]",
			"--drain DURATION":         "(default: 0s) [$SHIM_DRAIN]",
			"--stop-signal SIGNAL":     "(default: SIGTERM) [$SHIM_STOP_SIGNAL]",
			"--grace-period DURATION":  "(default: 10s) [$SHIM_GRACE_PERIOD]",
			"--hold DURATION":          "(default: 15s) [$SHIM_HOLD]",
			"--restart-policy POLICY":  "[$SHIM_RESTART_POLICY]",
			"--keep-on-failure":        "[$SHIM_KEEP_ON_FAILURE]",
			"--log-level LEVEL":        "(default: info) [$SHIM_LOG_LEVEL]",
			"--log-format FORMAT":      "(default: auto) [$SHIM_LOG_FORMAT]",
			"--status[=FORMAT]":        "and exit: as a table",
			"--copy-to DIR":            "and exit",
			"--version, -v":            "and exit",
			"--help, -h":               "and exit",
		},
	} {
		code, stdout, stderr := ended(t, []string{drive.Program(program), "--help"})
		if code != 0 || stderr != "" {
			t.Errorf("%s: exit code %d:\n%s", program, code, stderr)
		}
		for line := range strings.Lines(stdout) {
			if len(line) > 80+len("\n") {
				t.Errorf("%s: more than 80 columns: %s", program, line)
			}
		}
		// The text about each flag, without line breaks.
		texts := strings.Split(stdout, "\n  --")
		for i := range texts {
			texts[i] = "--" + strings.Join(strings.Fields(texts[i]), " ")
		}
		for flag, rest := range flags {
			described := func(s string) bool { return strings.HasPrefix(s, flag+" ") && strings.Contains(s, rest) }
			if !slices.ContainsFunc(texts, described) {
				t.Errorf("%s: no flag %s with %s:\n%s", program, flag, rest, stdout)
			}
		}
		for _, heading := range []string{
			"Usage: " + program, "Exit code:\n", "States of --status:\n", "Examples:\n  " + program,
		} {
			if !strings.Contains(stdout, heading) {
				t.Errorf("%s: no %q:\n%s", program, heading, stdout)
			}
		}
	}
}

// TestCopyTo: --copy-to copies both programs, executable for all users under any umask. It may be repeated, also over
// a program that runs, and at no instant is a copy incomplete.
func TestCopyTo(t *testing.T) {
	t.Parallel()
	dir, volume := t.TempDir(), t.TempDir()
	copyTo := func(program string) {
		t.Helper()
		argv := shell(`umask 077; exec "$1" --copy-to "$2"`, program, dir)
		if code, stdout, stderr := ended(t, argv); code != 0 || stdout != "" || stderr != "" {
			t.Fatalf("exit code %d:\n%s%s", code, stdout, stderr)
		}
	}
	check := func(name string) bool {
		t.Helper()
		want, err := os.Stat(drive.Program(name))
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.Stat(filepath.Join(dir, name))
		if err != nil || got.Size() != want.Size() || got.Mode() != 0o755 {
			t.Errorf("%s: %v, %v; want %d bytes, mode 0755", name, got, err, want.Size())
			return false
		}
		return true
	}
	copyTo(drive.Program("sentinel"))
	check("sentinel")
	check("shim")

	// Again from the copy, which runs, over itself.
	copied := filepath.Join(dir, "sentinel")
	p := drive.Start(t, append([]string{copied, "--dir", volume, "--"}, shell(untilUSR1)...))
	p.Await("ready")
	stop, looked := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		defer func() { looked <- n }()
		for ; ; n++ {
			select {
			case <-stop:
				return
			default:
				if !check("sentinel") || !check("shim") {
					return
				}
			}
		}
	}()
	for range 10 {
		copyTo(copied)
	}
	copyTo(filepath.Join(dir, "shim"))
	close(stop)
	t.Logf("looked %d times", <-looked)
	p.Signal(syscall.SIGUSR1)
	p.Want(3)
	wantRecord(t, volume, 3)
	if names := testenv.Names(t, dir); names != "sentinel shim" {
		t.Errorf("the directory holds %q, want only sentinel and shim", names)
	}
	if code, _, stderr := ended(t, []string{copied, "--dir", volume, "--", "true"}); code != 0 {
		t.Errorf("the copy ended with %d, not 0:\n%s", code, stderr)
	}
}

// TestCopyToRefused: if --copy-to fails, the exit code is 125, the error says what to do, and nothing is left behind.
func TestCopyToRefused(t *testing.T) {
	t.Parallel()
	dir := testenv.Volume(t)
	file := filepath.Join(dir, "file")
	testenv.Plant(t, file, "")
	alone := t.TempDir()
	if code, _, stderr := ended(t, []string{drive.Program("sentinel"), "--copy-to", alone}); code != 0 {
		t.Fatal(stderr)
	}
	if err := os.Remove(filepath.Join(alone, "shim")); err != nil {
		t.Fatal(err)
	}
	locked := testenv.Volume(t)
	if err := os.Chmod(locked, 0o555); err != nil {
		t.Fatal(err)
	}
	user := func(*exec.Cmd) {}
	if os.Geteuid() == 0 { // root may write everywhere
		user = testenv.As(testenv.Somebody)
	}
	anybody := func(*exec.Cmd) {}
	for _, c := range []struct {
		name, program string
		args          []string
		user          func(*exec.Cmd)
		says          []string
	}{
		{"missing", "", []string{"--copy-to", dir + "/none"}, anybody,
			[]string{"--copy-to", dir + "/none: no such file", "volumeMounts"}},
		{"a file", "", []string{"--copy-to", file}, anybody, []string{"--copy-to " + file, "not a directory"}},
		{"empty", "", []string{"--copy-to="}, anybody, []string{"--copy-to", "it is empty"}},
		{"a command", "", []string{"--copy-to", dir, "--", "true"}, anybody,
			[]string{"--copy-to " + dir, "runs no command: remove "}},
		{"no shim beside", alone + "/sentinel", []string{"--copy-to", dir + "/"}, anybody,
			[]string{alone + "/shim: no such file", "both programs must be in one directory"}},
		{"not writable", "", []string{"--copy-to", locked}, user,
			[]string{"--copy-to " + locked, "permission denied", "writable"}},
	} {
		program := c.program
		if program == "" {
			program = drive.Program("sentinel")
		}
		code, stdout, stderr := ended(t, append([]string{program}, c.args...), c.user)
		if code != 125 || stdout != "" {
			t.Errorf("%s: exit code %d, want 125:\n%s%s", c.name, code, stdout, stderr)
		}
		for _, word := range c.says {
			if !strings.Contains(stderr, word) {
				t.Errorf("%s: the error does not contain %q:\n%s", c.name, word, stderr)
			}
		}
	}
	// The sentinel without a shim beside it had already copied itself.
	if names := testenv.Names(t, dir); names != "file sentinel" {
		t.Errorf("the directory holds %q, want only file and sentinel", names)
	}
}

// TestCopyToNoexec: --copy-to fails at once on a volume from which no program can run, not only when the main container
// starts.
func TestCopyToNoexec(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	code, stdout, stderr := endedOn(t, dir, unix.MS_NOEXEC, []string{drive.Program("sentinel"), "--copy-to", dir})
	if code != 125 || stdout != "" || !strings.Contains(stderr, "--copy-to "+dir+": the volume is mounted noexec") {
		t.Errorf("exit code %d, want 125:\n%s%s", code, stdout, stderr)
	}
}
