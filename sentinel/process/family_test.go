package process

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime/debug"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// sleeper is a process that sleeps in a process group of its own, or in that of another if group is not 0.
func sleeper(group int) (*exec.Cmd, error) {
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pgid: group}
	return cmd, cmd.Start()
}

func startSleeper(t *testing.T, group int) *exec.Cmd {
	t.Helper()
	cmd, err := sleeper(group)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

// makeZombie ends a process of ours without reaping it.
func makeZombie(cmd *exec.Cmd) error {
	return errors.Join(cmd.Process.Signal(syscall.SIGTERM),
		unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil))
}

// wantTerm waits for a process, and fails the test unless SIGTERM was the first signal that it got.
func wantTerm(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	_ = cmd.Wait()
	if got := cmd.ProcessState.Sys().(syscall.WaitStatus); got.Signal() != syscall.SIGTERM {
		t.Errorf("%s has got another signal than SIGTERM before: %v", cmd.Path, cmd.ProcessState)
	}
}

func find(all []procStat, pid int) (st procStat, times int) {
	for _, each := range all {
		if each.pid == pid {
			st = each
			times++
		}
	}
	return st, times
}

// TestProcesses: all are listed, each once, and nothing is left open.
func TestProcesses(t *testing.T) {
	child := startSleeper(t, 0)
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // which would close what is left open
	open := func() int {
		files, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(files)
	}
	before := open()
	all, ok := processes()
	for range 50 {
		processes()
	}
	if after := open(); after > before+10 {
		t.Errorf("%d files are open, and %d were", after, before)
	}
	if !ok {
		t.Fatal("/proc cannot be read")
	}
	want := procStat{pid: child.Process.Pid, parent: os.Getpid(), group: child.Process.Pid, name: "sleep"}
	if got, times := find(all, child.Process.Pid); got != want || times != 1 {
		t.Errorf("the child is %+v, %d times; want %+v once", got, times, want)
	}
	if got, times := find(all, os.Getpid()); got.parent != os.Getppid() || times != 1 {
		t.Errorf("this process is %+v, %d times", got, times)
	}
	if _, times := find(all, 0); times > 0 {
		t.Errorf("%d are listed that are none", times)
	}
}

// TestDescendants: children and grandchildren, but no zombies and nobody else.
func TestDescendants(t *testing.T) {
	zombie := startSleeper(t, 0)
	if err := makeZombie(zombie); err != nil {
		t.Fatal(err)
	}
	child := exec.Command("sh", "-c", "sleep 1000 & echo $!; wait")
	child.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = unix.Kill(-child.Process.Pid, unix.SIGKILL)
		_ = child.Wait()
	}()
	var grandchild int
	if _, err := fmt.Fscan(bufio.NewReader(out), &grandchild); err != nil {
		t.Fatal(err)
	}
	living := descendants()
	for pid, want := range map[int]int{
		child.Process.Pid: 1, grandchild: 1, zombie.Process.Pid: 0, os.Getpid(): 0, os.Getppid(): 0,
	} {
		if _, times := find(living, pid); times != want {
			t.Errorf("process %d is listed %d times, not %d: %+v", pid, times, want, living)
		}
	}
}

// TestGroupLives: zombies do not live, and nobody is signalled.
func TestGroupLives(t *testing.T) {
	t.Parallel()
	leader := startSleeper(t, 0)
	group := leader.Process.Pid
	member := startSleeper(t, group)
	want := func(want bool, what string) {
		t.Helper()
		if got := groupLives(group); got != want {
			t.Errorf("a group of %s lives: %v", what, got)
		}
	}
	want(true, "two that sleep")
	if err := makeZombie(leader); err != nil {
		t.Fatal(err)
	}
	want(true, "a zombie and one that sleeps")
	if err := makeZombie(member); err != nil {
		t.Fatal(err)
	}
	want(false, "two zombies")
	wantTerm(t, leader)
	want(false, "one zombie")
	wantTerm(t, member)
	want(false, "nobody")
}

