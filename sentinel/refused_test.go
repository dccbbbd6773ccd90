package sentinel

import (
	"errors"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// TestBeginRefused: why no file can be created on the volume, and what to do.
func TestBeginRefused(t *testing.T) {
	t.Parallel()
	if !testenv.Alone(t, patience) {
		return
	}
	const writable, room = " has to be writable for this user (readOnly, fsGroup)", " (sizeLimit)"
	s := newTrial(t.TempDir())
	for errno, remedy := range map[syscall.Errno]string{
		unix.EACCES: writable, unix.EPERM: writable, unix.EROFS: writable,
		unix.ENOSPC: room, unix.EDQUOT: room,
		unix.EIO: unix.EIO.Error(), // nothing is known to help
	} {
		refuseToCreate(t, errno)
		_, err := s.begin()
		if !errors.Is(err, errno) || !strings.HasSuffix(err.Error(), remedy) {
			t.Errorf("the error is %v, want %v and %q at the end", err, errno, remedy)
		}
	}
}

// refuseToCreate has the kernel refuse to create files in this process. The last call decides on the error.
func refuseToCreate(t *testing.T, errno syscall.Errno) {
	t.Helper()
	const (
		load = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		// Where struct seccomp_data has the call, and the low word of the third argument.
		number, third = 0, 32
	)
	filter := []unix.SockFilter{
		{Code: load, K: number},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_OPENAT, Jf: 3},
		{Code: load, K: third},
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: unix.O_EXCL, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(&program))); errno != 0 {
		t.Fatalf("seccomp: %v", errno)
	}
}
