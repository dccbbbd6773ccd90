package main_test

import (
	"strings"
	"testing"
	"time"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
)

// settle is a line of a command's script. It returns when sentinel has dealt with everything that happened to its
// children before: one thread reaps them and handles their stops. The first orphan may be reaped together with a stop
// that is handled a moment later, the second one is reaped after that.
const settle = `
	for i in 1 2; do
		orphan=$(sh -c "true >/dev/null & echo \$!")
		while [ -e "/proc/$orphan" ]; do sleep 0.01; done
	done`

// continueAfterAll is a part of a command's script, in which $0 is a directory. It waits in the background until the
// command is stopped and sentinel has dealt with that, creates the file settled, and continues the command.
const continueAfterAll = `
	(
		while grep -q "State:.[^T]" "/proc/$$/status"; do sleep 0.01; done 2>/dev/null
		` + settle + `
		touch "$0/settled"
		kill -CONT $$
	) &`

// TestStoppedAlone: SIGSTOP is meant for the command alone. sentinel does not continue it.
func TestStoppedAlone(t *testing.T) {
	t.Parallel()
	term, _ := onTerminal(t, true, `
		"$1" --dir "$2" -- sh -c '`+continueAfterAll+`
			kill -STOP $$
			[ -e "$0/settled" ] || echo "command was continued"
			exit 3' "$2"
		echo "sentinel exited $?"`,
		drive.Program("sentinel"), t.TempDir())
	term.await("sentinel exited 3")
	if seen := term.seen.String(); strings.Contains(seen, "command was continued") {
		t.Errorf("the command did not stay stopped:\n%s", seen)
	}
}

// TestStopWithoutShell: a command that no shell could continue goes on after each of the signals of a terminal.
func TestStopWithoutShell(t *testing.T) {
	t.Parallel()
	term, _ := onTerminal(t, true, `
		"$1" --dir "$2" -- sh -c '
			for signal in TSTP TTIN TTOU; do
				kill -$signal $$
				echo "command goes on after $signal"
			done
			read -r line; echo "command has $line"
			exit 3'
		echo "sentinel exited $?"`,
		drive.Program("sentinel"), t.TempDir())
	for _, signal := range []string{"TSTP", "TTIN", "TTOU"} {
		term.await("command goes on after " + signal)
	}
	term.enter("one\n")
	term.await("command has one")
	term.await("sentinel exited 3")
}

// TestStopAfterHangup: when the terminal is gone, a command that has got SIGTSTP goes on. After SIGTTIN it stays
// stopped, because it would read again, and be stopped again, without end.
func TestStopAfterHangup(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	term, cmd := onTerminal(t, true, `
		exec "$1" --dir "$2" -- sh -c '
			trap "hungup=1" HUP
			echo "command waits"
			until [ $hungup ]; do sleep 0.01; done
			trap "" HUP
			kill -TSTP $$
			`+continueAfterAll+`
			kill -TTIN $$
			[ -e "$0/settled" ] || exit 4
			exit 3' "$2"`,
		drive.Program("sentinel"), directory)
	term.await("command waits")
	if err := term.ptmx.Close(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(drive.Patience, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	_ = cmd.Wait()
	switch code := cmd.ProcessState.ExitCode(); code {
	case 3:
	case 4:
		t.Error("sentinel continued the command after SIGTTIN")
	default:
		t.Errorf("sentinel: %v within %s, want exit code 3", cmd.ProcessState, drive.Patience)
	}
}

// TestContinueInBackground: after Ctrl-Z, which stops each process of the shell's job, bg continues them all. The
// terminal remains the shell's, until fg.
func TestContinueInBackground(t *testing.T) {
	t.Parallel()
	term, cmd := onTerminal(t, true, `
		set -m
		"$1" --dir "$2" -- sh -c '
			echo "command runs"
			until [ -e "$0/go" ]; do sleep 0.01; done
			`+settle+`
			echo "command goes on"
			until [ -e "$0/end" ]; do sleep 0.01; done
			echo "command ends"' "$2" | cat
		echo "job stopped"
		bg >/dev/null
		touch "$2/go"
		read -r line; echo "script has $line"
		touch "$2/end"
		fg >/dev/null
		echo "job ended"`,
		drive.Program("sentinel"), t.TempDir())
	term.await("command runs")
	term.enter("\x1a")
	term.await("job stopped")
	term.await("command goes on")
	if group := term.foreground(); group != cmd.Process.Pid {
		t.Errorf("the foreground group is %d, not the shell's, %d", group, cmd.Process.Pid)
	}
	term.enter("one\n")
	term.await("script has one")
	term.await("command ends")
	term.await("job ended")
}

// TestStopInBackground: the shell's job stops if the command uses the terminal from the background, and fg gives the
// terminal to the command.
func TestStopInBackground(t *testing.T) {
	t.Parallel()
	for name, use := range map[string]string{
		"read":  `read -r line; echo "command has $line"`,
		"write": `echo "command writes"; read -r line; echo "command has $line"`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			term, _ := onTerminal(t, true, `
				set -m
				"$1" --dir "$2" -- sh -c '
					stty tostop
					echo "command runs"
					until [ -e "$0/go" ]; do sleep 0.01; done
					`+use+`
					exit 3' "$2"
				echo "job stopped"
				bg >/dev/null
				touch "$2/go"
				wait %1
				echo "job stopped again"
				fg >/dev/null; echo "sentinel exited $?"`,
				drive.Program("sentinel"), t.TempDir())
			term.await("command runs")
			term.enter("\x1a")
			term.await("job stopped again")
			if strings.Contains(term.seen.String(), "command writes") {
				t.Error("the command has written from the background")
			}
			term.enter("one\n")
			term.await("command has one")
			term.await("sentinel exited 3")
		})
	}
}
