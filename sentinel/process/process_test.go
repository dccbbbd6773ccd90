package process

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/sentinel/exitcode"
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// patience is how long a test waits for anything before it fails.
const patience = 20 * time.Second

func TestMain(m *testing.M) {
	// A program has only one Process, so each test starts a program of its own.
	testenv.RunMode(testenv.Modes{
		"stop":     stopMode,
		"family":   familyMode,
		"outsider": outsiderMode,
		"catch":    catchMode,
		"blind":    blindMode,
		"report":   reportMode,
		"session":  sessionMode,
		"unseen":   unseenMode,
		"cost":     costMode,
		"forward":  forwardMode,
		"threads":  threadsMode,
	})
	if err := flag.Set("test.parallel", "16"); err != nil { // the tests mostly wait
		panic(err)
	}
	os.Exit(m.Run())
}

// stopMode starts a command and stops it when it gets SIGUSR1.
func stopMode(args []string) int {
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
	stopped := <-command.Stop(sig, grace)
	left := unix.Kill(-command.PID(), 0) != unix.ESRCH
	<-command.Exited()
	fmt.Printf("stopped killed=%v left=%v code=%d\n", stopped.Killed, left, command.Status().Code)
	return 0
}

// program is a running test binary in one of its modes.
type program struct {
	t      *testing.T
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	output strings.Builder // all that has been read so far
}

func start(t *testing.T, argv []string) *program {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = w, w
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	err = cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		r.Close()
	})
	if err := r.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return &program{t: t, cmd: cmd, in: stdin, out: bufio.NewReader(r)}
}

// await reads until it has read line.
func (p *program) await(line string) {
	p.t.Helper()
	for {
		got, err := p.out.ReadString('\n')
		p.output.WriteString(got)
		if err != nil {
			p.t.Fatalf("waiting for %q: %v; the output so far:\n%s", line, err, p.output.String())
		}
		if strings.TrimSuffix(got, "\n") == line {
			return
		}
	}
}

// rest returns the remaining lines, when every process that has the output open has ended.
func (p *program) rest() []string {
	p.t.Helper()
	rest, err := io.ReadAll(p.out)
	p.output.Write(rest)
	if err != nil {
		p.t.Fatalf("waiting for the end of all: %v; the output so far:\n%s", err, p.output.String())
	}
	return strings.Split(strings.TrimSuffix(string(rest), "\n"), "\n")
}

