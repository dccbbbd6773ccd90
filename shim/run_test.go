package shim

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
	"github.com/sentinel-shim/sentinel-shim/sentinel/process"
)

// The shim's loop with real processes, once for each of its branches. cmd/shim tests the built program as a whole.

// patience is how long a test waits for an event, at most, before it fails.
const patience = 20 * time.Second

const modeArg = "shim:run"

// TestMain makes the test binary a shim if the arguments say so: one process can only be one shim.
func TestMain(m *testing.M) {
	if len(os.Args) < 4 || os.Args[1] != modeArg {
		os.Exit(m.Run())
	}
	signals := process.CatchSignals()
	cfg := Config{
		Name: "proxy", Mains: []string{"main"},
		StopSignal: syscall.SIGTERM, GracePeriod: time.Minute, LostAfter: time.Minute,
	}
	if err := json.Unmarshal([]byte(os.Args[2]), &cfg); err != nil {
		panic(err)
	}
	cfg.Command, cfg.Signals, cfg.Log = os.Args[3:], signals, zerolog.New(os.Stderr)
	os.Exit(Run(cfg))
}

// program is a running shim.
type program struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines *bufio.Scanner // of the shim and its sidecar
	seen  strings.Builder
}

// start starts a shim on a volume, with flags in JSON, around a shell script.
func start(t *testing.T, dir, flags, script string) *program {
	t.Helper()
	flags = fmt.Sprintf(`{"Dir": %q%s}`, dir, flags)
	p := &program{t: t, cmd: exec.Command(os.Args[0], modeArg, flags, "/bin/sh", "-c", script, dir)}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stdout, p.cmd.Stderr, p.lines = w, w, bufio.NewScanner(r)
	err = p.cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	hang := time.AfterFunc(patience, func() { r.Close() })
	t.Cleanup(func() {
		hang.Stop()
		r.Close()
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	})
	return p
}

// await waits for a line that contains a text. It may have come already: lines of the sidecar and of the shim come in
// any order.
func (p *program) await(text string) (line string) {
	p.t.Helper()
	for line := range strings.Lines(p.seen.String()) {
		if strings.Contains(line, text) {
			return line
		}
	}
	for p.lines.Scan() {
		fmt.Fprintln(&p.seen, p.lines.Text())
		if strings.Contains(p.lines.Text(), text) {
			return p.lines.Text()
		}
	}
	p.t.Fatalf("no line of the shim or its sidecar contains %q:\n%s", text, &p.seen)
	return ""
}

func (p *program) signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatal(err)
	}
}

// ends waits for the end of the shim, and checks its exit code and its last line.
func (p *program) ends(code int, last string) {
	p.t.Helper()
	if line := p.await(fmt.Sprintf(`"code":%d,`, code)); !strings.Contains(line, last) {
		p.t.Errorf("the last line of the log is %s, want %s in it", line, last)
	}
	if _ = p.cmd.Wait(); p.cmd.ProcessState.ExitCode() != code {
		p.t.Errorf("the exit code is %d, want %d:\n%s", p.cmd.ProcessState.ExitCode(), code, &p.seen)
	}
}

// begin begins a run.
func begin(t *testing.T, dir, name string) *lifetime.Run {
	t.Helper()
	run, _, err := lifetime.Begin(t.Context(), lifetime.Dir(dir), name, nil)
	if err != nil {
		t.Fatal(err)
	}
	return run
}

