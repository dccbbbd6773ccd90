package cmd_test

import (
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// The lines of docs/troubleshooting.md are those that the programs print.

// A logLine is a line of a log, with the fields that the document quotes.
type logLine struct {
	Level       string `json:"level"`
	Logger      string `json:"logger"`
	Main        string `json:"main"`
	Message     string `json:"message"`
	Code        *int   `json:"code"`
	MainCode    *int   `json:"main_code"`
	SidecarCode *int   `json:"sidecar_code"`
}

// key is the line without what differs from run to run.
func (l logLine) key() string {
	l.Message = normal(l.Message)
	text, err := json.Marshal(l)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// variables are what a message has of its run: durations, addresses, versions and random names.
var variables = map[string]*regexp.Regexp{
	"DURATION":        regexp.MustCompile(`\b\d+(\.\d+)?(ms|s|m|h)(\d+(\.\d+)?(ms|s|m))*\b`),
	"ADDRESS":         regexp.MustCompile(`127\.0\.0\.1:\d+`),
	"PROGRAM VERSION": regexp.MustCompile(`^(sentinel|shim) \S+`),
	".main-ID":        regexp.MustCompile(`\.main-[0-9a-f]{16}`),
}

func normal(message string) string {
	for name, variable := range variables {
		message = variable.ReplaceAllString(message, name)
	}
	return message
}

// fromSource are the documented lines that take too long here, or need a user of their own: the file that has the
// message, and the parts of it between the values. Other tests produce them: shim/not_begun_test.go and
// cmd/sentinel/group_test.go.
var fromSource = map[string][]string{
	"shim/report.go": {
		" has not begun after ", "no other run is on the volume", "the other runs on the volume are ",
		": check that the main container ", "mounts the volume at the same --dir, that sentinel wraps its command, " +
			"and that --main names the run",
	},
	"sentinel/process/process.go": {
		" could not be sent to ", ": it runs as another user than its wrapper: ",
		"give the container the capability KILL (securityContext.capabilities.add)",
	},
}

// inSource reports whether a message consists of a file's parts, with at most one word between two of them.
func inSource(t *testing.T, message string) bool {
	t.Helper()
	for file, parts := range fromSource {
		text := document(t, file)
		// A literal may be broken into two lines.
		text = regexp.MustCompile(`" \+\n\s*"`).ReplaceAllString(text, "")
		rest, found := message, false
		for _, part := range parts {
			if !strings.Contains(text, part) {
				t.Errorf("%s has no %q", file, part)
			}
			if before, after, ok := strings.Cut(rest, part); ok && len(strings.Fields(before)) <= 1 {
				rest, found = after, true
			}
		}
		if found && len(strings.Fields(rest)) <= 1 {
			return true
		}
	}
	return false
}

func TestLogLinesInTroubleshooting(t *testing.T) {
	t.Parallel()
	text := document(t, "docs/troubleshooting.md")
	printed := troubles(t)
	produced := make(map[string]bool)
	summaries := make(map[string]bool) // the messages, which are the termination messages, too
	for _, line := range strings.Split(printed, "\n") {
		var l logLine
		if json.Unmarshal([]byte(line), &l) == nil {
			produced[l.key()] = true
			summaries[normal(l.Message)] = true
		}
	}
	quoted := 0
	for _, found := range regexp.MustCompile(`(?m)^ *(\{".*\})$`).FindAllStringSubmatch(text, -1) {
		quoted++
		var l logLine
		decoder := json.NewDecoder(strings.NewReader(found[1]))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&l); err != nil {
			t.Errorf("docs/troubleshooting.md: %s: %v", found[1], err)
		} else if !produced[l.key()] && !inSource(t, l.Message) {
			t.Errorf("docs/troubleshooting.md quotes a line that no program prints: %s", l.key())
		}
	}
	if quoted < 20 {
		t.Errorf("docs/troubleshooting.md quotes only %d lines that this test sees", quoted)
	}
	for _, found := range regexp.MustCompile(`(?m)^      Message: +(.+)$`).FindAllStringSubmatch(text, -1) {
		if ofKubelet := strings.HasPrefix(found[1], "failed to create"); !ofKubelet && !summaries[normal(found[1])] {
			t.Errorf("docs/troubleshooting.md quotes a termination message that no program writes: %s", found[1])
		}
	}
	tables := statusTable.FindAllString(unindented(text), -1)
	if len(tables) < 6 {
		t.Errorf("docs/troubleshooting.md quotes only %d outputs of --status that this test sees", len(tables))
	}
	for _, table := range tables {
		same := func(other string) bool { return withoutTimes(other) == withoutTimes(table) }
		if !slices.ContainsFunc(statusTable.FindAllString(printed, -1), same) {
			t.Errorf("docs/troubleshooting.md quotes what --status does not print:\n%s", table)
		}
	}
	if t.Failed() {
		t.Logf("what was printed:\n%s", printed)
	}
}

// statusTable is what --status prints.
var statusTable = regexp.MustCompile(`(?m)^NAME +STATE.*\n(?:[a-z-]+  .*\n)+|^There are no runs on .*\n`)

// unindented is a text without the indentation of its lines.
func unindented(text string) string { return regexp.MustCompile(`(?m)^ +`).ReplaceAllString(text, "") }

// withoutTimes is what --status prints, without what differs from run to run.
func withoutTimes(table string) string {
	return regexp.MustCompile(`\d{4}-\d\d-\d\dT\S+ +\S+`).ReplaceAllString(table, "TIME AGE")
}

// A troubledPod is a pod in which something goes wrong. The sidecar is called redis-server, and main migrate or report,
// as in the document.
type troubledPod struct {
	*testing.T
	dir, programs string
	keep          func(output string)
}

func (p troubledPod) wrap(program string, flags []string, command ...string) *drive.Process {
	return drive.Start(p, drive.Wrap(program, append([]string{"--dir", p.dir}, flags...), command))
}

// sidecar starts a shim around a kind of redis-server: see troubledPrograms.
func (p troubledPod) sidecar(kind string, flags ...string) *drive.Process {
	return p.wrap("shim", flags, filepath.Join(p.programs, kind, "redis-server"))
}

// running starts a shim, and waits until its sidecar runs.
func (p troubledPod) running(kind string, flags ...string) *drive.Process {
	s := p.sidecar(kind, flags...)
	s.Await("redis-server started")
	return s
}

// main starts a sentinel around a kind of main.
func (p troubledPod) main(kind string, flags ...string) *drive.Process {
	return p.wrap("sentinel", flags, filepath.Join(p.programs, kind))
}

// lost starts a main, and has it kill its sentinel once seen has returned.
func (p troubledPod) lost(seen func()) *drive.Process {
	m := p.main("lost/migrate")
	m.Await("ready")
	seen()
	m.Signal(syscall.SIGUSR1)
	return m
}

// ends waits for the end of processes, and keeps what they have printed. The volume is then /tmp/pod.
func (p troubledPod) ends(processes ...*drive.Process) {
	paths := strings.NewReplacer(p.dir, "/tmp/pod", p.programs+"/", "")
	for _, process := range processes {
		process.Code()
		p.keep(paths.Replace(process.Output()))
	}
}

// withSidecar does something while a sidecar runs, and stops it.
func (p troubledPod) withSidecar(do func()) {
	s := p.running("", "--hold", "0s")
	do()
	s.Signal(syscall.SIGTERM)
	s.Code()
}

// status keeps what --status prints.
func (p troubledPod) status() {
	p.ends(drive.Start(p, []string{drive.Program("sentinel"), "--dir", p.dir, "--status"}))
}

// troubledPrograms are the scripts of the sidecars and mains.
var troubledPrograms = map[string]string{
	"redis-server":          "exec sleep 1000",
	"stubborn/redis-server": "trap '' TERM; while :; do sleep 0.05; done",
	"killed/redis-server":   "kill -9 $$",
	"failed/redis-server":   "exit 1",
	"daemon/redis-server":   "exit 0",
	"migrate":               "exec sleep 1000",
	"done/migrate":          "exit 0",
	"failed/migrate":        "exit 3",
	"terminated/migrate":    "exit 143",
	"lost/migrate":          "trap 'kill -9 $PPID; exit' USR1; echo ready; while :; do sleep 0.05; done",
	"killed/report":         "kill -9 $$",
}

// troubles lets the programs print what they print when something goes wrong, and returns it.
func troubles(t *testing.T) string {
	t.Helper()
	programs := testenv.FastVolume(t)
	executable := func(path string) {
		if err := os.Chmod(path, 0o755); err != nil { //nolint:gosec // another user executes it, too
			t.Fatal(err)
		}
	}
	executable(programs)
	for name, script := range troubledPrograms {
		path := filepath.Join(programs, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		executable(path)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	answering := "tcp://" + listener.Addr().String()

	var (
		mu  sync.Mutex
		out strings.Builder
	)
	keep := func(output string) {
		mu.Lock()
		defer mu.Unlock()
		out.WriteString(output)
	}
	t.Run("pods", func(t *testing.T) {
		for name, play := range map[string]func(troubledPod){
			"Lost": func(p troubledPod) {
				s := p.running("")
				p.ends(p.lost(func() { s.Await("main is running") }), s)
			},
			"Unverified": func(p troubledPod) {
				p.lost(func() {}).Code()
				p.withSidecar(p.status)
			},
			"OtherName": func(p troubledPod) {
				p.withSidecar(func() {
					p.main("done/migrate", "--name", "app").Code()
					p.status()
				})
			},
			"NoRuns": func(p troubledPod) { p.status() },
			"Gone": func(p troubledPod) {
				p.sidecar("failed").Code()
				command, open := gated(p, 0)
				m := p.wrap("sentinel", nil, command...)
				m.Await("ready")
				p.status()
				open()
				m.Code()
			},
			"Terminated": func(p troubledPod) { s := p.running(""); p.ends(p.main("terminated/migrate"), s) },
			"Failed": func(p troubledPod) {
				s := p.running("")
				p.ends(p.main("failed/migrate"), s)
				s = p.running("")
				s.Await("in an earlier attempt")
				p.status()
				p.ends(p.main("done/migrate", "--wait-for", answering), s)
			},
			"Stubborn": func(p troubledPod) {
				s := p.running("stubborn", "--grace-period", "100ms")
				p.ends(p.main("failed/migrate"), s)
			},
			"Killed": func(p troubledPod) { p.ends(p.main("killed/report")) },
			"Sidecars": func(p troubledPod) {
				p.ends(p.sidecar("killed"), p.sidecar("failed", "--name", "b"), p.sidecar("daemon", "--name", "c"))
			},
			"Deleted": func(p troubledPod) {
				s := p.running("")
				s.Signal(syscall.SIGTERM)
				p.ends(s)
			},
			"Hold": func(p troubledPod) {
				command, open := gated(p, 0)
				s, m := p.running(""), p.wrap("sentinel", nil, command...)
				s.Await("main is running")
				p.status()
				s.Signal(syscall.SIGTERM)
				s.Await("asked to stop")
				open()
				p.ends(m, s)
			},
			"WaitFor": func(p troubledPod) {
				p.ends(p.main("migrate", "--wait-for", "tcp://127.0.0.1:1", "--wait-timeout", "100ms"))
			},
			"StartTimeout": func(p troubledPod) { p.ends(p.sidecar("", "--start-timeout", "100ms")) },
			"Flag":         func(p troubledPod) { p.ends(p.main("migrate", "--wait-fro", answering)) },
			"NoCommand":    func(p troubledPod) { p.ends(drive.Start(p, []string{drive.Program("sentinel")})) },
			"NotFound":     func(p troubledPod) { p.ends(p.wrap("sentinel", nil, "./migrate")) },
			"NoVolume":     func(p troubledPod) { p.dir += "/none"; p.ends(p.sidecar("")) },
			"ReadOnly":     readOnlyVolume,
			"OneName": func(p troubledPod) {
				first, second := p.running(""), p.sidecar("")
				second.Await("waiting up to 5s")
				second.Kill()
				p.ends(second, p.main("done/migrate"), first)
			},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				play(troubledPod{t, testenv.FastVolume(t), programs, keep})
			})
		}
	})
	return out.String()
}

// readOnlyVolume: neither program may write to the volume.
func readOnlyVolume(p troubledPod) {
	if err := os.Chmod(p.dir, 0o555); err != nil { //nolint:gosec // that is what is tested
		p.Fatal(err)
	}
	asNobody := func(cmd *exec.Cmd) {
		if os.Geteuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		}
	}
	start := func(program, command string, flags ...string) *drive.Process {
		flags = append(flags, "--dir", p.dir)
		return drive.Start(p, drive.Wrap(program, flags, []string{p.programs + "/" + command}), asNobody)
	}
	p.ends(start("sentinel", "migrate"), start("shim", "redis-server", "--start-timeout", "100ms"))
}
