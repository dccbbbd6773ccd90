package main_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// TestOrphans: sentinel becomes the parent of the orphans of the command, and reaps them, as process 1 or not.
func TestOrphans(t *testing.T) {
	t.Parallel()
	var processOne syscall.SysProcAttr
	testenv.Namespaces(&processOne, unix.CLONE_NEWPID)
	for _, c := range []struct {
		name string
		attr syscall.SysProcAttr
		one  bool
	}{
		{name: "as an ordinary process"},
		{name: "as process 1", attr: processOne, one: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			try := exec.Command("true")
			try.SysProcAttr = &c.attr
			if err := try.Run(); err != nil {
				t.Skipf("needs root, or user namespaces: %v", err)
			}
			const orphans = 100
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			dir := t.TempDir()
			argv := drive.Wrap("sentinel", []string{"--dir", dir}, shell(`
				trap 'exit 42' TERM
				for i in $(seq "$1"); do
					(sh -c 'read -r line' <&3 &)
				done
				echo "of process $PPID"
				while :; do sleep 0.02; done`, strconv.Itoa(orphans)))
			p := drive.Start(t, argv, func(cmd *exec.Cmd) {
				cmd.SysProcAttr = &c.attr
				cmd.ExtraFiles = []*os.File{r}
			})
			r.Close()
			parent := p.PID()
			if c.one {
				parent = 1
			}
			p.Await(fmt.Sprintf("of process %d\n", parent))
			if got := children(t, p.PID()); len(got) != orphans+1 {
				t.Errorf("sentinel has %d children, want the command and %d orphans; their states: %s",
					len(got), orphans, got)
			}
			w.Close() // all orphans end at once
			drive.Eventually(t, "the orphans are reaped", func() bool { return len(children(t, p.PID())) == 1 })
			p.Signal(syscall.SIGTERM)
			p.Want(42)
			wantRecord(t, dir, 42)
		})
	}
}

// children returns the states of the processes whose parent is pid (proc_pid_stat(5)).
func children(t *testing.T, pid int) (states []string) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range stats {
		data, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		_, rest, ok := strings.Cut(string(data), ") ")
		if fields := strings.Fields(rest); ok && fields[1] == strconv.Itoa(pid) {
			states = append(states, fields[0])
		}
	}
	slices.Sort(states)
	return states
}

// TestCodesAmongOrphans: sentinel never loses the command's code while it reaps orphans.
func TestCodesAmongOrphans(t *testing.T) {
	t.Parallel()
	for code := range 50 {
		t.Run(strconv.Itoa(code), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			sentinel(t, dir, nil, shell(`
				for i in $(seq 10); do
					(sh -c 'exit 99' &)
				done
				exit "$1"`, strconv.Itoa(code))...).Want(code)
			wantRecord(t, dir, code)
		})
	}
}
