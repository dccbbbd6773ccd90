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
	// Code is exitcode.NotFound, exitcode.NotExecutable, or exitcode.Wrapper if
	// no process could be created.
	Code int
	// Err names the command and what to do.
	Err error
}

func (e *StartError) Error() string { return e.Err.Error() }
func (e *StartError) Unwrap() error { return e.Err }

// lookPath finds a command as execvp(3) does: a name with a slash is a path, any other
// name is searched for in PATH. Its error is a *StartError. Unlike exec.LookPath, it
// distinguishes a file that is not executable from a missing one.
func lookPath(name string) (string, error) {
	if name == "" {
		return "", &StartError{exitcode.NotFound, errors.New("the command is empty: give the program to run after --")}
	}
	if strings.ContainsRune(name, '/') {
		return name, nil // execve(2) reports what is wrong with it
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
	return "", &StartError{exitcode.NotFound,
		fmt.Errorf("%s: not found in PATH (%s): check the command's name, or give its full path", name, search)}
}

// shellWords are the commands that only a shell can run (POSIX.1, Shell Command Language, 2.9
// and 2.14): a program of the same name, if there is one, does not do the same.
var shellWords = []string{
	".", ":", "alias", "cd", "eval", "exec", "exit", "export", "for", "if", "readonly", "set", "shift",
	"source", "trap", "ulimit", "umask", "unset", "until", "wait", "while",
}

// shellHint says what to do about a command that was not found, if only a shell understands
// it. Otherwise it returns "".
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
// command line in one argument. For all others, and if a file of that name exists, it
// returns "".
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

// startError gives the errno of a fork or an execve its exit code and its hint.
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
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOMEM),
		errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return explain(exitcode.Wrapper,
			"no process could be created: raise the container's limits (pids, memory, open files)")
	case errors.Is(err, unix.ENOEXEC):
		program, which := path, "it"
		if script := scriptInterpreter(path); script != "" {
			program, which = script, script+", which runs it,"
		}
		if machine := machineOf(program); machine != "" && machine != runtime.GOARCH {
			return explain(exitcode.NotExecutable, fmt.Sprintf(
				"%s is built for %s, this machine is %s: take the image for %s",
				which, machine, runtime.GOARCH, runtime.GOARCH))
		}
		return explain(exitcode.NotExecutable,
			"no program for this machine, and a script needs a first line such as #!/bin/sh")
	case errors.Is(err, unix.E2BIG):
		return explain(exitcode.NotExecutable, "shorten the arguments or the environment")
	case errors.Is(err, unix.EPERM):
		return explain(exitcode.NotExecutable,
			"a security policy refuses it: check the container's seccomp profile, AppArmor and SELinux")
	case errors.Is(err, unix.EACCES):
		if info, statErr := os.Stat(path); statErr == nil && info.IsDir() {
			return explain(exitcode.NotExecutable, "it is a directory: give the program in it")
		}
		return explain(exitcode.NotExecutable, "make it executable (chmod +x), "+
			"and check the user that the container runs as and the volume's mount options")
	}
	return explain(exitcode.NotExecutable, "the kernel refuses to execute it")
}

// header returns the beginning of a file: the part that the kernel reads to find out how to
// execute it (BINPRM_BUF_SIZE, execve(2)). It is empty if the file cannot be read.
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

// interpreter describes, for a message, what the kernel needs to run an ELF file or a script.
func interpreter(path string) string {
	script := scriptInterpreter(path)
	if script == "" {
		return "the loader that its ELF header names (a program for another libc?)"
	}
	if line, _, _ := strings.Cut(string(header(path)), "\n"); strings.HasSuffix(line, "\r") {
		return script + `\r (the file has Windows line endings)`
	}
	return script
}

// scriptInterpreter returns the interpreter that the first line of a script names, or "".
func scriptInterpreter(path string) string {
	line, _, _ := strings.Cut(string(header(path)), "\n")
	script, ok := strings.CutPrefix(line, "#!")
	if words := strings.Fields(script); ok && len(words) > 0 {
		return words[0]
	}
	return ""
}

// machines maps e_machine (elf(5)) to GOARCH.
var machines = map[uint16]string{
	3: "386", 20: "ppc", 21: "ppc64", 22: "s390x", 40: "arm",
	62: "amd64", 183: "arm64", 243: "riscv64", 258: "loong64",
}

// machineOf returns the GOARCH that an ELF file was built for, or "".
func machineOf(path string) string {
	const data, machine = 5, 18 // offsets in the header
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