func TestStop(t *testing.T) {
	const long = 2 * patience // a grace period whose half no test waits for
	for _, c := range []struct {
		name, script string
		signal       string
		grace        time.Duration
		want         []string
		halfWaited   bool // Stop takes at least half of grace
	}{{
		name:   "a command that ends at the signal, and a child that it leaves",
		script: `sleep 1000 & trap 'echo got; exit 7' TERM; echo ready; wait`,
		signal: "TERM", grace: long,
		want: []string{"got", "stopped killed=false left=false code=7"},
	}, {
		name:   "another signal",
		script: `sleep 1000 & trap 'echo got; exit 0' USR2; echo ready; wait`,
		signal: "SIGUSR2", grace: long,
		want: []string{"got", "stopped killed=false left=false code=0"},
	}, {
		name:   "a command that dies of the signal",
		script: `echo ready; exec sleep 1000`,
		signal: "TERM", grace: long,
		want: []string{"stopped killed=false left=false code=143"},
	}, {
		name:   "a shell that runs a server in the foreground",
		script: `trap 'echo trapped; exit 7' TERM; sh -c 'echo ready; exec sleep 1000'; echo not trapped`,
		signal: "TERM", grace: 3 * time.Second,
		want:       []string{"trapped", "stopped killed=false left=false code=7"},
		halfWaited: true,
	}, {
		name: "first the process, then once the group",
		script: `trap 'echo parent; exit 3' TERM
			(trap 'echo child' TERM; echo ready; while :; do sleep 0.02; done) & wait`,
		signal: "TERM", grace: time.Second,
		want:       []string{"parent", "child", "stopped killed=true left=false code=3"},
		halfWaited: true,
	}, {
		name: "a grandchild that takes its time",
		script: `trap 'exit 0' TERM
			(trap 'echo cleaning; sleep 0.3; echo clean; exit' TERM; echo ready; while :; do sleep 0.02; done) & wait`,
		signal: "TERM", grace: long,
		want: []string{"cleaning", "clean", "stopped killed=false left=false code=0"},
	}, {
		name:   "a group whose command has ended before",
		script: `(while kill -0 $$; do sleep 0.01; done; echo ready; exec sleep 1000) & exit 5`,
		signal: "TERM", grace: long,
		want: []string{"stopped killed=false left=false code=5"},
	}, {
		name:   "a command that ignores the signal",
		script: `trap '' TERM; echo ready; while :; do sleep 0.02; done`,
		signal: "TERM", grace: 300 * time.Millisecond,
		want:       []string{"stopped killed=true left=false code=137"},
		halfWaited: true,
	}, {
		name:   "a command that stands still",
		script: `(until grep 'State:.T' /proc/$$/status; do sleep 0.01; done >/dev/null; echo ready) & kill -STOP $$`,
		signal: "TERM", grace: 300 * time.Millisecond,
		want:       []string{"stopped killed=true left=false code=137"},
		halfWaited: true,
	}, {
		name:   "no grace at all",
		script: `trap '' TERM; echo ready; while :; do sleep 0.02; done`,
		signal: "TERM", grace: 0,
		want: []string{"stopped killed=true left=false code=137"},
	}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			script := "exec 2>/dev/null; " + c.script
			p := start(t, testenv.Command("stop", c.signal, c.grace.String(), "sh", "-c", script))
			p.await("ready")
			asked := time.Now()
			if err := p.cmd.Process.Signal(syscall.SIGUSR1); err != nil {
				t.Fatal(err)
			}
			if got := p.rest(); !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if took := time.Since(asked); c.halfWaited && took < c.grace/2 {
				t.Errorf("the group was signalled after %s, before half of the grace period of %s", took, c.grace)
			}
		})
	}
}

// familyMode is a command whose group has a member that is not our child: its parent has
// left the group, survives SIGTERM, and reaps the member. With an argument, the member takes
// its time to end, and the parent then stays until its input ends.
func familyMode(args []string) int {
	argv := testenv.Command("outsider", append([]string{strconv.Itoa(unix.Getpgrp())}, args...)...)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	time.Sleep(time.Hour) // Go reports select {} as a deadlock
	return 0
}

func outsiderMode(args []string) int {
	group, err := strconv.Atoi(args[0])
	if err != nil {
		panic(err)
	}
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM) // it goes on until the member has ended
	stays := len(args) > 1
	script := "echo ready; exec sleep 1000"
	if stays {
		script = `trap "sleep 0.3; kill -KILL $$" TERM; echo ready; while :; do sleep 0.02; done`
	}
	member := exec.Command("sh", "-c", script)
	member.Stdout = os.Stdout
	member.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pgid: group}
	if err := member.Start(); err != nil {
		panic(err)
	}
	fmt.Println("member:", member.Wait())
	if stays {
		_, _ = io.Copy(io.Discard, os.Stdin)
	}
	return 0
}

// TestStopSeesWhatOthersReap: Stop notices the end of a process that is not our child, which
// nothing reports.
func TestStopSeesWhatOthersReap(t *testing.T) {
	t.Parallel()
	family := testenv.Command("family")
	p := start(t, testenv.Command("stop", append([]string{"TERM", (2 * patience).String()}, family...)...))
	p.await("ready")
	if err := p.cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	p.await("stopped killed=false left=false code=143")
	if !strings.Contains(p.output.String(), "member: signal: terminated") {
		t.Errorf("the member was not signalled with its group:\n%s", p.output.String())
	}
}

