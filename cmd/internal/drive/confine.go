package drive

// Modes for the test binaries of both programs.

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Somebody is a user who owns no file and no other process.
const Somebody = 54321

// WithoutKill is a mode that becomes another program, as root without CAP_KILL: what a
// container's capabilities with drop: [ALL] and add: [SETUID, SETGID] leave. It needs root.
func WithoutKill(argv []string) int {
	runtime.LockOSThread() // whose the capability is
	if err := unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_KILL, 0, 0, 0); err != nil {
		panic(err)
	}
	panic(unix.Exec(argv[0], argv, os.Environ()))
}

// AsSomebody is a mode that becomes a shell script of another user, as gosu does.
func AsSomebody(args []string) int {
	runtime.LockOSThread()
	if _, _, errno := unix.RawSyscall(unix.SYS_SETUID, Somebody, 0, 0); errno != 0 { // of this thread
		panic(errno)
	}
	panic(unix.Exec("/bin/sh", []string{"sh", "-c", args[0]}, os.Environ()))
}

// Session is a mode that starts a shell script in a session of its own, as a daemon does, and
// leaves it behind.
func Session(args []string) int {
	cmd := exec.Command("/bin/sh", "-c", args[0])
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	return 0
}

// Negligent is a mode that leaves its process group, but has a child in it, which has ended and
// is not reaped. It says "ready" then. (Its parent, in the group, waits for it.)
//
//	negligent [GROUP]
func Negligent(args []string) int {
	if len(args) == 0 {
		argv := Command("negligent", strconv.Itoa(unix.Getpgrp()))
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Run(); err != nil {
			panic(err)
		}
		return 0
	}
	group, err := strconv.Atoi(args[0])
	if err != nil {
		panic(err)
	}
	child := exec.Command("true")
	child.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pgid: group}
	if err := child.Start(); err != nil {
		panic(err)
	}
	if err := unix.Waitid(unix.P_PID, child.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		panic(err)
	}
	fmt.Println("ready")
	for {
		_ = unix.Pause()
	}
}
