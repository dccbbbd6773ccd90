//go:build linux && (amd64 || arm64)

package ptrace

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// signature says what a call is named and what its arguments are, a letter
// each: d a directory's descriptor, to which the path after it is relative;
// p a path; f a descriptor; any other letter something else.
type signature struct{ name, args string }

// calls has the calls that can be seen, without those which only older
// architectures have.
var calls = map[uint64]signature{
	unix.SYS_OPENAT:            {"openat", "dp"},
	unix.SYS_OPENAT2:           {"openat2", "dp"},
	unix.SYS_RENAMEAT:          {"renameat", "dpdp"},
	unix.SYS_RENAMEAT2:         {"renameat2", "dpdp"},
	unix.SYS_LINKAT:            {"linkat", "dpdp"},
	unix.SYS_SYMLINKAT:         {"symlinkat", "-dp"}, // the first is text, not a file
	unix.SYS_UNLINKAT:          {"unlinkat", "dp"},
	unix.SYS_MKDIRAT:           {"mkdirat", "dp"},
	unix.SYS_MKNODAT:           {"mknodat", "dp"},
	unix.SYS_NEWFSTATAT:        {"newfstatat", "dp"},
	unix.SYS_STATX:             {"statx", "dp"},
	unix.SYS_STATFS:            {"statfs", "p"},
	unix.SYS_READLINKAT:        {"readlinkat", "dp"},
	unix.SYS_FACCESSAT:         {"faccessat", "dp"},
	unix.SYS_FACCESSAT2:        {"faccessat2", "dp"},
	unix.SYS_FCHMODAT:          {"fchmodat", "dp"},
	unix.SYS_FCHMODAT2:         {"fchmodat2", "dp"},
	unix.SYS_FCHOWNAT:          {"fchownat", "dp"},
	unix.SYS_UTIMENSAT:         {"utimensat", "dp"},
	unix.SYS_TRUNCATE:          {"truncate", "p"},
	unix.SYS_CHDIR:             {"chdir", "p"},
	unix.SYS_INOTIFY_ADD_WATCH: {"inotify_add_watch", "-p"},

	unix.SYS_READ:            {"read", "f"},
	unix.SYS_PREAD64:         {"pread64", "f"},
	unix.SYS_READV:           {"readv", "f"},
	unix.SYS_WRITE:           {"write", "f"},
	unix.SYS_PWRITE64:        {"pwrite64", "f"},
	unix.SYS_WRITEV:          {"writev", "f"},
	unix.SYS_LSEEK:           {"lseek", "f"},
	unix.SYS_FTRUNCATE:       {"ftruncate", "f"},
	unix.SYS_FALLOCATE:       {"fallocate", "f"},
	unix.SYS_FCHMOD:          {"fchmod", "f"},
	unix.SYS_FCHOWN:          {"fchown", "f"},
	unix.SYS_FSTAT:           {"fstat", "f"},
	unix.SYS_FSTATFS:         {"fstatfs", "f"},
	unix.SYS_FSYNC:           {"fsync", "f"},
	unix.SYS_FDATASYNC:       {"fdatasync", "f"},
	unix.SYS_SYNC_FILE_RANGE: {"sync_file_range", "f"},
	unix.SYS_SYNCFS:          {"syncfs", "f"},
	unix.SYS_FCNTL:           {"fcntl", "f"},
	unix.SYS_FLOCK:           {"flock", "f"},
	unix.SYS_GETDENTS64:      {"getdents64", "f"},
	unix.SYS_FCHDIR:          {"fchdir", "f"},
	unix.SYS_IOCTL:           {"ioctl", "f"},
	unix.SYS_DUP:             {"dup", "f"},
	unix.SYS_DUP3:            {"dup3", "f"},
	unix.SYS_CLOSE:           {"close", "f"},
	unix.SYS_SENDFILE:        {"sendfile", "ff"},
	unix.SYS_COPY_FILE_RANGE: {"copy_file_range", "f-f"},

	unix.SYS_CLONE:             {"clone", ""},
	unix.SYS_CLONE3:            {"clone3", ""},
	unix.SYS_EXECVE:            {"execve", "p"},
	unix.SYS_EXECVEAT:          {"execveat", "dp"},
	unix.SYS_EXIT_GROUP:        {"exit_group", ""},
	unix.SYS_WAIT4:             {"wait4", ""},
	unix.SYS_WAITID:            {"waitid", ""},
	unix.SYS_KILL:              {"kill", ""},
	unix.SYS_TGKILL:            {"tgkill", ""},
	unix.SYS_PIDFD_OPEN:        {"pidfd_open", ""},
	unix.SYS_PIDFD_SEND_SIGNAL: {"pidfd_send_signal", ""},
	unix.SYS_PRCTL:             {"prctl", ""},
	unix.SYS_SETPGID:           {"setpgid", ""},
	unix.SYS_RT_SIGACTION:      {"rt_sigaction", ""},
}

