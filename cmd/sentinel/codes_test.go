package main_test

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// TestCodes: sentinel records every exit code of the command, and exits with it.
func TestCodes(t *testing.T) {
	t.Parallel()
	for code := range 256 {
		t.Run(strconv.Itoa(code), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			sentinel(t, dir, nil, shell("exit "+strconv.Itoa(code))...).Want(code)
			wantRecord(t, dir, code)
		})
	}
}

// TestDeadlySignals: if signal n killed the command, the code is 128+n, as in a shell.
func TestDeadlySignals(t *testing.T) {
	t.Parallel()
	for sig := syscall.Signal(1); sig <= 64; sig++ {
		switch sig {
		case syscall.SIGCHLD, syscall.SIGURG, syscall.SIGWINCH, // ignored
			syscall.SIGCONT, syscall.SIGSTOP, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU: // stop and go
			continue
		}
		t.Run(strconv.Itoa(int(sig)), func(t *testing.T) {
			if ignoredSignals(t)>>(sig-1)&1 == 1 {
				t.Skip("the parent of this test ignores the signal (after posix_spawn, as make uses it, that is 32)")
			}
			t.Parallel()
			dir := t.TempDir()
			// Without a core dump.
			p := sentinel(t, dir, nil, shell(fmt.Sprintf("ulimit -c 0; kill -%d $$", sig))...)
			p.Want(128 + int(sig))
			p.Await("sh was killed by ")
			wantRecord(t, dir, 128+int(sig))
		})
	}
}

// ignoredSignals returns the set of signals that this process ignores, bit n-1 for signal n.
func ignoredSignals(t *testing.T) uint64 {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	return ignoredIn(t, string(status))
}

// ignoredIn returns the same set from the content of a /proc/PID/status.
func ignoredIn(t *testing.T, status string) uint64 {
	t.Helper()
	_, rest, _ := strings.Cut(status, "SigIgn:\t")
	set, err := strconv.ParseUint(rest[:min(16, len(rest))], 16, 64)
	if err != nil {
		t.Fatalf("no SigIgn in %s", status)
	}
	return set
}

// TestNotStarted: a command that cannot be started has the code that it would have in a shell. The error names the
// command and says what to do, and the end is recorded.
func TestNotStarted(t *testing.T) {
	t.Parallel()
	files := t.TempDir()
	write := func(name, content string, perm os.FileMode) string {
		path := filepath.Join(files, name)
		if err := os.WriteFile(path, []byte(content), perm); err != nil {
			t.Fatal(err)
		}
		return path
	}
	plain := write("plain", "#!/bin/sh\n", 0o644)
	noFirstLine := write("no-first-line", "exit 0\n", 0o755)
	noInterpreter := write("no-interpreter", "#!/no/such/shell\n", 0o755)
	empty := write("empty", "", 0o755)
	foreign, foreignMachine := otherMachine(t)
	built := write("built", string(foreign), 0o755)
	builtScript := write("built-script", "#!"+built+"\n", 0o755)
	builtFor := fmt.Sprintf("is built for %s, this machine is %s: take the image for %[2]s",
		foreignMachine, runtime.GOARCH)
	windows := write("windows", "#!/bin/sh\r\n", 0o755)
	const oneArgument = ": it is one argument with a space: give each word as an item of its own, or run sh -c"
	const shell = ": this takes a shell: sh -c"
	long := strings.Repeat("x", 300)

	for _, c := range []struct {
		name    string
		command string
		code    int
		says    []string
	}{
		{"not found in PATH", "no-such-job", 127,
			[]string{"no-such-job: not found in PATH (", files, "give its full path"}},
		{"no such path", files + "/none", 127,
			[]string{files + "/none: no such file or directory: check the command's path"}},
		{"a file where a directory would be", plain + "/job", 127, []string{plain + "/job: not a directory"}},
		{"no interpreter", noInterpreter, 127, []string{noInterpreter + ": no such file", "interpreter"}},
		{"an empty word", "", 127, []string{"the command is empty", "after --"}},
		{"not executable", plain, 126, []string{plain + ": permission denied: make it executable (chmod +x)"}},
		{"not executable, in PATH", "plain", 126,
			[]string{plain + ": permission denied: make it executable (chmod +x)"}},
		{"a directory", files, 126, []string{files + ": permission denied: it is a directory: give the program in it"}},
		{"for another machine", built, 126, []string{built + ": exec format error: it " + builtFor}},
		{"interpreted by what is for another machine", builtScript, 126,
			[]string{builtScript + ": exec format error: " + built + ", which runs it, " + builtFor}},
		{"Windows line endings", windows, 127,
			[]string{windows + ": no such file", `/bin/sh\\r (the file has Windows line endings)`}},
		{"a command line in one argument", "nginx -g daemon off;", 127, []string{"nginx -g daemon off;" + oneArgument}},
		{"a path and its argument in one", "./migrate up", 127,
			[]string{"./migrate up: no such file or directory" + oneArgument}},
		{"a long command line in one argument", "/app/" + long + " up", 127, []string{oneArgument}},
		{"a path below a file, and its argument in one", plain + "/job up", 127,
			[]string{plain + "/job up: not a directory" + oneArgument}},
		{"lines in one argument", "./migrate up\n./migrate check\n", 127, []string{oneArgument}},
		{"a word of the shell", "cd", 127, []string{"cd was not started: cd" + shell}},
		{"a variable", "FOO=bar", 127, []string{"FOO=bar was not started: FOO=bar" + shell}},
		{"a variable, and more", "FOO=bar ./migrate", 127,
			[]string{"FOO=bar ./migrate: no such file or directory" + shell}},
		{"a script in one argument", "set -e\n./migrate up\n", 127, []string{shell}},
		{"no #! line", noFirstLine, 126, []string{noFirstLine + ": exec format error", "#!/bin/sh"}},
		{"an empty file", empty, 126, []string{empty + ": exec format error"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			argv := drive.Wrap("sentinel", []string{"--dir", dir}, []string{c.command, "arg"})
			wantFailure(t, argv, c.code, append(c.says, "was not started"), env("PATH="+os.Getenv("PATH")+":"+files))
			wantRecord(t, dir, c.code)
		})
	}
}

