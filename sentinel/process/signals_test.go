package process

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// catchMode catches signals as main does. When it has read a line, it prints those that have come, and
// those that come from then on, until SIGRTMAX comes.
func catchMode([]string) int {
	caught := CatchSignals()
	CatchOtherSignals()
	fmt.Println("ready")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		panic(err)
	}
	for sig := range caught {
		fmt.Println(SignalName(sig.(syscall.Signal)))
		if sig == lastSignal {
			return 0
		}
	}
	return 1
}

// catcher starts a program that catches signals as main does, and that has inherited SIGHUP as ignored.
func catcher(t *testing.T) *program {
	t.Helper()
	p := start(t, append([]string{"sh", "-c", `trap "" HUP; exec "$0" "$@"`}, testenv.Command("catch")...))
	p.await("ready")
	return p
}

func (p *program) signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatalf("%s could not be sent: %v", SignalName(sig), err)
	}
}

// faults end us, as they end every program that has one.
var faults = []syscall.Signal{
	syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGFPE, syscall.SIGILL, syscall.SIGABRT, syscall.SIGTRAP, syscall.SIGSYS,
}

// TestCatchSignals: what is to be forwarded waits until it is read. What is not is dropped.
func TestCatchSignals(t *testing.T) {
	t.Parallel()
	p := catcher(t)
	dropped := []syscall.Signal{
		syscall.SIGHUP, syscall.SIGCHLD, syscall.SIGURG, syscall.SIGPIPE, syscall.SIGXFSZ, syscall.SIGXCPU,
		syscall.SIGPROF,
	}
	unsent := slices.Concat(faults, []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP, 32, 33, 34})
	// Those that stop a process take a pending SIGCONT away, and it them (signal(7)).
	last := []syscall.Signal{syscall.SIGCONT, lastSignal}
	for _, sig := range dropped {
		p.signal(sig)
	}
	var want []string
	for sig := syscall.Signal(1); sig <= lastSignal; sig++ {
		if slices.Contains(slices.Concat(dropped, unsent, last), sig) || signal.Ignored(sig) {
			continue
		}
		p.signal(sig)
		want = append(want, SignalName(sig))
	}
	if _, err := io.WriteString(p.in, "\n"); err != nil {
		t.Fatal(err)
	}
	p.awaitAll(want)
	for _, sig := range last {
		p.signal(sig)
		p.await(SignalName(sig))
		want = append(want, SignalName(sig))
	}
	got := strings.Fields(strings.TrimPrefix(p.output.String(), "ready\n"))
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("caught were %q, want %q", got, want)
	}
}

// awaitAll reads until it has read all of the lines, in any order.
func (p *program) awaitAll(lines []string) {
	p.t.Helper()
	for _, line := range lines {
		if !slices.Contains(strings.Split(p.output.String(), "\n"), line) {
			p.await(line)
		}
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	for _, sig := range faults {
		p := catcher(t)
		p.signal(sig)
		p.rest()
		if err := p.cmd.Wait(); err == nil {
			t.Errorf("%s has not ended the program", SignalName(sig))
		}
	}
}