// decode reads the call at whose entry a thread is stopped; ok is false for one
// that is not to be seen.
func decode(tid int, info callInfo) (c Call, ok bool) {
	sig, ok := calls[info.nr]
	if !ok || startsThread(tid, info) {
		return Call{}, false
	}
	c = Call{TID: tid, Name: sig.name, Args: info.args}
	dir, path := unix.AT_FDCWD, &c.Path
	for i, kind := range sig.args {
		switch arg := info.args[i]; kind {
		case 'd':
			dir = int(int32(arg))
		case 'p':
			*path = resolve(tid, dir, readString(tid, uintptr(arg)))
			path = &c.Path2
		case 'f':
			*path = descriptor(tid, int(int32(arg)))
			path = &c.Path2
		}
	}
	return c, true
}

// startsThread reports whether a call starts a thread. Go's runtime does so when
// it likes: nothing to stop at.
func startsThread(tid int, info callInfo) bool {
	switch info.nr {
	case unix.SYS_CLONE:
		return info.args[0]&unix.CLONE_THREAD != 0
	case unix.SYS_CLONE3: // struct clone_args begins with the flags
		var flags [8]byte
		return readMemory(tid, uintptr(info.args[0]), flags[:]) == len(flags) &&
			binary.NativeEndian.Uint64(flags[:])&unix.CLONE_THREAD != 0
	}
	return false
}

// resolve makes a path argument absolute. An empty one stands for the directory
// itself (AT_EMPTY_PATH).
func resolve(tid, dir int, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	base := descriptor(tid, dir)
	if path == "" {
		return base
	}
	return filepath.Join(base, path)
}

// descriptor returns the path of an open file of a thread, or of its working
// directory; "" if there is none.
func descriptor(tid, fd int) string {
	link := fmt.Sprintf("/proc/%d/fd/%d", tid, fd)
	if fd == unix.AT_FDCWD {
		link = fmt.Sprintf("/proc/%d/cwd", tid)
	}
	path, _ := os.Readlink(link)
	return path
}

// readString reads a path out of the memory of a thread; "" if there is none.
func readString(tid int, address uintptr) string {
	var buf [unix.PathMax]byte
	s, _, terminated := bytes.Cut(buf[:readMemory(tid, address, buf[:])], []byte{0})
	if !terminated {
		return ""
	}
	return string(s)
}

// readMemory reads up to a page, which may begin anywhere, and returns how many
// bytes there are: the next page may not exist.
func readMemory(tid int, address uintptr, buf []byte) int {
	first := min(len(buf), os.Getpagesize()-int(address)%os.Getpagesize())
	local := []unix.Iovec{{Base: &buf[0]}}
	local[0].SetLen(len(buf))
	n, err := unix.ProcessVMReadv(tid, local, []unix.RemoteIovec{
		{Base: address, Len: first}, {Base: address + uintptr(first), Len: len(buf) - first}}, 0)
	if err != nil {
		return 0
	}
	return n
}
