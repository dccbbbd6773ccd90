package sentinel

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sentinel-shim/sentinel-shim/sentinel/probe"
	"github.com/sentinel-shim/sentinel-shim/sentinel/process"
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// The tests in cmd/sentinel test the built program. Those here need a termination log of
// their own.

// patience is how long a test waits for anything before it fails.
const patience = 20 * time.Second

func TestMain(m *testing.M) {
	testenv.RunMode(testenv.Modes{"run": runMode}) // a program has only one command
	os.Exit(m.Run())
}

// runMode is a sentinel.
//
//	run DIR TERMINATION-LOG WAIT-FOR WAIT-TIMEOUT COMMAND [ARG...]
func runMode(args []string) int {
	dir, terminationLog, waitFor, command := args[0], args[1], args[2], args[4:]
	timeout, err := time.ParseDuration(args[3])
	if err != nil {
		panic(err)
	}
	cfg := Config{
		Dir: dir, Name: "main",
		WaitTimeout:    timeout,
		Command:        command,
		Signals:        process.CatchSignals(),
		TerminationLog: terminationLog,
		Log:            zerolog.New(os.Stderr),
	}
	if waitFor != "" {
		target, err := probe.Parse(waitFor)
		if err != nil {
			panic(err)
		}
		cfg.WaitFor = []probe.Target{target}
	}
	return Run(cfg)
}

// sentinel is the command line of a sentinel: see runMode.
func sentinel(args ...string) *exec.Cmd {
	argv := testenv.Command("run", args...)
	return exec.Command(argv[0], argv[1:]...)
}

// TestTerminationMessage: the termination message says why a command was not started, or
// which signal it died of. A command that exits by itself has none.
func TestTerminationMessage(t *testing.T) {
	const never = "file:///nowhere/at/all"
	for _, c := range []struct {
		name    string
		dir     func(string) string // another volume
		waitFor string
		command []string
		code    int
		record  string // the content of main-terminated, or "" if there is none
		message string // how the message begins, or "" if there is none
		hint    string // what else the message contains
	}{{
		name:    "success",
		command: []string{"true"},
		code:    0, record: "0\n",
	}, {
		name:    "failure",
		command: []string{"sh", "-c", "exit 3"},
		code:    3, record: "3\n",
	}, {
		name:    "a code that looks like a signal's",
		command: []string{"sh", "-c", "exit 143"},
		code:    143, record: "143\n",
	}, {
		name:    "a signal",
		command: []string{"/bin/sh", "-c", "kill -TERM $$"},
		code:    143, record: "143\n",
		message: "sh was killed by SIGTERM after ",
	}, {
		name:    "SIGKILL",
		command: []string{"sh", "-c", "kill -KILL $$"},
		code:    137, record: "137\n",
		message: "sh was killed by SIGKILL after ", hint: "(out of memory?)",
	}, {
		name:    "not found",
		command: []string{"no-such-job"},
		code:    127, record: "127\n",
		message: "no-such-job was not started: no-such-job: not found in PATH (", hint: "give its full path",
	}, {
		name:    "not executable",
		command: []string{os.DevNull},
		code:    126, record: "126\n",
		message: "/dev/null was not started: /dev/null: permission denied: ", hint: "chmod +x",
	}, {
		name: "--wait-for in vain", waitFor: never,
		command: []string{"true"},
		code:    124, record: "124\n",
		message: "true was not started: --wait-for timed out after --wait-timeout 100ms: " + never + ": ",
		hint:    "no such file",
	}, {
		name: "no volume", dir: func(dir string) string { return filepath.Join(dir, "none") },
		command: []string{"true"},
		code:    125,
		message: "true was not started: the volume ", hint: "--dir",
	}, {
		name:    "a volume that is none",
		dir:     func(string) string { return os.DevNull },
		command: []string{"true"},
		code:    125,
		message: "true was not started: the volume /dev/null is not a directory: ", hint: "--dir",
	}, {
		name: "an obstacle on the volume",
		dir: func(dir string) string {
			if err := os.Mkdir(filepath.Join(dir, "main-running"), 0o755); err != nil {
				t.Fatal(err)
			}
			return dir
		},
		command: []string{"true"},
		code:    125, record: "125\n",
		message: "true was not started: ", hint: "main-running is a directory: remove it",
	}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if c.dir != nil {
				dir = c.dir(dir)
			}
			terminationLog := filepath.Join(t.TempDir(), "termination-log")
			testenv.Plant(t, terminationLog, "")
			cmd := sentinel(append([]string{dir, terminationLog, c.waitFor, "100ms"}, c.command...)...)
			out, err := cmd.CombinedOutput()
			if code := cmd.ProcessState.ExitCode(); code != c.code {
				t.Errorf("the exit code is %d (%v), want %d:\n%s", code, err, c.code, out)
			}
			if got := content(t, filepath.Join(dir, "main-terminated")); got != c.record {
				t.Errorf("the recorded end is %q, want %q", got, c.record)
			}
			got := content(t, terminationLog)
			switch line, ended := strings.CutSuffix(got, "\n"); {
			case c.message == "" && got != "":
				t.Errorf("the message is %q, want none", got)
			case c.message == "":
			case !strings.HasPrefix(line, c.message) || !strings.Contains(line, c.hint) || !ended ||
				strings.Contains(line, "\n"):
				t.Errorf("the message is %q, want one line that begins with %q and contains %q",
					got, c.message, c.hint)
			case bytes.Count(out, []byte(`"level":"error"`)) != 1 || !strings.Contains(string(out), c.hint):
				t.Errorf("the log does not say the same, once:\n%s", out)
			}
		})
	}
}

// TestTerminationMessageOfTheCommand: a message that the command has written stays.
func TestTerminationMessageOfTheCommand(t *testing.T) {
	t.Parallel()
	terminationLog := filepath.Join(t.TempDir(), "termination-log")
	testenv.Plant(t, terminationLog, "")
	script := fmt.Sprintf("echo no table users >%s; kill -KILL $$", terminationLog)
	out, _ := sentinel(t.TempDir(), terminationLog, "", "0s", "sh", "-c", script).CombinedOutput()
	if got := content(t, terminationLog); got != "no table users\n" {
		t.Errorf("the message is %q, want the command's own:\n%s", got, out)
	}
}

// TestTerminationMessageOfASignal: the message names a signal that came before the start.
func TestTerminationMessageOfASignal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	terminationLog := filepath.Join(t.TempDir(), "termination-log")
	testenv.Plant(t, terminationLog, "")
	asked := make(chan struct{}, 1)
	unready := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		select {
		case asked <- struct{}{}:
		default:
		}
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer unready.Close()

	cmd := sentinel(dir, terminationLog, unready.URL, patience.String(), "echo", "launched")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-asked:
	case <-time.After(patience):
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 143 || strings.Contains(out.String(), "launched\n") {
		t.Errorf("the exit code is %d, want 143 and nothing launched:\n%s", code, &out)
	}
	if got := content(t, filepath.Join(dir, "main-terminated")); got != "143\n" {
		t.Errorf("the recorded end is %q, want 143", got)
	}
	const want = "echo was not started: SIGTERM came before the command was started\n"
	if got := content(t, terminationLog); got != want {
		t.Errorf("the message is %q, want %q", got, want)
	}
}

func content(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) && !strings.Contains(err.Error(), "not a directory") {
		t.Fatal(err)
	}
	return string(data)
}
