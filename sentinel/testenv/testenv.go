// Package testenv has what tests of several packages need from their machine: volumes, mounts, refused system
// calls, and the test binary as a helper process. It is beside the packages that it helps to test and imports none
// of them, so that the tests of all of them can use it. No product code imports it.
package testenv

import (
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"
	"time"
)

// modeArg as the first argument makes the test binary run the mode named by the second.
const modeArg = "testenv:mode"

// Modes are the programs that a test binary can run as, by name. Each gets the arguments after its name and
// returns the exit code.
type Modes map[string]func(args []string) int

// RunMode is for TestMain. If the arguments name a mode (see Command), it runs it and does not return. Else it
// makes the modes that the tests start end at once: under the race detector, they would sleep for a second. It also
// makes the tests independent of the signals that their parent ignores, as under nohup.
func RunMode(modes Modes) {
	if len(os.Args) > 2 && os.Args[1] == modeArg {
		os.Exit(modes[os.Args[2]](os.Args[3:]))
	}
	// What is caught here is not inherited as ignored.
	for _, sig := range []os.Signal{syscall.SIGHUP, syscall.SIGINT} {
		if signal.Ignored(sig) {
			signal.Notify(make(chan os.Signal, 1), sig)
		}
	}
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE")); err != nil {
		panic(err)
	}
}

// Alone reports whether this is a process for the calling test alone. If not, it runs the test in one, for at most
// the given time. It is for tests of what a program does only once, such as process.Start.
func Alone(t *testing.T, limit time.Duration) bool {
	t.Helper()
	const variable = "TESTENV_ALONE"
	if os.Getenv(variable) == t.Name() {
		return true
	}
	args := []string{"-test.run", "^" + t.Name() + "$", "-test.timeout", limit.String()}
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), variable+"="+t.Name())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("in a process of its own: %v\n%s", err, out)
	}
	return false
}

// Command returns the command line that runs a mode of the test binary.
func Command(mode string, args ...string) []string {
	return append([]string{os.Args[0], modeArg, mode}, args...)
}

// CommandOfOthers is Command for another user, who cannot reach the directory of the test binary: only a child
// of the test binary can run it.
func CommandOfOthers(mode string, args ...string) []string {
	return append([]string{"/proc/self/exe", modeArg, mode}, args...)
}

// Somebody is the UID of a user who owns no file and no other process.
const Somebody = 54321

// As makes a command run as another user. It needs root.
func As(uid uint32) func(*exec.Cmd) {
	return func(cmd *exec.Cmd) {
		if cmd.SysProcAttr == nil {
			cmd.SysProcAttr = &syscall.SysProcAttr{}
		}
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: uid}
	}
}

// NeedRoot skips the test if it does not run as root. why says what root is needed for.
func NeedRoot(t testing.TB, why string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: " + why)
	}
}