// otherMachine returns the program sh as if it had been built for another machine.
func otherMachine(t *testing.T) (image []byte, machine string) {
	t.Helper()
	image, err := os.ReadFile("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	const field = 18 // the offset of the machine in an ELF header, in two bytes (elf(5))
	number := elf.EM_AARCH64
	if machine = "arm64"; runtime.GOARCH == machine {
		machine, number = "riscv64", elf.EM_RISCV
	}
	binary.LittleEndian.PutUint16(image[field:], uint16(number))
	return image, machine
}

// wantFailure fails the test unless a command line ends with the code, writes nothing to stdout, and writes one error
// to stderr, as its last line, which contains the code and all the words.
func wantFailure(t *testing.T, argv []string, code int, words []string, changes ...func(*exec.Cmd)) {
	t.Helper()
	got, stdout, stderr := ended(t, argv, changes...)
	lines := strings.Split(strings.TrimSuffix(stderr, "\n"), "\n")
	last := lines[len(lines)-1]
	if got != code || stdout != "" || strings.Count(stderr, `"level":"error"`) != 1 {
		t.Errorf("the exit code is %d, want %d and one error:\n%s%s", got, code, stdout, stderr)
	}
	for _, word := range append(words, `"level":"error"`, fmt.Sprintf(`"code":%d`, code)) {
		if !strings.Contains(last, word) {
			t.Errorf("the last line does not contain %q:\n%s", word, stderr)
		}
	}
}

// TestForkRefused: if no process can be started, the error does not blame the command.
func TestForkRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	argv := drive.Wrap("sentinel", []string{"--dir", dir}, []string{"true"})
	wantFailure(t, drive.Command("no-fork", argv...), 125,
		[]string{"true: resource temporarily unavailable: ", "raise the container's limits"})
	wantRecord(t, dir, 125)
}

// TestProcessLimit: under a limit on processes and threads, the command runs, or its end is recorded as 125, or Go's
// runtime says that it got no thread.
func TestProcessLimit(t *testing.T) {
	testenv.NeedRoot(t, "to run processes as a user who has no others")
	t.Parallel()
	const least, most = 4, 30                        // processes and threads; sentinel has about 7
	uid := strconv.Itoa(20_000 + os.Getpid()%30_000) // another user for each run of the tests
	ran, refused := false, false
	for limit := least; limit <= most && !(ran && refused); limit++ {
		for range 3 {
			dir := testenv.Volume(t)
			argv := drive.Wrap("sentinel", []string{"--dir", dir}, []string{"true"})
			argv = drive.Command("limited", append([]string{uid, strconv.Itoa(limit)}, argv...)...)
			code, _, stderr := ended(t, argv)
			switch end := recorded(t, dir, "main"); {
			case code == 0 && end == "0\n":
				ran = true
			case code == 125 && end == "125\n" && strings.Contains(stderr, "raise the container's limits"):
				refused = true
			case code == 2 && strings.Contains(stderr, "runtime: failed to create new OS thread"):
			default:
				t.Errorf("with the limit %d: exit code %d, recorded %q:\n%s", limit, code, end, stderr)
			}
		}
	}
	if !ran || !refused {
		t.Errorf("with limits up to %d the command ran: %v, and was refused: %v; want both", most, ran, refused)
	}
}

