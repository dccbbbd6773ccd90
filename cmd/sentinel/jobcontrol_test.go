package main_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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

// pipe returns a named pipe. A command that is to be stopped by Ctrl-Z waits for a line from it: while dash starts a
// program, such as sleep, Ctrl-Z may stop only the child, before its execve(2), for which dash waits in vfork(2).
func pipe(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

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
// terminal remains the shell's, until fg. The command's shell has a child that has to go on, too: the command itself
// would also go on because of the SIGCONT that sentinel gets, and forwards.
func TestContinueInBackground(t *testing.T) {
	t.Parallel()
	term, cmd := onTerminal(t, true, `
		set -m
		"$1" --dir "$2" -- sh -c '
			(
				echo "command runs"
				read -r line <"$0"
				`+settle+`
				echo "command goes on"
				read -r line <"$0"
				echo "command has $line"
			)
			exit 3' "$3" | cat
		echo "job stopped"
		bg >/dev/null
		echo go >"$3"
		read -r line; echo "script has $line"
		echo "$line" >"$3"
		fg >/dev/null
		echo "job ended"`,
		drive.Program("sentinel"), t.TempDir(), pipe(t))
	term.await("command runs")
	term.enter("\x1a")
	term.await("job stopped")
	term.await("command goes on")
	if group := term.foreground(); group != cmd.Process.Pid {
		t.Errorf("the foreground group is %d, not the shell's, %d", group, cmd.Process.Pid)
	}
	term.enter("one\n")
	term.await("script has one")
	term.await("command has one")
	term.await("job ended")
}

// TestStopInBackground: the shell's job stops if the command uses the terminal from the background, and fg gives the
// terminal to the command. sentinel does not log before that: stty tostop holds for what it writes, too.
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
				"$1" --dir "$2" --log-level error -- sh -c '
					(
						stty tostop
						echo "command runs"
						read -r line <"$0"
						`+use+`
					)
					exit 3' "$3"
				echo "job stopped"
				bg >/dev/null
				echo go >"$3"
				wait %1
				echo "job stopped again"
				fg >/dev/null; echo "sentinel exited $?"`,
				drive.Program("sentinel"), t.TempDir(), pipe(t))
			term.await("command runs")
			term.enter("\x1a")
			term.await("job stopped again")
			term.enter("one\n")
			term.await("command has one")
			term.await("sentinel exited 3")
			before, _, _ := strings.Cut(term.seen.String(), "job stopped again")
			if strings.Contains(before, "command writes") {
				t.Errorf("the command has written from the background:\n%s", before)
			}
		})
	}
}
