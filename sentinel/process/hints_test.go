package process

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/sentinel/exitcode"
)

// What the hints for a command that only a shell understands say.
const (
	takesAShell = "this takes a shell: sh -c '…'"
	oneArgument = "it is one argument with a space: give each word as an item of its own, or run sh -c '…'"
)

func TestShellHint(t *testing.T) {
	for name, want := range map[string]string{
		"": "", " \n": "", "ls": "", "./job": "", "exited": "",
		"cd": takesAShell, "exit 3": takesAShell, "set -e\n./job\n": takesAShell, "wait": takesAShell,
		".": takesAShell, "A=b": takesAShell, "A=b ./job": takesAShell, "A=/b ./job": takesAShell,
		"ls -l": oneArgument, "./job up now": oneArgument, "/a=b": "", "/a=b c": oneArgument, "ls A=b": oneArgument,
	} {
		if got := shellHint(name); got != want {
			t.Errorf("shellHint(%q) is %q, want %q", name, got, want)
		}
	}
}

// TestMisquoted: no hint for a file that exists, in PATH or by its path.
func TestMisquoted(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"cd", "a job"} {
		writeFile(t, filepath.Join(dir, name), "", 0o755)
	}
	t.Setenv("PATH", dir)
	for name, want := range map[string]string{
		"": "", "ls": "",
		"cd": "", "a job": "", dir + "/a job": "",
		"exit": takesAShell, "another job": oneArgument, dir + "/another job": oneArgument,
	} {
		if got := Misquoted(name); got != want {
			t.Errorf("Misquoted(%q) is %q, want %q", name, got, want)
		}
	}
}

func writeFile(t *testing.T, path, content string, perm os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), perm); err != nil {
		t.Fatal(err)
	}
}

// TestHints: what to do depends on the file that could not be executed.
func TestHints(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		writeFile(t, path, content, 0o755)
		return path
	}
	foreign := "arm64"
	if runtime.GOARCH == foreign {
		foreign = "riscv64"
	}
	builtFor := func(which string) string {
		return which + " is built for " + foreign + ", this machine is " + runtime.GOARCH + ": take the image for "
	}
	const noProgram = "no program for this machine, and a script needs a first line such as #!/bin/sh"
	const checkPath, shorten = "check the command's path", "shorten the arguments or the environment"
	image := write("image", header20(t, foreign))
	for _, c := range []struct {
		errno      unix.Errno
		path, hint string
	}{
		{unix.ENOENT, "/none", checkPath},
		{unix.ENOENT, "/none -x", oneArgument},
		{unix.ENOENT, write("script", "#! /none/sh -e\nexit\n"), "the file is there, but not /none/sh, which runs it"},
		{unix.ENOENT, write("windows", "#!/bin/sh\r\n"),
			`the file is there, but not /bin/sh\r (the file has Windows line endings), which runs it`},
		{unix.ENOENT, write("two lines", "#!/none\n\r"), "the file is there, but not /none, which runs it"},
		{unix.ENOENT, write("dynamic", "\x7fELF"), "the file is there, but not the loader that its ELF header names"},
		{unix.ENOTDIR, "/dev/null/x", checkPath},
		{unix.ENOTDIR, "/dev/null/x y", oneArgument},
		{unix.ENAMETOOLONG, "/" + strings.Repeat("x", 300), checkPath},
		{unix.ENAMETOOLONG, "/" + strings.Repeat("x", 300) + " y", oneArgument},
		{unix.ENOEXEC, image, builtFor("it")},
		{unix.ENOEXEC, write("interpreted", "#!"+image+"\n"), builtFor(image + ", which runs it,")},
		{unix.ENOEXEC, write("own", header20(t, runtime.GOARCH)), noProgram},
		{unix.ENOEXEC, write("text", "exit\n"), noProgram},
		{unix.E2BIG, image, shorten},
		{unix.EPERM, image,
			"a security policy refuses it: check the container's seccomp profile, AppArmor and SELinux"},
		{unix.EACCES, dir, "it is a directory: give the program in it"},
		{unix.EACCES, image, "make it executable (chmod +x), and check the user"},
		{unix.EACCES, "/none", "make it executable (chmod +x), and check the user"},
		{unix.ELOOP, image, "the kernel refuses to execute it"},
	} {
		want := c.path + ": " + c.errno.Error() + ": " + c.hint
		if got := startError(c.path, c.errno).Error(); !strings.HasPrefix(got, want) {
			t.Errorf("%q does not begin with %q", got, want)
		}
	}
	t.Setenv("PATH", dir)
	writeFile(t, filepath.Join(dir, "plain"), "", 0o644)
	for name, want := range map[string]string{
		"":      "the command is empty: give the program to run after --",
		"plain": dir + "/plain: permission denied: make it executable (chmod +x), and check the user",
		"exit":  "exit: " + takesAShell,
		"none":  "none: not found in PATH (" + dir + "): check the command's name, or give its full path",
	} {
		if _, err := lookPath(name); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("lookPath(%q): %v, want %q", name, err, want)
		}
	}
}

