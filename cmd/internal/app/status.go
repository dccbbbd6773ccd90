package app

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/rs/zerolog"

	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
)

const (
	status      = "status"
	statusTable = "table"
	statusJSON  = "json"
)

// statusStates is the part of --help about the states. Their order is that of design, 5.6.
const statusStates = `running     it has begun, at SINCE
stopping    the same, and it is about to end
ended       it has ended with CODE, at SINCE
lost        killed before it could record a code; it counts as 137
unverified  nobody holds its lock: killed less than --lost-after (1m) ago, or
            containers cannot see each other's locks (gVisor)
unsettled   its end holds no code yet: look again
Of lost and unverified, SINCE is the last sign of life: one comes every 15s.`

func statusFlag(dst *string) *Flag {
	f := Value(About{status, "FORMAT", "show the runs on the volume, and exit: as a table, or with --status=json " +
		"as JSON; changes nothing", other}, dst,
		OneOf(statusTable, statusJSON), func(format string) string { return format })
	f.bare, f.noVariable = statusTable, true
	return f
}

// showStatus writes the runs on the volume to stdout. It writes nothing else anywhere.
func (p Program) showStatus(format string, command []string) error {
	if len(command) > 0 {
		hint := ""
		if command[0] == statusJSON {
			hint = ", or write --status=json"
		}
		return fmt.Errorf("--%s runs no command: remove %q%s", status, command[0], hint)
	}
	runs, more, err := lifetime.Status(lifetime.Dir(*p.Dir), *p.LostAfter)
	if err != nil {
		return err
	}
	text := formatTable(*p.Dir, runs, more, time.Now())
	if format == statusJSON {
		text = formatJSON(runs, more)
	}
	if _, err := os.Stdout.Write(text); err != nil {
		return fmt.Errorf("--%s: %w", status, err)
	}
	return nil
}

// texts returns the exit code of a run, and its time as in the log, but always in UTC. Each is "" if there is none.
func texts(run *lifetime.RunStatus) (code, since string) {
	if run.Phase == lifetime.Ended {
		code = strconv.Itoa(run.Code)
	}
	if !run.Since.IsZero() {
		since = run.Since.UTC().Format(timeFormat)
	}
	return code, since
}

// formatJSON uses the encoder of the log: package encoding/json would make the programs larger.
func formatJSON(runs []lifetime.RunStatus, more bool) []byte {
	list := zerolog.Arr()
	for i := range runs {
		run := &runs[i]
		fields := zerolog.Dict().Str("name", run.Name).Str("state", run.Word())
		code, since := texts(run)
		if code != "" {
			fields.Int("code", run.Code)
		}
		if since != "" {
			fields.Str("since", since)
		}
		list.Dict(fields)
	}
	var text bytes.Buffer
	log := zerolog.New(&text)
	line := log.Log().Array("runs", list)
	if more {
		line.Bool("more", true)
	}
	line.Send()
	return text.Bytes()
}

// formatTable formats the runs for a person.
func formatTable(dir string, runs []lifetime.RunStatus, more bool, now time.Time) []byte {
	if len(runs) == 0 {
		return []byte("There are no runs on " + dir + ".\n")
	}
	width := len("NAME")
	for i := range runs {
		width = max(width, utf8.RuneCountInString(runs[i].Name))
	}
	var text bytes.Buffer
	fmt.Fprintf(&text, "%-*s  STATE       CODE  SINCE                     AGE\n", width, "NAME")
	for i := range runs {
		run := &runs[i]
		code, since := texts(run)
		age := "-"
		if since != "" {
			age = formatAge(max(0, now.Sub(run.Since))) // a clock may have been set back
		}
		// The longest state is unverified.
		fmt.Fprintf(&text, "%-*s  %-10s  %-4s  %-24s  %s\n",
			width, run.Name, run.Word(), cmp.Or(code, "-"), cmp.Or(since, "-"), age)
	}
	if more {
		text.WriteString("There are more runs on " + dir + ".\n")
	}
	return text.Bytes()
}

// formatAge formats a duration as kubectl does: as a number of one unit, or of two while the first number is small.
func formatAge(d time.Duration) string {
	const day = 24 * time.Hour
	unit, name, rest, restName := day, "d", day, ""
	switch {
	case d < 2*time.Minute:
		unit, name = time.Second, "s"
	case d < 10*time.Minute:
		unit, name, rest, restName = time.Minute, "m", time.Second, "s"
	case d < 3*time.Hour:
		unit, name = time.Minute, "m"
	case d < 8*time.Hour:
		unit, name, rest, restName = time.Hour, "h", time.Minute, "m"
	case d < 2*day:
		unit, name = time.Hour, "h"
	case d < 8*day:
		rest, restName = time.Hour, "h"
	}
	text := strconv.Itoa(int(d/unit)) + name
	if n := int(d % unit / rest); n > 0 {
		text += strconv.Itoa(n) + restName
	}
	return text
}
