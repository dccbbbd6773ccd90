//go:build linux && (amd64 || arm64)

package ptrace

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

func TestContextEnds(t *testing.T) {
	parallel(t)
	ctx, cancel := context.WithCancelCause(within(t))
	enough := errors.New("enough")
	pid, dir := 0, t.TempDir()
	r, err := Run(ctx, self("handle", dir, "3"), Touching(dir), func(p *Tracee, c Call) {
		if pid = p.PID; c.N == 3 {
			cancel(enough) // afterwards it waits for a signal, for ever
		}
	})
	if !errors.Is(err, enough) || !strings.Contains(err.Error(), "#3 mkdirat("+dir+"/3)") {
		t.Errorf("Run = %+v, %v; want an error that is the context's cause and names call #3", r, err)
	}
	dead(t, pid)

	dir = t.TempDir()
	if r, err := Run(ctx, self("step", dir, "3"), nil, nil); !errors.Is(err, enough) || count(t, dir) != 0 {
		t.Errorf("Run with a context that has ended: %+v, %v, and %d directories; want its cause and none",
			r, err, count(t, dir))
	}
}

// t.Fatal in a callback leaves nothing behind.
func TestGoexit(t *testing.T) {
	parallel(t)
	pid, dir := 0, t.TempDir()
	done := make(chan struct{})
	go func() {
		defer close(done)
		Run(within(t), self("step", dir, "3"), Touching(dir), func(p *Tracee, _ Call) {
			pid = p.PID
			runtime.Goexit()
		})
	}()
	<-done
	dead(t, pid)
	if n := count(t, dir); n != 0 {
		t.Errorf("%d directories, want 0: the program went on", n)
	}
}

// tracer holds a program at its first call until its own input ends.
func tracer(args []string) {
	dir := args[0]
	spec := self("step", dir, "3")
	spec.Stdout = os.Stdout
	_, err := Run(context.Background(), spec, Touching(dir), func(*Tracee, Call) {
		fmt.Println("held")
		io.Copy(io.Discard, os.Stdin)
	})
	must(err)
}

// A test binary that is killed takes the program with it.
func TestTracerDies(t *testing.T) {
	parallel(t)
	dir := t.TempDir()
	in, _ := pipe(t)
	outR, out := pipe(t)
	cmd := untraced("tracer", dir)
	cmd.Stdin, cmd.Stdout = in, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out.Close()
	said := bufio.NewReader(outR)
	line, err := said.ReadString('\n')
	cmd.Process.Kill()
	cmd.Wait()
	if line != "held\n" {
		t.Fatalf("the tracer said %q, %v", line, err)
	}
	// The program has this end of the pipe until it dies.
	if rest, err := io.ReadAll(said); len(rest) > 0 || err != nil || count(t, dir) != 0 {
		t.Errorf("the program said %q, %v, and made %d directories; want none", rest, err, count(t, dir))
	}
}

func TestNotStarted(t *testing.T) {
	parallel(t)
	plain := filepath.Join(t.TempDir(), "plain")
	testenv.Plant(t, plain, "")
	for path, want := range map[string]error{"/none": fs.ErrNotExist, plain: fs.ErrPermission} {
		_, err := Run(within(t), Spec{Args: []string{path}}, nil, nil)
		if !errors.Is(err, want) || errors.Is(err, ErrRefused) && want == fs.ErrNotExist {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
}

// leave goes to the process group of its parent.
func leave([]string) {
	must(unix.Setpgid(0, 0)) // where it is already
	group, err := unix.Getpgid(os.Getppid())
	must(err)
	must(unix.Setpgid(0, group))
}

func TestGroupLeft(t *testing.T) {
	parallel(t)
	pid := 0
	setsGroup := func(c Call) bool { return c.Name == "setpgid" }
	_, err := Run(within(t), self("leave"), setsGroup, func(p *Tracee, _ Call) { pid = p.PID })
	if err == nil || !strings.Contains(err.Error(), "leaves its process group") ||
		!strings.Contains(err.Error(), "#1 setpgid()") {
		t.Errorf("Run = %v, want an error that says so and names the call before", err)
	}
	dead(t, pid)
}

// refused traces under a filter that forbids it, and prints what comes of it.
func refused(args []string) {
	request, err := strconv.Atoi(args[0])
	must(err)
	must(testenv.Install(testenv.Refuse(unix.SYS_PTRACE, unix.EPERM, testenv.Equal(0, uint32(request)))))
	_, err = Run(context.Background(), self("exit", "code", "0"), nil, nil)
	fmt.Printf("%v\n%v\n", errors.Is(err, ErrRefused), err)
	if pid, err := unix.Wait4(-1, nil, unix.WALL|unix.WNOHANG, nil); err != unix.ECHILD {
		fmt.Printf("a child is left behind: %d, %v\n", pid, err)
	}
}

// A sandbox that forbids any of the steps is told apart from other errors.
func TestRefused(t *testing.T) {
	parallel(t)
	for request, says := range map[int]string{
		unix.PTRACE_TRACEME:          "PTRACE_TRACEME",
		unix.PTRACE_SEIZE:            "PTRACE_SEIZE",
		unix.PTRACE_GET_SYSCALL_INFO: "PTRACE_GET_SYSCALL_INFO",
	} {
		out, err := untraced("refused", strconv.Itoa(request)).Output()
		lines := strings.Split(string(out), "\n")
		if err != nil || len(lines) != 3 || lines[0] != "true" || !strings.Contains(lines[1], says) {
			t.Errorf("%s refused: the program said %q, %v; want an error that is ErrRefused and says so",
				says, out, err)
		}
	}
}

// somebody traces, and prints its UID.
func somebody(args []string) {
	dir := args[0]
	r, err := Run(context.Background(), self("record", dir), Touching(dir), nil)
	must(err)
	fmt.Printf("uid %d: %+v\n", os.Getuid(), r)
}

// No privilege is needed.
func TestUnprivileged(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("not root: all the other tests show it")
	}
	parallel(t)

	dir := testenv.Volume(t)
	cmd := untraced("somebody", dir)
	testenv.As(testenv.Somebody)(cmd)
	out, err := cmd.Output()
	if want := "uid 54321: {Calls:16 ExitCode:0 Signal:signal 0}\n"; err != nil || string(out) != want {
		t.Errorf("as somebody: %q, %v; want %q", out, err, want)
	}
}
