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

// Somebody is the UID of a user who owns no file and no other process.
const Somebody = 54321

// WithoutKill executes argv as root without CAP_KILL, as a container with the capabilities
// drop: [ALL], add: [SETUID, SETGID] does. It needs root.
func WithoutKill(argv []string) int {
	runtime.LockOSThread() // a capability belongs to a thread
	if err := unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_KILL, 0, 0, 0); err != nil {
		panic(err)
	}
	panic(unix.Exec(argv[0], argv, os.Environ()))
}

// AsSomebody executes a shell script as the user Somebody, as gosu does.
func AsSomebody(args []string) int {
	runtime.LockOSThread()
	if _, _, errno := unix.RawSyscall(unix.SYS_SETUID, Somebody, 0, 0); errno != 0 { // for this thread only
		panic(errno)
	}
	panic(unix.Exec("/bin/sh", []string{"sh", "-c", args[0]}, os.Environ()))
}

// Session starts a shell script in a session of its own, as a daemon does, and returns without waiting
// for it.
func Session(args []string) int {
	cmd := exec.Command("/bin/sh", "-c", args[0])
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	return 0
}

// Negligent leaves a zombie in its process group: it starts itself again outside the group, and that
// process has a child in the group, which has ended and is never reaped. It prints "ready" then and
// runs until it is killed. The first process waits for it.
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