func end(t *testing.T, run *lifetime.Run, code int) {
	t.Helper()
	if err := run.End(code); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(lifetime.TerminatedPath(dir, name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// server is a sidecar that reports each SIGUSR1. At SIGTERM it prints what the shim's own file holds.
const server = `
trap 'echo got USR1' USR1
trap 'cat "$0/proxy-running"; exit 5' TERM
echo ready
while :; do sleep 1000 & wait $!; done`

func TestMainEnds(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	main := begin(t, dir, "main")
	p := start(t, dir, "", server)
	p.await("follows main on " + dir)
	p.await("sh started")
	p.await("ready")
	p.signal(syscall.SIGUSR1)
	p.await("got USR1")
	end(t, main, 3)
	p.await("stopping sh with SIGTERM")
	p.ends(3, `"message":"main exited 3; sh stopped by SIGTERM in `)
	p.await(`"sidecar_code":5,`)
	if !strings.Contains(p.seen.String(), "\nstopping\n") || strings.Contains(p.seen.String(), "9223372036") {
		t.Errorf("the shim's file does not say stopping, or the duration in its log is wrong:\n%s", &p.seen)
	}
	if got, err := os.ReadFile(lifetime.TerminatedPath(dir, "proxy")); string(got) != "3\n" {
		t.Errorf("the shim has recorded its own end as %q (error: %v), want 3", got, err)
	}
}

func TestSIGTERM(t *testing.T) {
	t.Parallel()
	t.Run("no main", func(t *testing.T) {
		t.Parallel()
		p := start(t, t.TempDir(), "", server)
		p.await("ready")
		p.signal(syscall.SIGTERM)
		p.ends(5, "asked to stop; sh stopped by SIGTERM in ")
	})
	t.Run("the stop signal", func(t *testing.T) {
		t.Parallel()
		p := start(t, t.TempDir(), `, "StopSignal": 3`, `trap "exit 6" QUIT; echo ready; sleep 1000 & wait $!`)
		p.await("ready")
		p.signal(syscall.SIGQUIT)
		p.ends(6, "asked to stop; sh stopped by SIGQUIT in ")
	})
	t.Run("main works on", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		main := begin(t, dir, "main")
		p := start(t, dir, `, "Hold": 3600000000000`, server)
		p.await("ready")
		p.signal(syscall.SIGTERM)
		p.await("is kept until main has ended")
		end(t, main, 4)
		p.ends(4, "asked to stop, main exited 4; sh stopped by SIGTERM in ")
	})
	t.Run("another signal before the launch", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		write(t, dir, "main", "") // not settled for a second
		p := start(t, dir, "", "exec sleep 1000")
		p.await(`"seen":["main not settled"]`)
		p.signal(syscall.SIGINT)
		if err := os.Remove(lifetime.TerminatedPath(dir, "main")); err != nil {
			t.Fatal(err)
		}
		p.ends(130, "sh died of SIGINT before main had ended")
	})
}

func TestSidecarEnds(t *testing.T) {
	t.Parallel()
	t.Run("by itself", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		begin(t, dir, "main")
		start(t, dir, "", "exit 9").ends(9, "sh exited 9 by itself before main had ended")
	})
	t.Run("and leaves a process behind", func(t *testing.T) {
		t.Parallel()
		p := start(t, t.TempDir(), "", "sleep 1000 & echo pid $!; exit 9")
		var pid int
		if _, err := fmt.Sscanf(p.await("pid "), "pid %d", &pid); err != nil {
			t.Fatal(err)
		}
		p.ends(9, "sh exited 9 by itself before main had ended")
		if err := syscall.Kill(pid, 0); err != syscall.ESRCH {
			t.Errorf("the process that the sidecar has left is still there (error: %v)", err)
		}
	})
	t.Run("not found", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		code := Run(Config{
			Dir: dir, Name: "proxy", Mains: []string{"main"}, Command: []string{"/no/such/proxy"},
			LostAfter: time.Hour, Log: zerolog.Nop(),
		})
		if got, err := os.ReadFile(lifetime.TerminatedPath(dir, "proxy")); code != 127 || string(got) != "127\n" {
			t.Errorf("the exit code is %d, recorded as %q (error: %v), want 127", code, got, err)
		}
	})
}

func TestAtStart(t *testing.T) {
	t.Parallel()
	t.Run("a failure of an earlier attempt", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		write(t, dir, "main", "3\n")
		write(t, dir, "proxy", "3\n")
		p := start(t, dir, "", server)
		p.await("ready")
		p.await("main exited 3, in an earlier attempt")
		end(t, begin(t, dir, "main"), 4)
		p.ends(4, "main exited 4; sh stopped by SIGTERM in ")
	})
	t.Run("a failure", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		write(t, dir, "main", "3\n")
		start(t, dir, "", server).ends(3, "main exited 3; sh was not started")
	})
	t.Run("--start-timeout", func(t *testing.T) {
		t.Parallel()
		p := start(t, t.TempDir(), `, "StartTimeout": 100000000`, "exec sleep 1000")
		p.ends(124, "main did not begin within --start-timeout 100ms; sh stopped by SIGTERM in ")
	})
	t.Run("a live run of the same name", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		begin(t, dir, "proxy")
		start(t, dir, "", server).ends(125, "sh was not started: ")
	})
}

// TestDrainIsTakenBack: a shim whose own run is not recorded cannot announce that it is stopping. So it keeps the
// sidecar of a main that begins again during --drain.
func TestDrainIsTakenBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Mkdir(lifetime.Dir(dir).Path("proxy-running"), 0o755); err != nil {
		t.Fatal(err)
	}
	main := begin(t, dir, "main")
	p := start(t, dir, `, "Drain": 3600000000000`, "exec sleep 1000")
	p.await("the run of proxy is not recorded")
	p.await("sh started")
	end(t, main, 3)
	p.await("(--drain)")
	main = begin(t, dir, "main")
	p.await("sh is kept: main has begun")
	end(t, main, 4)
	p.await("main exited 4")
	p.signal(syscall.SIGTERM)
	p.await("--drain was cut off by SIGTERM after ")
	p.ends(4, "main exited 4; sh stopped by SIGTERM in ")
}

// TestDrainStands: a main that begins again during --drain reads "stopping" and waits, so the drain goes on.
func TestDrainStands(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	main := begin(t, dir, "main")
	p := start(t, dir, `, "Drain": 3600000000000`, "exec sleep 1000")
	p.await("sh started")
	end(t, main, 3)
	p.await("(--drain)")
	begin(t, dir, "main")
	p.await(`"seen":["main running"],"message":"nothing to do"`)
	p.signal(syscall.SIGTERM)
	p.ends(3, "main exited 3; sh stopped by SIGTERM in ")
}

// TestWord: the shim announces on the volume that it is stopping, and retracts that.
func TestWord(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	run := begin(t, dir, "proxy")
	l := &loop{run: run}
	for _, c := range []struct {
		action action
		want   string
	}{{announceStopping, "stopping\n"}, {retractStopping, "running\n"}} {
		if err := l.do(c.action, state{}, state{}); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(lifetime.Dir(dir).Path("proxy-running")); string(got) != c.want {
			t.Errorf("the shim's file says %q (error: %v), want %q", got, err, c.want)
		}
	}
}
