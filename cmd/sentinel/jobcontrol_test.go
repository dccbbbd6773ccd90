package main_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
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
	term.wantForeground("the shell's", cmd.Process.Pid)
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

// gate returns a named pipe as pipe does, and a function that writes a line to it. That never waits: the pipe is open.
func gate(t *testing.T) (path string, open func()) {
	t.Helper()
	path = pipe(t)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return path, func() {
		t.Helper()
		if _, err := f.WriteString("go\n"); err != nil {
			t.Fatal(err)
		}
	}
}

// awaitForeground waits until the terminal's foreground group is such as what says.
func (term *terminal) awaitForeground(what string, such func(group int) bool) {
	term.t.Helper()
	for deadline := time.Now().Add(drive.Patience); !such(term.foreground()); {
		if time.Now().After(deadline) {
			term.t.Fatalf("after %s the foreground group is %d, not %s:\n%s",
				drive.Patience, term.foreground(), what, term.seen.String())
		}
		time.Sleep(time.Millisecond)
	}
}

// number returns the number behind prefix in a line that the terminal shows.
func (term *terminal) number(prefix string) int {
	term.t.Helper()
	term.await(prefix)
	_, rest, _ := strings.Cut(term.seen.String(), prefix)
	line, _, _ := strings.Cut(rest, "\r")
	n, err := strconv.Atoi(line)
	if err != nil {
		term.t.Fatalf("there is no number behind %q: %v:\n%s", prefix, err, term.seen.String())
	}
	return n
}

// TestEndInBackground: a command that ends in the background of a shell leaves the terminal to the shell.
func TestEndInBackground(t *testing.T) {
	t.Parallel()
	path, open := gate(t)
	term, cmd := onTerminal(t, true, `
		set -m
		"$1" --dir "$2" -- sh -c 'echo "command runs"; read -r line <"$0"; exit 3' "$3"
		echo "job stopped"
		bg >/dev/null
		read -r line; echo "script has $line"
		wait %1; echo "sentinel exited $?"
		read -r line; echo "script has $line too"`,
		drive.Program("sentinel"), t.TempDir(), path)
	term.await("command runs")
	term.enter("\x1a")
	term.await("job stopped")
	term.enter("one\n")
	term.await("script has one")
	open()
	term.await("sentinel exited 3")
	term.wantForeground("the shell's", cmd.Process.Pid)
	term.enter("two\n")
	term.await("script has two too")
}

// TestForegroundAgain: fg of a job that runs in the background gives the terminal to the command, before the command
// uses it. The end of the command returns it.
func TestForegroundAgain(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]string{
		"after a stop": `
			"$1" --dir "$2" -- sh -c "$4" "$3"
			echo "job stopped"
			bg >/dev/null`,
		"after its start": `
			"$1" --dir "$2" -- sh -c "$4" "$3" &`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path, open := gate(t)
			term, cmd := onTerminal(t, true, `set -m`+begin+`
				read -r line; echo "script has $line"
				fg >/dev/null; echo "sentinel exited $?"
				read -r line; echo "script has $line too"`,
				drive.Program("sentinel"), t.TempDir(), path, `
					echo "command is $$"
					echo "command runs"
					read -r line <"$0"
					read -r line; echo "command has $line"
					exit 3`)
			term.await("command runs")
			if strings.Contains(begin, "bg") {
				term.enter("\x1a")
				term.await("job stopped")
			}
			term.wantForeground("the shell's", cmd.Process.Pid)
			term.enter("one\n")
			term.await("script has one")
			command := term.number("command is ")
			term.awaitForeground("the command's", func(group int) bool { return group == command })
			open()
			term.enter("two\n")
			term.await("command has two")
			term.await("sentinel exited 3")
			term.enter("three\n")
			term.await("script has three too")
		})
	}
}

// TestReadInBackground: a job that was started in the background stops if its command reads from the terminal, and the
// terminal remains the shell's, until fg.
func TestReadInBackground(t *testing.T) {
	t.Parallel()
	term, cmd := onTerminal(t, true, `
		set -m
		"$1" --dir "$2" -- sh -c 'read -r line; echo "command has $line"; exit 3' &
		wait %1
		echo "job stopped"
		read -r line; echo "script has $line"
		fg >/dev/null; echo "sentinel exited $?"`,
		drive.Program("sentinel"), t.TempDir())
	term.await("job stopped")
	term.wantForeground("the shell's", cmd.Process.Pid)
	term.enter("one\n")
	term.await("script has one")
	term.enter("two\n")
	term.await("command has two")
	term.await("sentinel exited 3")
}

