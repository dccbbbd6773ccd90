package cmd_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// These tests look at volumes with --status.

// status runs a program with --status to its end.
func status(t testing.TB, program, dir string, flags ...string) (code int, stdout, stderr string) {
	t.Helper()
	return lookAt(t, dir, append([]string{drive.Program(program), "--status"}, flags...))
}

// lookAt runs a command line to its end, with the volume in the programs' variables.
func lookAt(t testing.TB, dir string, argv []string, changes ...func(*exec.Cmd)) (code int, stdout, stderr string) {
	t.Helper()
	var out, log bytes.Buffer
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &log
	cmd.Env = append(os.Environ(), "SENTINEL_DIR="+dir, "SHIM_DIR="+dir)
	for _, change := range changes {
		change(cmd)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(drive.Patience, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	_ = cmd.Wait()
	return cmd.ProcessState.ExitCode(), out.String(), log.String()
}

// seenRun is a run as --status=json shows it.
type seenRun struct {
	Name, State string
	Code        *int
	Since       time.Time
}

// runsOn returns the runs that --status=json of a program shows.
func runsOn(t testing.TB, program, dir string, flags ...string) []seenRun {
	t.Helper()
	argv := append([]string{drive.Program(program), "--status=json"}, flags...)
	code, stdout, stderr := lookAt(t, dir, argv)
	if code != 0 || stderr != "" {
		t.Fatalf("%s --status=json ended with %d:\n%s%s", program, code, stdout, stderr)
	}
	var seen struct{ Runs []seenRun }
	decoder := json.NewDecoder(strings.NewReader(stdout))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&seen); err != nil || decoder.More() || seen.Runs == nil {
		t.Fatalf("%s --status=json has written no object with a list (%v):\n%s", program, err, stdout)
	}
	return seen.Runs
}

// describeRuns formats runs as "NAME STATE CODE", separated by commas.
func describeRuns(runs []seenRun) string {
	var all []string
	for _, run := range runs {
		text := run.Name + " " + run.State
		if run.Code != nil {
			text += fmt.Sprint(" ", *run.Code)
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

// shape is a table in which each time is T and each age is A.
func shape(table string) string {
	table = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z  \S+\n`).ReplaceAllString(table, "T A\n")
	return regexp.MustCompile(` +`).ReplaceAllString(table, " ")
}

// files describes everything about a volume that a program could change: names, modes, times and contents. A live run
// changes the time of its file by itself.
func files(t testing.TB, dir string) (all string) {
	t.Helper()
	for _, path := range append([]string{dir}, paths(t, dir)...) {
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		all += fmt.Sprintf("%q %s %d %s\n", path, info.Mode(), info.Size(), info.ModTime().Format(time.RFC3339Nano))
	}
	return all + testenv.Listing(dir)
}

func paths(t testing.TB, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		all = append(all, filepath.Join(dir, entry.Name()))
	}
	return all
}

// longAgo makes a file an hour old.
func longAgo(t testing.TB, path string) {
	t.Helper()
	then := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, then, then); err != nil {
		t.Fatal(err)
	}
}

// TestStatusOfAPod: --status shows each state that the runs of a pod go through.
func TestStatusOfAPod(t *testing.T) {
	t.Parallel()
	dir := testenv.FastVolume(t)
	want := func(want string) []seenRun {
		t.Helper()
		runs := runsOn(t, "sentinel", dir)
		if got := describeRuns(runs); got != want {
			t.Errorf("the runs are %q, not %q", got, want)
		}
		if got := describeRuns(runsOn(t, "shim", dir)); got != want {
			t.Errorf("for shim the runs are %q, not %q", got, want)
		}
		return runs
	}
	want("")
	if code, stdout, stderr := status(t, "sentinel", dir); code != 0 ||
		stdout != "There are no runs on "+dir+".\n" || stderr != "" {
		t.Errorf("without a run, --status ended with %d:\n%s%s", code, stdout, stderr)
	}

	began := time.Now().Add(-time.Second) // the file system's clock may lag behind
	command, open := gated(t, 3)
	main := drive.Start(t, sentinel(dir, command))
	main.Await("ready")
	sidecar := drive.Start(t, shim(dir, "--drain", "1h", "--hold", "0s"))
	sidecar.Await("sleep started")
	for _, run := range want("main running, sidecar running") {
		if run.Since.Before(began) || run.Since.After(time.Now()) {
			t.Errorf("%s is running since %s; it began at %s at the earliest", run.Name, run.Since, began)
		}
	}

	open()
	main.Want(3)
	sidecar.Await("--drain")
	want("main ended 3, sidecar stopping")
	for _, flag := range []string{"--status", "--status=table", "-status"} {
		code, stdout, stderr := lookAt(t, dir, []string{drive.Program("shim"), flag})
		table := "NAME STATE CODE SINCE AGE\nmain ended 3 T A\nsidecar stopping - T A\n"
		if code != 0 || shape(stdout) != table || stderr != "" {
			t.Errorf("%s ended with %d:\n%s%s\nwant such a table:\n%s", flag, code, stdout, stderr, table)
		}
	}

	sidecar.Kill()
	want("main ended 3, sidecar unverified")
	if got := describeRuns(runsOn(t, "shim", dir, "--lost-after", "0s")); got != "main ended 3, sidecar lost 137" {
		t.Errorf("with --lost-after 0s, the runs are %q", got)
	}
	longAgo(t, filepath.Join(dir, "sidecar-running"))
	want("main ended 3, sidecar lost 137")
	if got := describeRuns(runsOn(t, "shim", dir, "--lost-after", "2h")); got != "main ended 3, sidecar unverified" {
		t.Errorf("with --lost-after 2h, the runs are %q", got)
	}
	_, stdout, _ := status(t, "sentinel", dir)
	if rows := strings.Split(stdout, "\n"); !strings.HasSuffix(rows[2], "Z  60m") {
		t.Errorf("a run without a sign of life for an hour has another age:\n%s", stdout)
	}
}

// TestStatusOnAReadOnlyMount: --status needs no right to write.
func TestStatusOnAReadOnlyMount(t *testing.T) {
	dir := testenv.FastVolume(t)
	main := drive.Start(t, sentinel(dir, neverEnding))
	main.Await("sleep started")
	testenv.Plant(t, filepath.Join(dir, "sidecar-terminated"), "0\n")
	mount := testenv.ReadOnly(t, dir)
	if got := describeRuns(runsOn(t, "shim", mount)); got != "main running, sidecar ended 0" {
		t.Errorf("the runs are %q", got)
	}
}

// TestStatusBySomebody: --status works for a user who owns nothing on the volume.
func TestStatusBySomebody(t *testing.T) {
	testenv.NeedRoot(t, "to run a program as another user")
	t.Parallel()
	dir := testenv.FastVolume(t)
	main := drive.Start(t, sentinel(dir, neverEnding))
	main.Await("sleep started")
	look := func(mode os.FileMode) (code int, stdout, stderr string) {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		argv := []string{drive.Program("sentinel"), "--status"}
		return lookAt(t, dir, argv, testenv.As(testenv.Somebody))
	}
	if code, stdout, stderr := look(0o755); code != 0 || shape(stdout) !=
		"NAME STATE CODE SINCE AGE\nmain running - T A\n" {
		t.Errorf("it ended with %d:\n%s%s", code, stdout, stderr)
	}
	// A directory may be unreadable in two ways: its names, or the files behind them.
	for _, mode := range []os.FileMode{0o733, 0o744} {
		code, stdout, stderr := look(mode)
		if code != 125 || stdout != "" || !strings.Contains(stderr, dir) ||
			!strings.Contains(stderr, "permission denied: run it as a user who may read the directory") {
			t.Errorf("mode %s: it ended with %d:\n%s%s", mode, code, stdout, stderr)
		}
	}
}

// TestStatusOfHostileFiles: no file on the volume breaks the table or the JSON, and nothing that a terminal would obey
// is written. Nothing changes on the volume.
func TestStatusOfHostileFiles(t *testing.T) {
	t.Parallel()
	dir := testenv.FastVolume(t)
	for _, name := range []string{
		"\x1b[31mred", "a\nb", "a\tb", "\x07bell", "\x9bcsi", "\u202eright", "\xff\xfe", "a b", "",
		`quo"te`, `back\slash`, "größe", "%s%n", "{{.}}", strings.Repeat("x", 230),
	} {
		testenv.Plant(t, filepath.Join(dir, name+"-terminated"), "4\n")
		testenv.Plant(t, filepath.Join(dir, name+"-running"), "\x1b[31m\n")
	}
	testenv.Plant(t, filepath.Join(dir, "content-terminated"), "\x1b[31m\n")
	longAgo(t, filepath.Join(dir, "content-terminated"))
	before := files(t, dir)
	names := []string{"%s%n", `back\slash`, "content", "größe", `quo"te`, strings.Repeat("x", 230), "{{.}}"}
	var got []string
	for _, run := range runsOn(t, "sentinel", dir) {
		got = append(got, run.Name)
	}
	if !slices.Equal(got, names) {
		t.Errorf("the runs are %q, not %q", got, names)
	}
	code, stdout, stderr := status(t, "sentinel", dir)
	if code != 0 || stderr != "" {
		t.Errorf("it ended with %d:\n%s", code, stderr)
	}
	if strings.ContainsFunc(stdout, func(r rune) bool { return r < ' ' && r != '\n' || r == 0x7f || r > 0xff }) {
		t.Errorf("the table has control characters: %q", stdout)
	}
	columns := -1
	for i, row := range strings.Split(strings.TrimSpace(stdout), "\n") {
		at := len([]rune(row[:max(0, strings.LastIndex(row, "  "))])) // where the age begins
		if columns = max(columns, at); at != columns && i > 0 {
			t.Errorf("a row is not aligned: %s", row)
		}
	}
	if after := files(t, dir); after != before {
		t.Errorf("--status has changed the volume from\n%s\nto\n%s", before, after)
	}
}

// TestStatusRefused: what --status cannot do is an error on stderr that says what to do. Nothing is recorded.
func TestStatusRefused(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"sentinel", "shim"} {
		for _, c := range []struct{ args, says string }{
			{"--status --dir /nowhere", "the volume /nowhere does not exist: "},
			{"--status --dir /dev/null", "the volume /dev/null is not a directory: "},
			{"--status --dir=", `--dir \"\": it is empty`},
			{"--status -- true", `--status runs no command: remove \"true\" (see `},
			{"--status true", `--status runs no command: remove \"true\" (see `},
			{"--status=json true", `--status runs no command: remove \"true\" (see `},
			{"--status json", `--status runs no command: remove \"json\", or write --status=json`},
			{"--status=yaml", `--status \"yaml\": give one of table, json`},
			{"--status=", `--status \"\": give one of table, json`},
			{"--status=false", `--status \"false\": give one of table, json`},
			{"--status --bogus", program + " has no flag --bogus"},
			{"--status --copy-to /nowhere", "--copy-to and --status exclude each other: give one"},
			{"--statsu", "has no flag --statsu: did you mean --status?"},
		} {
			dir := testenv.FastVolume(t)
			code, stdout, stderr := lookAt(t, dir, append([]string{drive.Program(program)}, strings.Fields(c.args)...))
			if code != 125 || stdout != "" || !strings.Contains(stderr, c.says) {
				t.Errorf("%s %s: exit code %d, want 125 and %s:\n%s%s", program, c.args, code, c.says, stdout, stderr)
			}
			if names := testenv.Names(t, dir); names != "" {
				t.Errorf("%s %s has left %s on the volume", program, c.args, names)
			}
		}
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	code, _, stderr := lookAt(t, testenv.FastVolume(t), []string{drive.Program("sentinel"), "--status"},
		func(cmd *exec.Cmd) { cmd.Stdout = full })
	if code != 125 || !strings.Contains(stderr, "--status: write /dev/stdout: no space left on device") {
		t.Errorf("with a full stdout, it ended with %d:\n%s", code, stderr)
	}
}

// TestStatusHasNoVariable: a variable makes no program of a pod a mere look.
func TestStatusHasNoVariable(t *testing.T) {
	t.Parallel()
	code, stdout, stderr := lookAt(t, testenv.FastVolume(t), drive.Wrap("sentinel", nil, []string{"echo", "launched"}),
		func(cmd *exec.Cmd) { cmd.Env = append(cmd.Env, "SENTINEL_STATUS=table") })
	if code != 0 || stdout != "launched\n" {
		t.Errorf("it ended with %d:\n%s%s", code, stdout, stderr)
	}
}

// TestStatusOfManyRuns: there is an end to the table, and it says so.
func TestStatusOfManyRuns(t *testing.T) {
	t.Parallel()
	dir := testenv.FastVolume(t)
	for i := range 101 {
		testenv.Plant(t, filepath.Join(dir, fmt.Sprintf("n%d-terminated", i)), "0\n")
	}
	_, table, _ := status(t, "sentinel", dir)
	if !strings.HasSuffix(table, "\nThere are more runs on "+dir+".\n") || strings.Count(table, "\n") != 102 {
		t.Errorf("the table is\n%s", table)
	}
	_, object, _ := status(t, "sentinel", dir, "--status=json")
	if !strings.HasSuffix(object, `],"more":true}`+"\n") {
		t.Errorf("the object is\n%s", object)
	}
}
