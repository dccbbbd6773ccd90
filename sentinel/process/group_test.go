package process

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// started is what forwardMode prints when all signals are caught.
const started = "started"

// forwardMode starts a command, forwards signals to it, and ends its group, as a sentinel does.
func forwardMode(args []string) int {
	caught := CatchSignals()
	command, err := Start(args)
	if err != nil {
		panic(err)
	}
	fmt.Println(started)
	exited, group := command.Exited(), (<-chan error)(nil)
	for {
		select {
		case sig := <-caught:
			if err := command.Signal(sig.(syscall.Signal)); err != nil {
				fmt.Println(err)
			}
		case <-exited:
			fmt.Printf("exited %+v\n", command.Status())
			exited, group = nil, command.EndGroup()
		case err := <-group:
			fmt.Println("the group has ended:", err)
			<-command.AllExited()
			fmt.Println("all have ended")
			return 0
		}
	}
}

// TestEndGroup: the group gets the signal that the command has died of, and those that come later; but only if
// that signal was forwarded.
func TestEndGroup(t *testing.T) {
	t.Parallel()
	const (
		died, exited = "exited {Code:143 Signal:terminated Err:<nil>}", "exited {Code:3 Signal:signal 0 Err:<nil>}"
		over         = "the group has ended: <nil>"
		// A shell waits for inForeground, and dies of the signal: it does not become its last command.
		inForeground = `sh -c '%s; echo ready; while :; do sleep 0.02; done'; echo next`
		// The child goes on until it can read a line.
		inBackground = `(trap 'echo got TERM' TERM; echo ready; read -r line <"$1") & wait`
	)
	for _, c := range []struct {
		name, script string
		send         []syscall.Signal
		want         []string // the first line after each signal, and all that follows
	}{
		{"a child that takes its time", fmt.Sprintf(inForeground, `trap "sleep 0.3; echo clean; exit" TERM`),
			[]syscall.Signal{syscall.SIGTERM}, []string{died, "clean", over}},
		{"a child that heeds another signal",
			fmt.Sprintf(inForeground, `trap "" TERM; trap "echo got USR2; exit" USR2`),
			[]syscall.Signal{syscall.SIGTERM, syscall.SIGUSR2}, []string{died, "got USR2", over}},
		{"SIGHUP", fmt.Sprintf(inForeground, `trap "echo clean; exit" HUP`),
			[]syscall.Signal{syscall.SIGHUP}, []string{"exited {Code:129 Signal:hangup Err:<nil>}", "clean", over}},
		{"a command that exits", `trap 'exit 3' TERM; ` + inBackground,
			[]syscall.Signal{syscall.SIGTERM}, []string{exited, over}},
		{"a command that dies of another signal", `trap 'kill $$' USR1; ` + inBackground,
			[]syscall.Signal{syscall.SIGUSR1}, []string{died, over}},
		{"SIGCONT, which is the command's alone without a terminal",
			`sh -c 'kill -STOP $$; echo went on' & child=$!; trap 'echo got CONT' CONT; trap 'kill -KILL $child; exit 3' TERM
			until read -r _ _ state _ <"/proc/$child/stat" && [ "$state" = T ]; do sleep 0.02; done
			echo ready; while :; do sleep 0.02; done`,
			[]syscall.Signal{syscall.SIGCONT, syscall.SIGTERM}, []string{"got CONT", exited, over}},
		{"nobody is left", `echo ready; exec sleep 1000`,
			[]syscall.Signal{syscall.SIGTERM}, []string{died, over}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			fifo := filepath.Join(t.TempDir(), "fifo")
			if err := syscall.Mkfifo(fifo, 0o600); err != nil {
				t.Fatal(err)
			}
			gate, err := os.OpenFile(fifo, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer gate.Close()
			p := start(t, testenv.Command("forward", "sh", "-c", "exec 2>/dev/null; "+c.script, "sh", fifo))
			p.awaitAll([]string{"ready", started})
			for i, sig := range c.send {
				p.signal(sig)
				p.await(c.want[i])
			}
			p.await(over)
			if _, err := gate.WriteString("go\n"); err != nil {
				t.Fatal(err)
			}
			p.rest()
			got := strings.Split(strings.TrimSpace(p.output.String()), "\n")[2:]
			if want := slices.Concat(c.want, []string{"all have ended"}); !slices.Equal(got, want) {
				t.Errorf("after the start it printed %q, want %q", got, want)
			}
		})
	}
	t.Run("a child that is another's", func(t *testing.T) {
		t.Parallel()
		p := start(t, testenv.Command("forward", testenv.Command("family", "stay")...))
		p.await("ready")
		p.signal(syscall.SIGTERM)
		p.awaitAll([]string{"member: signal: killed", over})
	})
}