// TestKillGroup: once a group is known to be empty, it is never signalled again.
func TestKillGroup(t *testing.T) {
	t.Parallel()
	living, ended := startSleeper(t, 0), startSleeper(t, 0)
	if err := makeZombie(ended); err != nil {
		t.Fatal(err)
	}
	wantTerm(t, ended)
	for _, c := range []struct {
		name   string
		p      *Process
		answer error
		empty  bool
	}{
		{"one that lives", &Process{pid: living.Process.Pid, reaped: true}, nil, false},
		{"one that was empty before", &Process{pid: living.Process.Pid, reaped: true, groupEmpty: true},
			unix.ESRCH, true},
		{"one that is empty", &Process{pid: ended.Process.Pid, reaped: true}, unix.ESRCH, true},
		// The command has joined another group, and may come back.
		{"one that the command has left", &Process{pid: ended.Process.Pid}, unix.ESRCH, false},
	} {
		sig := syscall.SIGKILL
		if c.answer == nil {
			sig = 0
		}
		if err := c.p.killGroup(sig); err != c.answer || c.p.groupEmpty != c.empty {
			t.Errorf("%s: %v, empty %v; want %v, %v", c.name, err, c.p.groupEmpty, c.answer, c.empty)
		}
	}
	if err := makeZombie(living); err != nil {
		t.Fatal(err)
	}
	wantTerm(t, living)
}

// TestSignalAfterTheEnd: what a command has left is not signalled unless EndGroup forwards.
func TestSignalAfterTheEnd(t *testing.T) {
	t.Parallel()
	left := startSleeper(t, 0)
	p := &Process{pid: left.Process.Pid, reaped: true}
	if err := p.Signal(syscall.SIGHUP); err != nil {
		t.Error(err)
	}
	if err := makeZombie(left); err != nil {
		t.Fatal(err)
	}
	wantTerm(t, left)
}

// TestCheckAllExited: zombies do not hold up AllExited, and where orphans come to us, nothing does but our children.
func TestCheckAllExited(t *testing.T) {
	t.Parallel()
	living, zombie, gone := startSleeper(t, 0), startSleeper(t, 0), startSleeper(t, 0)
	if err := errors.Join(makeZombie(zombie), makeZombie(gone)); err != nil {
		t.Fatal(err)
	}
	wantTerm(t, gone)
	for _, c := range []struct {
		name          string
		p             *Process
		closed, empty bool
	}{
		{"a member lives", &Process{pid: living.Process.Pid, reaped: true, childless: true}, false, false},
		{"a member of another", &Process{pid: living.Process.Pid, reaped: true, childless: true, adopts: true},
			true, false},
		{"a zombie", &Process{pid: zombie.Process.Pid, reaped: true, childless: true}, true, false},
		{"nobody", &Process{pid: gone.Process.Pid, reaped: true, childless: true}, true, true},
		{"a child outside the group", &Process{pid: gone.Process.Pid, reaped: true}, false, true},
		// It has joined another group.
		{"the command", &Process{pid: gone.Process.Pid}, false, false},
	} {
		c.p.allExited = make(chan struct{})
		c.p.checkAllExited()
		if closed := isClosed(c.p.allExited); closed != c.closed || c.p.groupEmpty != c.empty {
			t.Errorf("left is %s: all have exited %v, the group is empty %v; want %v, %v",
				c.name, closed, c.p.groupEmpty, c.closed, c.empty)
		}
	}
}

