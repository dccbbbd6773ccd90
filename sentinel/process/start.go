package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
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
	return "", &StartError{exitcode.NotFound, fmt.Errorf("%s: not found in PATH (%s): check the command's name, or give its full path", name, search)}
}

// startError gives the errno of a fork or an execve its code.
func startError(path string, err error) *StartError {
	explain := func(code int, hint string) *StartError {
		return &StartError{code, fmt.Errorf("%s: %w: %s", path, err, hint)}
	}
	switch {
	case errors.Is(err, unix.ENOENT):
		if _, statErr := os.Stat(path); statErr == nil {
			return explain(exitcode.NotFound, "the file is there, but not the interpreter or loader that it names in its first line or its ELF header")
		}
		return explain(exitcode.NotFound, "check the command's path")
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ENAMETOOLONG):
		return explain(exitcode.NotFound, "check the command's path")
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOMEM), errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return explain(exitcode.Wrapper, "no process could be made: raise the container's limits (pids, memory, open files)")
	case errors.Is(err, unix.ENOEXEC):
		return explain(exitcode.NotExecutable, "no program for this machine, and a script needs a first line such as #!/bin/sh")
	case errors.Is(err, unix.E2BIG):
		return explain(exitcode.NotExecutable, "shorten the arguments or the environment")
	case errors.Is(err, fs.ErrPermission):
		if info, statErr := os.Stat(path); statErr == nil && info.IsDir() {
			return explain(exitcode.NotExecutable, "it is a folder: give the program in it")
		}
		return explain(exitcode.NotExecutable, "make it executable (chmod +x), and check the user that the container runs as and the volume's mount options")
	}
	return explain(exitcode.NotExecutable, "the kernel refuses to execute it")
}
