package main_test

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
)

// report is a script that prints what it was given: arguments, environment, working directory, umask and limits; the
// blocked, ignored and caught signals; each descriptor's file and flags.
const report = `
	printf 'argument <%s>\n' "$0" "$@"
	tr '\0' '\n' </proc/$$/environ
	readlink /proc/$$/cwd
	umask
	cat /proc/self/limits
	cat /proc/self/status | grep -E '^(Sig(Blk|Ign|Cgt)|Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp):'
	cd /proc/$$/fd
	for fd in *; do
		if [ -e $fd ]; then # the shell lists its own descriptor of the list
			stat -L -c 'descriptor %n is file %i of device %d' $fd
			grep -H flags ../fdinfo/$fd
		fi
	done`

// TestTransparent: a command is given the same with sentinel as without.
func TestTransparent(t *testing.T) {
	t.Parallel()
	dir, volume := t.TempDir(), t.TempDir()
	open := func(name string) *os.File {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	stdin, stdout, extra := open("in"), open("out"), open("extra")
	// A non-blocking pipe: O_NONBLOCK is a flag of the open file, which all processes share.
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	r, stderr := os.NewFile(uintptr(pipe[0]), "r"), os.NewFile(uintptr(pipe[1]), "w")
	defer r.Close()
	defer stderr.Close()

	given := func(argv []string) string {
		t.Helper()
		if err := stdout.Truncate(0); err != nil {
			t.Fatal(err)
		}
		if _, err := stdout.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		argv = drive.Command("prepared", argv...)
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = dir, stdin, stdout, stderr
		cmd.ExtraFiles = []*os.File{extra}
		if err := cmd.Run(); err != nil {
			said := make([]byte, 4096)
			n, _ := r.Read(said)
			t.Fatalf("%v: %s", err, said[:n])
		}
		out, err := os.ReadFile(stdout.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	command := append([]string{"/bin/sh", "-c", report, "zero"}, "a b", "", "*", "-x", "--", "ü\xff")
	want := given(command)
	got := given(drive.Wrap("sentinel", []string{"--dir", volume}, command))
	if got != want {
		t.Errorf("without sentinel the report is\n%s\nand with it\n%s", want, got)
	}
	// The report is complete.
	for _, line := range []string{
		"argument <zero>", "argument <a b>", "argument <>", "argument <ü\xff>",
		"EMPTY=", "A=b=c", "NOT_TEXT_\xff=\xff", "no equals sign", "=no name",
		dir, "0027", "SigBlk:\t0000000000000000", "SigCgt:\t0000000000000000",
	} {
		if !strings.Contains(want, line+"\n") {
			t.Errorf("not in the report: %q:\n%s", line, want)
		}
	}
	if ignored := ignoredIn(t, want); ignored&3 != 3 {
		t.Errorf("HUP and INT are not ignored but %x:\n%s", ignored, want)
	}
	for _, text := range []string{
		"Max open files            123                  1000 ", "descriptor 3 is file", "../fdinfo/2:flags:\t04001\n",
	} {
		if !strings.Contains(want, text) {
			t.Errorf("not in the report: %q:\n%s", text, want)
		}
	}
}

// TestProcessGroup: the command leads a process group of its own.
func TestProcessGroup(t *testing.T) {
	t.Parallel()
	p := sentinel(t, t.TempDir(), nil, shell(`
		read -r pid comm state parent group rest </proc/$$/stat
		[ "$group" = "$$" ] && [ "$parent" = "$PPID" ] && echo its own`)...)
	p.Await("its own\n")
	p.Want(0)
}