// TestGroupEnded: zombies are no reason to wait, nor is another group that has the id now.
func TestGroupEnded(t *testing.T) {
	t.Parallel()
	member := startSleeper(t, 0)
	want := func(want bool, what string, p *Process) {
		t.Helper()
		if ended, err := p.groupEnded(syscall.SIGTERM); ended != want || err != nil {
			t.Errorf("a group %s has ended: %v, %v", what, ended, err)
		}
	}
	want(false, "that lives", &Process{pid: member.Process.Pid, reaped: true})
	want(true, "whose id is another's", &Process{pid: member.Process.Pid, reaped: true, groupEmpty: true})
	if err := makeZombie(member); err != nil {
		t.Fatal(err)
	}
	want(true, "of a zombie", &Process{pid: member.Process.Pid, reaped: true})
	wantTerm(t, member)
	want(true, "of nobody", &Process{pid: member.Process.Pid, reaped: true})
}

// blindMode sees no other process in /proc. It prints what it knows of a group.
func blindMode(args []string) int {
	leader, err := sleeper(0)
	if err != nil {
		panic(err)
	}
	if args[0] == noDescriptor {
		limit := unix.Rlimit{Cur: 0, Max: 0}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			panic(err)
		}
	}
	_, ok := processes()
	fmt.Printf("processes %v, descendants %d\n", ok, len(descendants()))
	fmt.Println("it lives:", groupLives(leader.Process.Pid))
	if err := makeZombie(leader); err != nil {
		panic(err)
	}
	fmt.Println("a zombie lives:", groupLives(leader.Process.Pid))
	_ = leader.Wait()
	fmt.Println("nobody lives:", groupLives(leader.Process.Pid))
	return 0
}

const (
	noDescriptor = "no descriptor is left"
	foreignProc  = "/proc is of another PID namespace"
)

// TestBlind: where /proc does not show a group, it may live until the kernel says that it is empty.
func TestBlind(t *testing.T) {
	t.Parallel()
	for _, why := range []string{noDescriptor, foreignProc} {
		t.Run(why, func(t *testing.T) {
			t.Parallel()
			var attributes syscall.SysProcAttr
			if why == foreignProc {
				attributes.Cloneflags = unix.CLONE_NEWPID
				if os.Getuid() != 0 {
					attributes.Cloneflags |= unix.CLONE_NEWUSER
				}
				try := exec.Command("true")
				try.SysProcAttr = &attributes
				if err := try.Run(); err != nil {
					t.Skipf("needs root, or user namespaces: %v", err)
				}
			}
			argv := testenv.Command("blind", why)
			cmd := exec.Command(argv[0], argv[1:]...)
			cmd.SysProcAttr = &attributes
			out, err := cmd.CombinedOutput()
			want := "processes false, descendants 0\nit lives: true\na zombie lives: true\nnobody lives: false\n"
			if got := string(out); err != nil || got != want {
				t.Errorf("%v, it knows\n%s, not\n%s", err, got, want)
			}
		})
	}
}

// TestRefusal: only EPERM is one, and it counts only while nobody is left who may be signalled.
func TestRefusal(t *testing.T) {
	var p Process
	st := procStat{name: "job"}
	for _, err := range []error{nil, unix.ESRCH} {
		p.recordRefusal(syscall.SIGTERM, st, err)
		if refused := p.onlyRefusedRemain(); p.refused != nil || refused != nil {
			t.Errorf("kill(2) has returned %v, and that counts as refused: %v, %v", err, p.refused, refused)
		}
	}
	p.recordRefusal(syscall.SIGTERM, st, unix.EPERM)
	const want = "SIGTERM could not be sent to job: it runs as another user than its wrapper: " +
		"give the container the capability KILL (securityContext.capabilities.add)"
	if p.refused == nil || p.refused.Error() != want {
		t.Errorf("the refusal is %v, want %s", p.refused, want)
	}
	if refused := p.onlyRefusedRemain(); refused != nil {
		t.Errorf("nobody is left, and yet there is %v", refused)
	}
	child := startSleeper(t, 0)
	if refused := p.onlyRefusedRemain(); refused != nil {
		t.Errorf("one is left that may be signalled, and yet there is %v", refused)
	}
	if err := makeZombie(child); err != nil {
		t.Fatal(err)
	}
	wantTerm(t, child)
}