// TestVolumeRefused: if the volume cannot be used, the error names it, and the command is not started.
func TestVolumeRefused(t *testing.T) {
	t.Parallel()
	directory := testenv.Volume(t)
	file := filepath.Join(directory, "file")
	testenv.Plant(t, file, "")
	locked := testenv.Volume(t)
	if err := os.Chmod(locked, 0o555); err != nil {
		t.Fatal(err)
	}
	user := func(*exec.Cmd) {}
	if os.Geteuid() == 0 { // root may write everywhere
		user = testenv.As(testenv.Somebody)
	}
	for _, c := range []struct {
		name, dir string
		says      []string
	}{
		{"missing", directory + "/none", []string{directory + "/none does not exist", "volumeMounts", "--dir"}},
		{"below a file", file + "/x", []string{file + "/x", "volumeMounts", "--dir"}},
		{"a file", file, []string{file + " is not a directory", "--dir"}},
		{"not writable", locked, []string{locked, "permission denied", "writable"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			argv := drive.Wrap("sentinel", []string{"--dir", c.dir}, []string{"echo", "launched"})
			code, stdout, stderr := ended(t, argv, user)
			if code != 125 || stdout != "" {
				t.Errorf("the exit code is %d, want 125 and nothing launched:\n%s%s", code, stdout, stderr)
			}
			for _, word := range append(c.says, "was not started") {
				if !strings.Contains(stderr, word) {
					t.Errorf("the error does not contain %q:\n%s", word, stderr)
				}
			}
		})
	}
}

// TestVolumeReadOnly: the same with a read-only mount.
func TestVolumeReadOnly(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	argv := drive.Wrap("sentinel", []string{"--dir", dir}, []string{"echo", "launched"})
	code, stdout, stderr := endedOn(t, dir, unix.MS_RDONLY, argv)
	says := "read-only file system: the volume " + dir + " has to be writable"
	if code != 125 || stdout != "" || !strings.Contains(stderr, says) {
		t.Errorf("exit code %d, want 125 and nothing launched:\n%s%s", code, stdout, stderr)
	}
}

// TestVolumeGone: if the end cannot be recorded, the exit code is still that of the command.
func TestVolumeGone(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "volume")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	p := sentinel(t, dir, nil, shell(`rm -r "$1"; exit 7`, dir)...)
	p.Want(7)
	p.Await("the end of main could not be recorded")
}

// TestSecondSentinel: of two sentinels with one name, the second fails and does not disturb the first.
func TestSecondSentinel(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := sentinel(t, dir, nil, shell(untilUSR1)...)
	first.Await("ready")

	second := drive.Wrap("sentinel", []string{"--dir", dir}, []string{"echo", "launched"})
	wantFailure(t, second, 125,
		[]string{"another sentinel or shim named main is running on this volume", dir + "/main-running", "--name"})
	if got := recorded(t, dir, "main"); got != "" {
		t.Errorf("the second has recorded %q over a live run", got)
	}

	third := sentinel(t, dir, nil, "echo", "launched")
	drive.Eventually(t, "the third begins", func() bool { return strings.HasPrefix(testenv.Names(t, dir), ".main-") })
	third.Signal(syscall.SIGTERM)
	third.Want(143)
	if names := testenv.Names(t, dir); names != "main-running" {
		t.Errorf("a third, stopped while it waits, leaves %q, want only main-running", names)
	}

	other := sentinel(t, dir, []string{"--name", "other"}, "true")
	other.Want(0)
	if got := recorded(t, dir, "other"); got != "0\n" {
		t.Errorf("the end of the other one is %q, want 0", got)
	}

	first.Signal(syscall.SIGUSR1)
	first.Want(3)
	if got := recorded(t, dir, "main"); got != "3\n" {
		t.Errorf("the end of the first is %q, want 3", got)
	}
}