func TestLookPath(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	write := func(path string, perm os.FileMode) {
		t.Helper()
		if err := os.WriteFile(path, nil, perm); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(first, "both"), 0o755)
	write(filepath.Join(second, "both"), 0o755)
	write(filepath.Join(first, "shadowed"), 0o644)
	write(filepath.Join(second, "shadowed"), 0o755)
	write(filepath.Join(second, "refused"), 0o644)
	if err := os.Mkdir(filepath.Join(first, "directory"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir(second)

	for _, c := range []struct {
		path, name string
		want       string
		code       int
	}{
		{first + ":" + second, "both", first + "/both", 0},
		{first + ":" + second, "shadowed", second + "/shadowed", 0},
		{first + "::/nowhere", "shadowed", "./shadowed", 0},
		{"", "both", "./both", 0},
		{first + ":" + second, "refused", "", exitcode.NotExecutable},
		{first + ":" + second, "directory", "", exitcode.NotFound},
		{first + ":" + second, "none", "", exitcode.NotFound},
		{first, "", "", exitcode.NotFound},
		{first, "./none", "./none", 0}, // a path: execve reports the error
		{first, "/none", "/none", 0},
	} {
		t.Setenv("PATH", c.path)
		got, err := lookPath(c.name)
		code := 0
		if start := (*StartError)(nil); errors.As(err, &start) {
			code = start.Code
		} else if err != nil {
			t.Fatalf("lookPath(%q): %v is no StartError", c.name, err)
		}
		if got != c.want || code != c.code {
			t.Errorf("lookPath(%q) in PATH=%s is %q, %d (%v); want %q, %d",
				c.name, c.path, got, code, err, c.want, c.code)
		}
	}

	if err := os.Unsetenv("PATH"); err != nil {
		t.Fatal(err)
	}
	if got, err := lookPath("sh"); err != nil || got != "/bin/sh" {
		t.Errorf(`lookPath("sh") without a PATH is %q, %v; want /bin/sh`, got, err)
	}
}

// TestStartErrors: each errno has its exit code. Each error has the command's path, the text
// of the errno, and what to do.
func TestStartErrors(t *testing.T) {
	for _, c := range []struct {
		errno syscall.Errno
		code  int
	}{
		{unix.ENOENT, exitcode.NotFound},
		{unix.ENOTDIR, exitcode.NotFound},
		{unix.ENAMETOOLONG, exitcode.NotFound},
		{unix.EACCES, exitcode.NotExecutable},
		{unix.EPERM, exitcode.NotExecutable},
		{unix.ENOEXEC, exitcode.NotExecutable},
		{unix.E2BIG, exitcode.NotExecutable},
		{unix.ELOOP, exitcode.NotExecutable},
		{unix.ETXTBSY, exitcode.NotExecutable},
		{unix.EAGAIN, exitcode.Wrapper},
		{unix.ENOMEM, exitcode.Wrapper},
		{unix.EMFILE, exitcode.Wrapper},
		{unix.ENFILE, exitcode.Wrapper},
	} {
		err := startError("/app/job", c.errno)
		if err.Code != c.code {
			t.Errorf("%v has code %d, want %d", c.errno, err.Code, c.code)
		}
		prefix := "/app/job: " + c.errno.Error() + ": "
		if hint, ok := strings.CutPrefix(err.Error(), prefix); !ok || hint == "" {
			t.Errorf("%q does not begin with %q and go on with what to do", err, prefix)
		}
	}
}

func TestParseSignal(t *testing.T) {
	for _, c := range []struct {
		in   string
		want syscall.Signal // 0: refused
	}{
		{"TERM", syscall.SIGTERM}, {"SIGTERM", syscall.SIGTERM},
		{"term", syscall.SIGTERM}, {"SigTerm", syscall.SIGTERM},
		{"15", syscall.SIGTERM}, {"USR1", syscall.SIGUSR1}, {"QUIT", syscall.SIGQUIT}, {"WINCH", syscall.SIGWINCH},
		{"1", 1}, {"64", 64}, {"32", 32},
		{"RTMIN", 34}, {"SIGRTMIN", 34}, {"RTMIN+0", 34}, {"rtmin+3", 37}, {"RTMIN+30", 64},
		{"RTMAX", 64}, {"RTMAX-0", 64}, {"SIGRTMAX-1", 63}, {"RTMAX-30", 34},
		{in: ""}, {in: "SIG"}, {in: "0"}, {in: "-1"}, {in: "65"}, {in: "99999999999999999999"}, {in: "+15"},
		{in: "15.0"}, {in: "0x0f"}, {in: "SIG15"}, {in: "TERM "}, {in: "NONE"}, {in: "SIGSIGTERM"},
		{in: "RTMIN+31"}, {in: "RTMIN-1"}, {in: "RTMAX+1"}, {in: "RTMAX-31"}, {in: "RTMIN+"}, {in: "RTMIN+x"},
		{in: "RTMIN3"}, {in: "RTMIN-0"}, {in: "RTMAX0"}, {in: "RTMIN+-0"}, {in: "ſigterm"}, {in: "RTMıN"},
	} {
		got, err := ParseSignal(c.in)
		if got != c.want || (err == nil) != (c.want != 0) {
			t.Errorf("ParseSignal(%q) is %d, %v; want %d", c.in, got, err, c.want)
		}
		if err != nil && !strings.Contains(err.Error(), strconv.Quote(c.in)) {
			t.Errorf("ParseSignal(%q) does not say what it was given: %v", c.in, err)
		}
	}
}

func TestSignalName(t *testing.T) {
	for sig, want := range map[syscall.Signal]string{
		syscall.SIGTERM: "SIGTERM", syscall.SIGUSR1: "SIGUSR1",
		32: "signal 32", 34: "SIGRTMIN", 37: "SIGRTMIN+3", 64: "SIGRTMIN+30", 65: "signal 65",
	} {
		if got := SignalName(sig); got != want {
			t.Errorf("SignalName(%d) is %q, want %q", int(sig), got, want)
		}
	}
	for sig := syscall.Signal(1); sig <= lastSignal; sig++ {
		if sig == 32 || sig == 33 {
			continue // they have no name
		}
		if got, err := ParseSignal(SignalName(sig)); got != sig {
			t.Errorf("%s is signal %d, not %d (%v)", SignalName(sig), got, sig, err)
		}
	}
}

// FuzzParseSignal: ParseSignal accepts what is in a list of all signals, and nothing else.
func FuzzParseSignal(f *testing.F) {
	names := make(map[string]syscall.Signal) // without SIG
	for sig := syscall.Signal(1); sig <= lastSignal; sig++ {
		if name, ok := strings.CutPrefix(unix.SignalName(sig), "SIG"); ok {
			names[name] = sig
		}
	}
	for n := range 31 {
		names[fmt.Sprintf("RTMIN+%d", n)] = syscall.Signal(34 + n)
		names[fmt.Sprintf("RTMAX-%d", n)] = syscall.Signal(64 - n)
	}
	names["RTMIN"], names["RTMAX"] = 34, 64
	want := func(s string) syscall.Signal {
		if n, err := strconv.ParseUint(s, 10, 64); err == nil && n <= 64 {
			return syscall.Signal(n)
		}
		// Any case of ASCII's letters, and zeros before an offset, mean the same.
		name := strings.TrimPrefix(string(bytes.ToUpper([]byte(s))), "SIG")
		if i := strings.IndexAny(name, "+-"); i >= 0 {
			if n, err := strconv.ParseUint(name[i+1:], 10, 64); err == nil {
				name = fmt.Sprint(name[:i+1], n)
			}
		}
		if strings.ContainsFunc(s, func(r rune) bool { return r > unicode.MaxASCII }) {
			return 0
		}
		return names[name]
	}
	for _, s := range []string{
		"TERM", "SIGTERM", "sigusr1", "15", "064", "RTMIN+3", "SIGRTMAX-30", "RTMIN+31", "+15", "RTMIN-0", "SIG9",
		"ſigterm", "IOT", "",
	} {
		f.Add(s)
	}
	check := func(t *testing.T, s string) {
		sig, err := ParseSignal(s)
		if sig != want(s) || (err == nil) != (sig != 0) {
			t.Fatalf("ParseSignal(%q) = %d, %v; want %d", s, sig, err, want(s))
		}
		if err != nil && !strings.HasPrefix(err.Error(), strconv.Quote(s)) {
			t.Fatalf("ParseSignal(%q) does not say what it was given: %v", s, err)
		}
		if err == nil && sig != 32 && sig != 33 { // these have no name
			if again, err := ParseSignal(SignalName(sig)); again != sig {
				t.Fatalf("ParseSignal(%q) = %d, which is called %s, which is read as %d, %v",
					s, sig, SignalName(sig), again, err)
			}
		}
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, head := range []string{"", "SIG", "sig", "RTMIN", "SIGRTMIN+", "rtmax", "sigRTMAX-"} {
			check(t, head+s)
		}
	})
}
