package ptrace

import (
	"maps"

	"golang.org/x/sys/unix"
)

// The calls that newer architectures do without.
func init() {
	maps.Copy(calls, map[uint64]signature{
		unix.SYS_OPEN:     {"open", "p"},
		unix.SYS_CREAT:    {"creat", "p"},
		unix.SYS_RENAME:   {"rename", "pp"},
		unix.SYS_LINK:     {"link", "pp"},
		unix.SYS_SYMLINK:  {"symlink", "-p"},
		unix.SYS_UNLINK:   {"unlink", "p"},
		unix.SYS_RMDIR:    {"rmdir", "p"},
		unix.SYS_MKDIR:    {"mkdir", "p"},
		unix.SYS_MKNOD:    {"mknod", "p"},
		unix.SYS_STAT:     {"stat", "p"},
		unix.SYS_LSTAT:    {"lstat", "p"},
		unix.SYS_READLINK: {"readlink", "p"},
		unix.SYS_ACCESS:   {"access", "p"},
		unix.SYS_CHMOD:    {"chmod", "p"},
		unix.SYS_CHOWN:    {"chown", "p"},
		unix.SYS_LCHOWN:   {"lchown", "p"},
		unix.SYS_DUP2:     {"dup2", "f"},
		unix.SYS_FORK:     {"fork", ""},
		unix.SYS_VFORK:    {"vfork", ""},
	})
}
