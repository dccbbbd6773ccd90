package testenv

import (
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Rule is what the kernel does with a system call instead of executing it: see seccomp(2).
type Rule struct {
	call       uint32
	conditions []Condition
	verdict    uint32
}

// Condition is about one argument of a call, of which only the lower 32 bits count: with mask, it is from least
// to most.
type Condition struct {
	argument          int // from 0 on
	mask, least, most uint32
}

// Equal holds if an argument is value.
func Equal(argument int, value uint32) Condition { return Between(argument, value, value) }

// Between holds if an argument is from least to most.
func Between(argument int, least, most uint32) Condition {
	return Condition{argument, ^uint32(0), least, most}
}

// Lacks holds if an argument has none of the bits.
func Lacks(argument int, bits uint32) Condition { return Condition{argument, bits, 0, 0} }

// Refuse makes a call fail with errno if all conditions hold. With the errno 0, the call does nothing and
// succeeds.
func Refuse(call uint32, errno syscall.Errno, conditions ...Condition) Rule {
	return Rule{call, conditions, unix.SECCOMP_RET_ERRNO | uint32(errno)}
}

// Notify makes a call wait for an answer on the descriptor of ListenTo if all conditions hold.
func Notify(call uint32, conditions ...Condition) Rule {
	const userNotify = 0x7fc00000 // SECCOMP_RET_USER_NOTIF
	return Rule{call, conditions, userNotify}
}

// Install makes rules hold for all threads of this process and for what they execute. The first rule that fits
// a call counts.
func Install(rules ...Rule) error {
	_, err := install(unix.SECCOMP_FILTER_FLAG_TSYNC, rules)
	return err
}

// ListenTo makes rules hold for this thread, which has to be locked, and for its children. The kernel asks on the
// descriptor what becomes of calls that a Notify is about.
func ListenTo(rules ...Rule) (descriptor int, err error) {
	const newListener = 8 // SECCOMP_FILTER_FLAG_NEW_LISTENER
	return install(newListener, rules)
}

func install(flags uintptr, rules []Rule) (descriptor int, err error) {
	const numberAt, argumentsAt = 0, 16 // in struct seccomp_data
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	jump := func(test uint16, value uint32, yes, no int) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_K | test, K: value, Jt: uint8(yes), Jf: uint8(no)}
	}
	ret := func(verdict uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: verdict}
	}
	const perCondition = 4 // instructions
	var filter []unix.SockFilter
	for _, r := range rules {
		rest := perCondition*len(r.conditions) + 1 // of the instructions of this rule
		filter = append(filter, load(numberAt), jump(unix.BPF_JEQ, r.call, 0, rest))
		for _, c := range r.conditions {
			rest -= perCondition
			filter = append(filter,
				load(argumentsAt+8*uint32(c.argument)),
				unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: c.mask},
				jump(unix.BPF_JGE, c.least, 0, rest+1),
				jump(unix.BPF_JGT, c.most, rest, 0))
		}
		filter = append(filter, ret(r.verdict))
	}
	filter = append(filter, ret(unix.SECCOMP_RET_ALLOW))

	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return -1, err
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags,
		uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}