// TestBash: bash sends no SIGCONT at the fg of a job that runs. The command gets the terminal when it reads from it,
// and the job does not stop. A job that ends in the background leaves the terminal to bash.
func TestBash(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip("needs bash")
	}
	path, open := gate(t)
	term, cmd := onTerminal(t, true, `
		export SENTINEL_DIR="$2" SENTINEL_LOG_LEVEL=error GATE="$3" PS1='prompt> '
		cd "${1%/*}" && exec bash --norc --noprofile -i`,
		drive.Program("sentinel"), t.TempDir(), path)
	// What is typed is shown, too: the quotes make it differ from what is awaited.
	begin := func(then string) {
		t.Helper()
		term.enter(`./sentinel -- sh -c 'echo "command ""runs"; read -r line <$GATE; ` + then + "'\n")
		term.await("command runs")
		term.enter("\x1a")
		term.await("Stopped")
		term.enter("bg\n")
		term.await("]+ ./sentinel")
		term.seen.Reset()
	}
	begin(`read -r line; echo "command has ""$line"; exit 3`)
	term.enter("fg; echo \"sentinel \"exited $?\n")
	term.awaitForeground("the job's", func(group int) bool { return group != cmd.Process.Pid })
	open()
	term.enter("one\n")
	term.await("command has one")
	term.await("sentinel exited 3")

	begin("exit 4")
	open()
	term.enter("wait %1; echo \"sentinel \"exited $?\n")
	term.await("sentinel exited 4")
	term.wantForeground("bash's", cmd.Process.Pid)
	term.enter("echo \"bash \"goes on\n")
	term.await("bash goes on")
}

// TestKilledShell: a command that is a shell gives the terminal to its own jobs. If it is killed meanwhile, the
// terminal is returned.
func TestKilledShell(t *testing.T) {
	t.Parallel()
	term, cmd := onTerminal(t, true, `
		"$1" --dir "$2" -- sh -c 'echo "command is $$"; set -m; sh -c "echo job runs; exec sleep 1000"; exit 3'
		echo "sentinel exited $?"
		read -r line; echo "script has $line"`,
		drive.Program("sentinel"), t.TempDir())
	command := term.number("command is ")
	term.await("job runs")
	if group := term.foreground(); group == command || group == cmd.Process.Pid {
		t.Errorf("the foreground group is %d, not the job's", group)
	}
	if err := unix.Kill(command, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	term.await("sentinel exited 137")
	term.wantForeground("its parent's", cmd.Process.Pid)
	term.enter("one\n")
	term.await("script has one")
}

// TestSignalsOnTerminal: with a terminal, SIGCONT continues all of the command's group, as a shell does. Other signals
// are the command's alone.
func TestSignalsOnTerminal(t *testing.T) {
	t.Parallel()
	term, _ := onTerminal(t, true, `
		"$1" --dir "$2" -- sh -c '
			sh -c "trap \"echo child has USR1\" USR1; trap \"echo child has CONT\" CONT
				echo the child is \$\$; while :; do sleep 0.02; done" &
			child=$!
			trap "echo command has USR1" USR1
			trap "echo command has CONT" CONT
			trap "kill -KILL $child; exit 3" TERM
			echo "its wrapper is $PPID"; echo "the command is $$"
			while :; do sleep 0.02; done'
		echo "sentinel exited $?"`,
		drive.Program("sentinel"), t.TempDir())
	sentinel := term.number("its wrapper is ")
	command, child := term.number("the command is "), term.number("the child is ")
	send := func(pid int, sig syscall.Signal) {
		t.Helper()
		if err := unix.Kill(pid, sig); err != nil {
			t.Fatal(err)
		}
	}
	send(sentinel, unix.SIGUSR1)
	term.await("command has USR1")
	for _, pid := range []int{command, child} {
		send(pid, unix.SIGSTOP)
		drive.Eventually(t, "it is stopped", func() bool {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			return err == nil && strings.Contains(string(stat), ") T ")
		})
	}
	send(sentinel, unix.SIGCONT)
	term.await("command has CONT")
	term.await("child has CONT")
	send(sentinel, unix.SIGTERM)
	term.await("sentinel exited 3")
	if seen := term.seen.String(); strings.Contains(seen, "child has USR1") {
		t.Errorf("the child has got the command's signal:\n%s", seen)
	}
}
