package process

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/sentinel/exitcode"
)

// StartError says why a command could not be started.
type StartError struct {
	// Code is the exit code that says the same: exitcode.NotFound,
	// exitcode.NotExecutable, or exitcode.Wrapper if not even a process
	// could be made.
	Code int
	// Err names the command and what to do.
	Err error
}

func (e *StartError) Error() string { return e.Err.Error() }
func (e *StartError) Unwrap() error { return e.Err }

// lookPath finds a command as execvp(3) does: a name with a slash is a path,
// any other is looked for in PATH. exec.LookPath would not tell a file that is
// there but not executable from none.
func lookPath(name string) (string, error) {
	if name == "" {
		return "", &StartError{exitcode.NotFound, errors.New("the command is empty: give the program to run after --")}
	}
	if strings.ContainsRune(name, '/') {
		return name, nil // execve says the rest
	}
	search, set := os.LookupEnv("PATH")
	if !set {
		search = "/bin:/usr/bin"
	}
	var refused string
	for _, dir := range strings.Split(search, ":") {
		if dir == "" {
			dir = "." // an empty entry of PATH is the working directory
		}
		path := dir + "/" + name
		info, err := os.Stat(path)
		if err != nil || info.IsDir() {
			continue
		}
		if unix.Access(path, unix.X_OK) == nil {
			return path, nil
		}
		refused = path
	}
	if refused != "" {
		return "", startError(refused, unix.EACCES)
	}
	if hint := shellHint(name); hint != "" {
		return "", &StartError{exitcode.NotFound, fmt.Errorf("%s: %s", name, hint)}
	}
	return "", &StartError{exitcode.NotFound, fmt.Errorf("%s: not found in PATH (%s): check the command's name, or give its full path", name, search)}
}

// shellWords are commands that only a shell knows (POSIX.1, Shell Command Language, 2.9 and
// 2.14), and no program of the same name does the same.
var shellWords = []string{
	".", ":", "alias", "cd", "eval", "exec", "exit", "export", "for", "if", "readonly", "set", "shift",
	"source", "trap", "ulimit", "umask", "unset", "until", "wait", "while",
}

// shellHint is what to do about a command that was not found and that only a shell
// understands, or "".
func shellHint(name string) string {
	words := strings.Fields(name)
	if len(words) == 0 {
		return ""
	}
	variable, _, assigns := strings.Cut(words[0], "=")
	switch {
	case assigns && !strings.Contains(variable, "/"), slices.Contains(shellWords, words[0]):
		return "this takes a shell: sh -c '…'"
	case len(words) > 1:
		return "it is one argument with a space: give each word as an item of its own, or run sh -c '…'"
	}
	return ""
}

// Misquoted says what to do about a command that only a shell understands, such as a whole
// command line in one argument. It returns "" for all others, and where a file of that name
// exists.
func Misquoted(name string) (hint string) {
	path, err := lookPath(name)
	if err == nil {
		_, err = os.Stat(path)
	}
	if err == nil {
		return ""
	}
	return shellHint(name)
}

// startError gives the errno of a fork or an execve its code.
func startError(path string, err error) *StartError {
	explain := func(code int, hint string) *StartError {
		return &StartError{code, fmt.Errorf("%s: %w: %s", path, err, hint)}
	}
	switch {
	case errors.Is(err, unix.ENOENT):
		if _, statErr := os.Stat(path); statErr == nil {
			return explain(exitcode.NotFound, "the file is there, but not "+interpreter(path)+", which runs it")
		}
		if hint := shellHint(path); hint != "" {
			return explain(exitcode.NotFound, hint)
		}
		return explain(exitcode.NotFound, "check the command's path")
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ENAMETOOLONG):
		if hint := shellHint(path); hint != "" {
			return explain(exitcode.NotFound, hint)
		}
		return explain(exitcode.NotFound, "check the command's path")
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOMEM), errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return explain(exitcode.Wrapper, "no process could be made: raise the container's limits (pids, memory, open files)")
	case errors.Is(err, unix.ENOEXEC):
		program, which := path, "it"
		if script := scriptInterpreter(path); script != "" {
			program, which = script, script+", which runs it,"
		}
		if machine := machineOf(program); machine != "" && machine != runtime.GOARCH {
			return explain(exitcode.NotExecutable, fmt.Sprintf("%s is built for %s, this is %s: take the image for %s", which, machine, runtime.GOARCH, runtime.GOARCH))
		}
		return explain(exitcode.NotExecutable, "no program for this machine, and a script needs a first line such as #!/bin/sh")
	case errors.Is(err, unix.E2BIG):
		return explain(exitcode.NotExecutable, "shorten the arguments or the environment")
	case errors.Is(err, unix.EPERM):
		return explain(exitcode.NotExecutable, "a security policy refuses it: check the container's seccomp profile, AppArmor and SELinux")
	case errors.Is(err, unix.EACCES):
		if info, statErr := os.Stat(path); statErr == nil && info.IsDir() {
			return explain(exitcode.NotExecutable, "it is a directory: give the program in it")
		}
		return explain(exitcode.NotExecutable, "make it executable (chmod +x), and check the user that the container runs as and the volume's mount options")
	}
	return explain(exitcode.NotExecutable, "the kernel refuses to execute it")
}

// header is the beginning of a file: as much of it as the kernel looks at to know what
// executes it (BINPRM_BUF_SIZE, execve(2)).
func header(path string) []byte {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	begin := make([]byte, 256)
	n, _ := io.ReadFull(f, begin)
	return begin[:n]
}

// interpreter is what the kernel runs a file with that is no program by itself, in words.
func interpreter(path string) string {
	script := scriptInterpreter(path)
	if script == "" {
		return "the loader that its ELF header names (a program for another libc?)"
	}
	if line, _, _ := strings.Cut(string(header(path)), "\n"); strings.HasSuffix(line, "\r") {
		return script + `\r (the file has the line ends of Windows)`
	}
	return script
}

// scriptInterpreter is what the first line of a script names, or "".
func scriptInterpreter(path string) string {
	line, _, _ := strings.Cut(string(header(path)), "\n")
	script, ok := strings.CutPrefix(line, "#!")
	if words := strings.Fields(script); ok && len(words) > 0 {
		return words[0]
	}
	return ""
}

// machines are the processors of ELF files, by e_machine (elf(5)), in Go's words.
var machines = map[uint16]string{
	3: "386", 20: "ppc", 21: "ppc64", 22: "s390x", 40: "arm", 62: "amd64", 183: "arm64", 243: "riscv64", 258: "loong64",
}

// machineOf is what an ELF file was built for, in Go's words, or "".
func machineOf(path string) string {
	const data, machine = 5, 18 // where the header has them
	h := header(path)
	if len(h) < machine+2 || string(h[:4]) != "\x7fELF" {
		return ""
	}
	order := binary.ByteOrder(binary.LittleEndian)
	if h[data] == 2 {
		order = binary.BigEndian
	}
	name := machines[order.Uint16(h[machine:])]
	if name == "ppc64" && h[data] == 1 {
		name = "ppc64le"
	}
	return name
}
