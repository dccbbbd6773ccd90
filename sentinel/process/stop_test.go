package process

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// sessionMode starts a shell script in a session of its own, as a daemon does, and does not wait for it.
func sessionMode(args []string) int {
	cmd := exec.Command("sh", "-c", args[0])
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	return 0
}

// reportMode starts a command, stops it when it gets SIGUSR1, and prints all that Stop says.
func reportMode(args []string) int { return report(args, func() {}) }

// unseenMode does the same without a descriptor for /proc.
func unseenMode(args []string) int {
	return report(args, func() {
		time.Sleep(time.Millisecond) // for its first timer Go's runtime needs descriptors
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{}); err != nil {
			panic(err)
		}
	})
}

func report(args []string, prepare func()) int {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1)
	sig, err := ParseSignal(args[0])
	if err != nil {
		panic(err)
	}
	grace, err := time.ParseDuration(args[1])
	if err != nil {
		panic(err)
	}
	command, err := Start(args[2:])
	if err != nil {
		panic(err)
	}
	<-asked
	prepare()
	s := <-command.Stop(sig, grace)
	all := isClosed(command.AllExited())
	fmt.Printf("killed=%v exited=%v refused=%v all=%v survivors=%q\n", s.Killed, s.Exited, s.Refused, all, s.Survivors)
	return 0
}

// TestStopReports: what is left is signalled in the command's group and out of it, and named if that is in vain.
func TestStopReports(t *testing.T) {
	const long = 2 * patience // a grace period whose half no test waits for
	const clean = `killed=false exited=true refused=<nil> all=true survivors=[]`
	outside := func(script string) string {
		return fmt.Sprintf("%s '%s'; ", strings.Join(testenv.Command("session"), " "), script)
	}
	for _, c := range []struct {
		name, script string
		signal       string
		grace        time.Duration
		want         []string
	}{{
		name: "a daemon that cleans up",
		script: outside(`trap "sleep 0.2; echo clean; exit" TERM; echo ready; while :; do sleep 0.02; done`) +
			"exec sleep 1000",
		signal: "TERM", grace: long,
		want: []string{"clean", clean},
	}, {
		name:   "a daemon that heeds nothing",
		script: outside(`trap "" TERM; echo ready; exec sleep 1000`) + "exec sleep 1001",
		signal: "TERM", grace: 3 * time.Second,
		want: []string{`killed=true exited=true refused=<nil> all=true survivors=["sleep"]`},
	}, {
		name:   "a command that heeds nothing",
		script: `trap "" TERM; echo ready; read -r line`,
		signal: "TERM", grace: 0,
		want: []string{`killed=true exited=false refused=<nil> all=true survivors=["sh"]`},
	}, {
		// Its parent ends when it gets the signal, and it would get SIGTERM again then.
		name: "a child that has got SIGTERM with its group",
		script: `trap : TERM; trap 'exit 3' USR1
			(trap 'echo child; kill -USR1 $$' TERM; echo ready
				while kill -0 $$; do sleep 0.02; done; sleep 0.3; echo ended) &
			while :; do sleep 0.02; done`,
		signal: "TERM", grace: 6 * time.Second,
		want: []string{"child", "ended", clean},
	}, {
		name: "a child that has got another signal with its group",
		script: `trap : USR2; trap 'exit 3' USR1
			(trap 'echo child; kill -USR1 $$' USR2; trap 'echo ended; exit' TERM; echo ready
				while :; do sleep 0.02; done) &
			while :; do sleep 0.02; done`,
		signal: "USR2", grace: 6 * time.Second,
		want: []string{"child", "ended", clean},
	}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			times := 1
			if c.grace == 0 {
				times = 8 // which of two channels Stop looks at first is left to chance
			}
			for range times {
				p := start(t, testenv.Command("report", c.signal, c.grace.String(), "sh", "-c", "exec 2>/dev/null; "+c.script))
				p.await("ready")
				p.signal(syscall.SIGUSR1)
				if got := p.rest(); !slices.Equal(got, c.want) {
					t.Errorf("got %q, want %q", got, c.want)
				}
			}
		})
	}
}

// TestStopOfTheUnseen: Stop does not wait for ever for what it cannot find.
func TestStopOfTheUnseen(t *testing.T) {
	t.Parallel()
	// It goes on until its input ends.
	daemon := strings.Join(testenv.Command("session"), " ") + ` 'trap "" TERM; echo ready; exec cat >/dev/null'`
	p := start(t, testenv.Command("unseen", "TERM", "3s", "sh", "-c", daemon+"; exec sleep 1000"))
	p.await("ready")
	p.signal(syscall.SIGUSR1)
	p.await("killed=true exited=true refused=<nil> all=false survivors=[]")
}

// TestStoppedCommand: without a terminal, a command that was stopped stays so, whatever else ends meanwhile.
func TestStoppedCommand(t *testing.T) {
	t.Parallel()
	const script = `
		( (until grep "State:.T" /proc/$$/status; do sleep 0.01; done >/dev/null; echo ready) & )
		kill -TSTP $$; echo woke up; while :; do sleep 0.02; done`
	p := start(t, testenv.Command("report", "TERM", "300ms", "sh", "-c", script))
	p.await("ready")
	p.signal(syscall.SIGUSR1)
	const want = `killed=true exited=false refused=<nil> all=true survivors=["sh"]`
	if got := p.rest(); !slices.Equal(got, []string{want}) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// costMode runs a command and prints whether that has taken less than half as much of a processor as the command
// and its descendants.
func costMode(args []string) int {
	command, err := Start(args)
	if err != nil {
		panic(err)
	}
	<-command.AllExited()
	var ours, theirs unix.Rusage
	err = errors.Join(unix.Getrusage(unix.RUSAGE_SELF, &ours), unix.Getrusage(unix.RUSAGE_CHILDREN, &theirs))
	if err != nil {
		panic(err)
	}
	total := func(u unix.Rusage) time.Duration { return time.Duration(u.Utime.Nano() + u.Stime.Nano()) }
	fmt.Printf("cheap: %v (%s, the command took %s)\n", 2*total(ours) < total(theirs), total(ours), total(theirs))
	return 0
}

// TestStoppedCommandCostsNothing: while a command is stopped, its wrapper waits without a processor.
func TestStoppedCommandCostsNothing(t *testing.T) {
	t.Parallel()
	const script = `
		( (until grep "State:.T" /proc/$$/status; do sleep 0.01; done >/dev/null
			i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done
			kill -KILL $$) & )
		kill -STOP $$`
	p := start(t, testenv.Command("cost", "sh", "-c", script))
	if got := p.rest(); !strings.HasPrefix(got[0], "cheap: true") {
		t.Error(got[0])
	}
}
