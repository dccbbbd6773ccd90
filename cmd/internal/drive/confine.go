package drive

// Modes for the test binaries of both programs.

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// WithoutKill executes argv as root without CAP_KILL, as in a container with the capabilities
// drop: [ALL], add: [SETUID, SETGID]. It needs root.
func WithoutKill(argv []string) int {
	runtime.LockOSThread() // capabilities belong to a thread
	if err := unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_KILL, 0, 0, 0); err != nil {
		panic(err)
	}
	panic(unix.Exec(argv[0], argv, os.Environ()))
}

// AsSomebody executes a shell script as the user testenv.Somebody, as gosu does.
func AsSomebody(args []string) int {
	runtime.LockOSThread()
	if _, _, errno := unix.RawSyscall(unix.SYS_SETUID, testenv.Somebody, 0, 0); errno != 0 { // for this thread only
		panic(errno)
	}
	panic(unix.Exec("/bin/sh", []string{"sh", "-c", args[0]}, os.Environ()))
}

// Session starts a shell script in a new session, as a daemon does. It does not wait for the script.
func Session(args []string) int {
	cmd := exec.Command("/bin/sh", "-c", args[0])
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	return 0
}

// Negligent leaves a zombie in its process group. It starts itself again outside the group. The second
// process starts a child in the group, which ends and is not reaped; then it prints "ready" and runs
// for a minute. The first process waits for the second.
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
	time.Sleep(time.Minute)
	return 0
}