// header20 is the shortest beginning of a program for the machine of which that can be told.
func header20(t *testing.T, goarch string) string {
	t.Helper()
	machine := map[string]elf.Machine{
		"386": elf.EM_386, "ppc64": elf.EM_PPC64, "ppc64le": elf.EM_PPC64, "s390x": elf.EM_S390, "ppc": elf.EM_PPC,
		"arm": elf.EM_ARM, "amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64, "riscv64": elf.EM_RISCV,
		"loong64": elf.EM_LOONGARCH,
	}[goarch]
	begin := make([]byte, 20)
	copy(begin, elf.ELFMAG)
	switch goarch {
	case "ppc", "ppc64", "s390x":
		begin[elf.EI_DATA] = byte(elf.ELFDATA2MSB)
		binary.BigEndian.PutUint16(begin[18:], uint16(machine))
	default:
		begin[elf.EI_DATA] = byte(elf.ELFDATA2LSB)
		binary.LittleEndian.PutUint16(begin[18:], uint16(machine))
	}
	return string(begin)
}

func TestMachineOf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "program")
	check := func(content, want string) {
		t.Helper()
		writeFile(t, path, content, 0o755)
		if got := machineOf(path); got != want {
			t.Errorf("a file that begins with %q is for %q, want %q", content, got, want)
		}
	}
	for _, goarch := range []string{
		"386", "ppc", "ppc64", "ppc64le", "s390x", "arm", "amd64", "arm64", "riscv64", "loong64",
	} {
		begin := header20(t, goarch)
		check(begin, goarch)
		check(begin+strings.Repeat("x", 1000), goarch)
		check("\x7fELX"+begin[4:], "")
		for length := range begin {
			check(begin[:length], "")
		}
	}
	check(header20(t, "m68k"), "") // no such machine is known
	if got := machineOf(path + ".none"); got != "" {
		t.Errorf("a file that is not there is for %q", got)
	}
}

// TestScriptInterpreter: of the first line, as far as the kernel reads it.
func TestScriptInterpreter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "script")
	for content, want := range map[string]string{
		"#!/bin/sh\n": "/bin/sh", "#!/bin/sh": "/bin/sh", "#! \t/bin/sh -e\nexit\n": "/bin/sh",
		"": "", "#!\n/bin/sh\n": "", "#! \n": "", "/bin/sh\n": "", "\n#!/bin/sh\n": "",
		"#!/" + strings.Repeat("x", 250) + "yz\n":                       "/" + strings.Repeat("x", 250) + "yz",
		"#!/" + strings.Repeat("x", 250) + "y" + strings.Repeat("z", 9): "/" + strings.Repeat("x", 250) + "yzz",
	} {
		writeFile(t, path, content, 0o755)
		if got := scriptInterpreter(path); got != want {
			t.Errorf("the interpreter of %q is %q, want %q", content, got, want)
		}
	}
	if got := scriptInterpreter(path + ".none"); got != "" {
		t.Errorf("the interpreter of a file that is not there is %q", got)
	}
}

// TestNotStarted: the error of Start has a code and says what to do.
func TestNotStarted(t *testing.T) {
	for name, want := range map[string]string{
		"no-such-job": "no-such-job: not found in PATH", "/none": "/none: no such file",
	} {
		_, err := Start([]string{name})
		var start *StartError
		if !errors.As(err, &start) || start.Code != exitcode.NotFound || !strings.HasPrefix(err.Error(), want) ||
			!errors.Is(err, start.Err) {
			t.Errorf("Start: %#v, want a StartError of the code %d that begins with %q", err, exitcode.NotFound, want)
		}
	}
}
