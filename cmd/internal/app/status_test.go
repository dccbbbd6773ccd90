package app

import (
	"strings"
	"testing"
	"time"

	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
)

// TestStatus: --status runs nothing, and its format stands only behind a =.
func TestStatus(t *testing.T) {
	const object = "{\"runs\":[]}\n"
	for args, want := range map[string]string{
		"--status": "There are no runs on ", "-status": "There are no runs on ",
		"--status=table": "There are no runs on ", "--status --status=json": object, "-status=json": object,
		"--status=json --text x --log-level debug": object, "--status=json --": object,
		"--status=json --status": "There are no runs on ",
	} {
		o := try(t, strings.Fields(args)...)
		if o.code != 0 || o.command != nil || o.refused || !strings.HasPrefix(o.stdout, want) || o.stderr != "" {
			t.Errorf("%s: %+v", args, o)
		}
	}
	for args, says := range map[string]string{
		"--status run":                         `--status runs no command: remove "run" (see`,
		"--status -- run":                      `--status runs no command: remove "run" (see`,
		"--status -- json":                     `--status runs no command: remove "json", or write --status=json (see`,
		"--status true -- run":                 `--status runs no command: remove "true" (see`,
		"--status=xml":                         `--status "xml": give one of table, json (see`,
		"--status=":                            `--status "": give one of table, json (see`,
		"--status --bogus":                     "prog has no flag --bogus: ",
		"--status --text bad":                  `--text "bad": it is bad`,
		"--stat":                               "prog has no flag --stat: did you mean --status?",
		"--copy-to /nowhere --status":          "--copy-to and --status exclude each other: give one",
		"--status=json --copy-to /nowhere run": "--copy-to and --status exclude each other: give one",
	} {
		o := try(t, strings.Fields(args)...)
		if o.code != 125 || o.command != nil || o.refused || o.stdout != "" {
			t.Errorf("%s was not refused without a record: %+v", args, o)
		}
		if l := o.onlyLine(t); l.Code != 125 || !strings.HasPrefix(l.Message, says) {
			t.Errorf("%s: it says %+v, want %s", args, l, says)
		}
	}
}

// TestFormats: a table and an object of runs in all states.
func TestFormats(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 678_900_000, time.FixedZone("", 3600))
	run := func(
		name string, phase lifetime.Phase, code int, cause lifetime.Cause, ago time.Duration,
	) lifetime.RunStatus {
		state := lifetime.State{Phase: phase, Code: code, Cause: cause}
		return lifetime.RunStatus{Entry: lifetime.Entry{Name: name, State: state}, Since: now.Add(-ago)}
	}
	runs := []lifetime.RunStatus{
		run("größe", lifetime.Running, 0, 0, time.Second),
		run("killed", lifetime.Ended, 137, lifetime.Lost, 90*time.Second),
		run("m", lifetime.Ended, 3, lifetime.Recorded, time.Hour),
		run("new", lifetime.Unsettled, 0, 0, -time.Hour),
		run("old", lifetime.Running, 0, 0, 0),
		run(`q"`, lifetime.Ended, 0, lifetime.Empty, 0),
		run("s", lifetime.Running, 0, 0, 0),
		run("u", lifetime.Unverified, 0, 0, 4*time.Minute),
	}
	runs[4].Since, runs[6].Stopping = time.Time{}, true
	const table = `
NAME    STATE       CODE  SINCE                     AGE
größe   running     -     2026-01-02T02:04:04.678Z  1s
killed  lost        137   2026-01-02T02:02:35.678Z  90s
m       ended       3     2026-01-02T01:04:05.678Z  60m
new     unsettled   -     2026-01-02T03:04:05.678Z  0s
old     running     -     -                         -
q"      ended       0     2026-01-02T02:04:05.678Z  0s
s       stopping    -     2026-01-02T02:04:05.678Z  0s
u       unverified  -     2026-01-02T02:00:05.678Z  4m
`
	if got := string(formatTable("/v", runs, false, now)); "\n"+got != table {
		t.Errorf("the table is\n%s", got)
	}
	if got := string(formatTable("/v", runs, true, now)); "\n"+got != table+"There are more runs on /v.\n" {
		t.Errorf("the table is\n%s", got)
	}
	object := `{"runs":[` + strings.Join([]string{
		`{"name":"größe","state":"running","since":"2026-01-02T02:04:04.678Z"}`,
		`{"name":"killed","state":"lost","code":137,"since":"2026-01-02T02:02:35.678Z"}`,
		`{"name":"m","state":"ended","code":3,"since":"2026-01-02T01:04:05.678Z"}`,
		`{"name":"new","state":"unsettled","since":"2026-01-02T03:04:05.678Z"}`,
		`{"name":"old","state":"running"}`,
		`{"name":"q\"","state":"ended","code":0,"since":"2026-01-02T02:04:05.678Z"}`,
		`{"name":"s","state":"stopping","since":"2026-01-02T02:04:05.678Z"}`,
		`{"name":"u","state":"unverified","since":"2026-01-02T02:00:05.678Z"}`,
	}, ",") + `]`
	if got := string(formatJSON(runs, false)); got != object+"}\n" {
		t.Errorf("the object is %s, not %s", got, object)
	}
	if got := string(formatJSON(runs, true)); got != object+",\"more\":true}\n" {
		t.Errorf("the object is %s, not %s", got, object)
	}
}

func TestFormatAge(t *testing.T) {
	const day = 24 * time.Hour
	for want, d := range map[string]time.Duration{
		"0s": 999 * time.Millisecond, "119s": 2*time.Minute - 1,
		"2m": 2 * time.Minute, "3m1s": 3*time.Minute + time.Second, "9m59s": 10*time.Minute - 1,
		"10m": 10*time.Minute + 59*time.Second, "179m": 3*time.Hour - 1, "3h": 3 * time.Hour,
		"3h1m": 3*time.Hour + 119*time.Second, "7h59m": 8*time.Hour - 1,
		"8h": 8*time.Hour + 59*time.Minute, "47h": 2*day - 1,
		"2d": 2 * day, "2d1h": 2*day + 119*time.Minute, "7d23h": 8*day - 1, "8d": 8*day + 23*time.Hour,
		"400d": 400 * day,
	} {
		if got := formatAge(d); got != want {
			t.Errorf("%s is %q, not %q", d, got, want)
		}
	}
}
