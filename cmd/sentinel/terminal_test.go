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
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// terminal is a pseudoterminal, and its output so far.
type terminal struct {
	t    *testing.T
	ptmx *os.File
	seen strings.Builder
}

// onTerminal starts a shell script as the leader of a session that has the terminal as its stdin, stdout and stderr. If
// controlling is set, it is also the controlling terminal.
func onTerminal(t *testing.T, controlling bool, script string, args ...string) (*terminal, *exec.Cmd) {
	t.Helper()
	// Only a non-blocking file has deadlines.
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Skipf("no pseudoterminal here: %v", err)
	}
	ptmx := os.NewFile(uintptr(fd), "/dev/ptmx")
	t.Cleanup(func() { ptmx.Close() })
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	pts, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer pts.Close()
	if err := ptmx.SetReadDeadline(time.Now().Add(drive.Patience)); err != nil {
		t.Fatal(err)
	}
	argv := shell(script, args...)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = pts, pts, pts
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: controlling}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		killSession(t, cmd.Process.Pid)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return &terminal{t: t, ptmx: ptmx}, cmd
}

// killSession kills all processes of a session. After a failure some of them may be stopped, and would never end.
func killSession(t *testing.T, session int) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Error(err)
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if its, err := unix.Getsid(pid); err == nil && its == session {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// await waits until the terminal has shown text.
func (term *terminal) await(text string) {
	term.t.Helper()
	for buf := make([]byte, 4096); !strings.Contains(term.seen.String(), text); {
		n, err := term.ptmx.Read(buf)
		term.seen.Write(buf[:n])
		if err != nil { // EIO if no process has the other side open any more
			term.t.Fatalf("waiting for %q: %v:\n%s", text, err, term.seen.String())
		}
	}
}

// enter types text.
func (term *terminal) enter(text string) {
	term.t.Helper()
	if _, err := term.ptmx.WriteString(text); err != nil {
		term.t.Fatal(err)
	}
}

// foreground returns the foreground process group of the terminal.
func (term *terminal) foreground() int {
	term.t.Helper()
	group, err := unix.IoctlGetInt(int(term.ptmx.Fd()), unix.TIOCGPGRP)
	if err != nil {
		term.t.Fatal(err)
	}
	return group
}

// wantForeground checks which process group has the terminal now.
func (term *terminal) wantForeground(whose string, group int) {
	term.t.Helper()
	if now := term.foreground(); now != group {
		term.t.Errorf("the foreground group is %d, not %s, %d", now, whose, group)
	}
}

// TestTerminal: the command reads what is typed on the terminal, and gets one SIGINT from ^C. When it has ended, or
// could not be executed, the process that ran sentinel can read from the terminal again.
func TestTerminal(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	notExecutable := filepath.Join(directory, "file")
	testenv.Plant(t, notExecutable, "")
	term, cmd := onTerminal(t, true, `
		"$1" --dir "$2" -- sh -c '
			trap "echo interrupted; interrupted=1" INT
			echo "command reads"
			read -r line; echo "command has $line"
			echo "command waits"
			until [ $interrupted ]; do sleep 0.01; done
			exit 3'
		echo "sentinel exited $?"
		read -r line; echo "script has $line"
		"$1" --dir "$2" -- "$3"
		echo "sentinel exited $?"
		read -r line; echo "script has $line too"`,
		drive.Program("sentinel"), t.TempDir(), notExecutable)
	term.await("command reads")
	if term.foreground() == cmd.Process.Pid {
		t.Error("the command is not in the foreground")
	}
	term.enter("one\n")
	term.await("command has one")
	term.await("command waits")
	term.enter("\x03")
	term.await("sentinel exited 3")
	term.wantForeground("its parent's", cmd.Process.Pid)
	term.enter("two\n")
	term.await("script has two")
	term.await("sentinel exited 126")
	term.enter("three\n")
	term.await("script has three too")
	if n := strings.Count(term.seen.String(), "interrupted"); n != 1 {
		t.Errorf("the command was interrupted %d times, not once:\n%s", n, term.seen.String())
	}
	// With --log-format auto, the log on a terminal is in the console format.
	if seen := term.seen.String(); strings.Contains(seen, `"level"`) || !strings.Contains(seen, "sh exited") {
		t.Errorf("the log is not in the console format:\n%s", seen)
	}
}

// TestForeignTerminal: stdin may be a terminal that is not the controlling terminal.
func TestForeignTerminal(t *testing.T) {
	t.Parallel()
	term, _ := onTerminal(t, false, `
		"$1" --dir "$2" -- sh -c 'echo "command reads"; read -r line; echo "command has $line"; exit 3'
		echo "sentinel exited $?"`,
		drive.Program("sentinel"), t.TempDir())
	term.await("command reads")
	term.enter("one\n")
	term.await("command has one")
	term.await("sentinel exited 3")
}

// TestBackground: a sentinel in the background does not take the terminal.
func TestBackground(t *testing.T) {
	t.Parallel()
	term, cmd := onTerminal(t, true, `
		set -m
		"$1" --dir "$2" -- sh -c 'echo "command runs"; until [ -e "$0/go" ]; do sleep 0.01; done; exit 3' "$2" &
		read -r line; echo "script has $line"
		touch "$2/go"
		wait $!
		echo "sentinel exited $?"
		read -r line; echo "script has $line too"`,
		drive.Program("sentinel"), t.TempDir())
	term.await("command runs")
	term.wantForeground("its parent's", cmd.Process.Pid)
	term.enter("one\n")
	term.await("script has one")
	term.await("sentinel exited 3")
	term.enter("two\n")
	term.await("script has two too")
}

// TestCtrlZ: Ctrl-Z does not stop a command that no shell could continue. Without sentinel it would not stop either,
// because its process group would be orphaned.
func TestCtrlZ(t *testing.T) {
	t.Parallel()
	term, _ := onTerminal(t, true, `
		"$1" --dir "$2" -- sh -c 'echo "command reads"; read -r line; echo "command has $line"; exit 3'
		echo "sentinel exited $?"
		read -r line; echo "script has $line"`,
		drive.Program("sentinel"), t.TempDir())
	term.await("command reads")
	term.enter("\x1a")
	term.await("^Z") // Ctrl-Z also discards pending output
	term.enter("one\n")
	term.await("command has one")
	term.await("sentinel exited 3")
	term.enter("two\n")
	term.await("script has two")
}

// TestJobControl: under a shell with job control, Ctrl-Z stops sentinel and its command, and fg continues both.
func TestJobControl(t *testing.T) {
	t.Parallel()
	term, cmd := onTerminal(t, true, `
		set -m
		"$1" --dir "$2" -- sh -c 'echo "command reads"; read -r line; echo "command has $line"; exit 3'
		echo "job stopped"
		read -r line; echo "script has $line"
		fg >/dev/null; echo "sentinel exited $?"`,
		drive.Program("sentinel"), t.TempDir())
	term.await("command reads")
	term.enter("\x1a")
	term.await("job stopped")
	term.wantForeground("the shell's", cmd.Process.Pid)
	term.enter("one\n")
	term.await("script has one")
	term.enter("two\n")
	term.await("command has two")
	term.await("sentinel exited 3")
}

// TestTerminalOnlyIn: the command gets the terminal that is stdin, wherever stdout goes.
func TestTerminalOnlyIn(t *testing.T) {
	t.Parallel()
	term, cmd := onTerminal(t, true, `
		"$1" --dir "$2" -- sh -c 'echo "command reads" >/dev/tty; read -r line; echo "command has $line"; exit 3' | cat
		echo "pipe ended"
		read -r line; echo "script has $line"`,
		drive.Program("sentinel"), t.TempDir())
	term.await("command reads")
	if term.foreground() == cmd.Process.Pid {
		t.Error("the command has not got the terminal")
	}
	term.enter("one\n")
	term.await("command has one")
	term.await("pipe ended")
	term.enter("two\n")
	term.await("script has two")
}

// TestOrphanOnTerminal: an orphan that a terminal's signal has stopped is not the command, which goes on.
func TestOrphanOnTerminal(t *testing.T) {
	t.Parallel()
	term, _ := onTerminal(t, true, `
		"$1" --dir "$2" -- sh -c '
			trap "echo continued" CONT
			(sh -c "echo \$\$ >\$0/orphan; kill -TTIN \$\$" "$0" &)
			until grep -q "State:.T" "/proc/$(cat "$0/orphan")/status"; do sleep 0.01; done 2>/dev/null
			sleep 0.2
			kill -KILL "$(cat "$0/orphan")"
			exit 3' "$2"
		echo "sentinel exited $?"`,
		drive.Program("sentinel"), t.TempDir())
	term.await("sentinel exited 3")
	if strings.Contains(term.seen.String(), "continued") {
		t.Errorf("the command was continued:\n%s", term.seen.String())
	}
}
