// Minimum does in Go what limit.c does in C, in the shortest way: what is slower or larger here than there is the part
// of Go's runtime and of package os/exec.
//
//	minimum record DIR COMMAND...  renames DIR/main-running to main-terminated when COMMAND has ended
//	minimum watch DIR COMMAND...   sends SIGTERM to COMMAND then
package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
)

func main() {
	if len(os.Args) < 4 {
		fail("usage: minimum record|watch DIR COMMAND...")
	}
	mode, dir, argv := os.Args[1], os.Args[2], os.Args[3:]
	terms := make(chan os.Signal, 1)
	signal.Notify(terms, syscall.SIGTERM)
	ended := func() {}
	if mode == "watch" {
		ended = watch(dir)
	}

	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		fail(err)
	}
	go func() {
		for range terms {
			_ = cmd.Process.Signal(syscall.SIGTERM)
		}
	}()
	if mode == "watch" {
		go func() {
			ended()
			_ = cmd.Process.Signal(syscall.SIGTERM)
		}()
	}
	_ = cmd.Wait()
	if mode == "record" {
		running := filepath.Join(dir, "main-running")
		if err := os.WriteFile(running, fmt.Appendln(nil, cmd.ProcessState.ExitCode()), 0o644); err != nil {
			fail(err)
		}
		if err := os.Rename(running, filepath.Join(dir, "main-terminated")); err != nil {
			fail(err)
		}
	}
	os.Exit(cmd.ProcessState.ExitCode())
}

// watch begins to watch a directory. The function that it returns waits for main-terminated.
func watch(dir string) (wait func()) {
	fd, err := syscall.InotifyInit1(syscall.IN_CLOEXEC)
	if err != nil {
		fail(err)
	}
	if _, err := syscall.InotifyAddWatch(fd, dir, syscall.IN_MOVED_TO); err != nil {
		fail(err)
	}
	return func() {
		events := make([]byte, 4096)
		for {
			n, err := syscall.Read(fd, events)
			if err != nil && err != syscall.EINTR {
				fail(err)
			}
			if n > 0 && bytes.Contains(events[:n], []byte("main-terminated\x00")) {
				return
			}
		}
	}
}

func fail(what any) {
	fmt.Fprintln(os.Stderr, "minimum:", what)
	os.Exit(125)
}
