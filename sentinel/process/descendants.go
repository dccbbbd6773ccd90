package process

import (
	"bytes"
	"os"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// The descendants of the command, in its process group and out of it. The kernel has no call
// that lists them, so they are read from /proc. Where /proc is missing, or belongs to another
// PID namespace, only the process group is known.

// procStat is what /proc/PID/stat says of a process (proc_pid_stat(5)).
type procStat struct {
	pid, parent, group int
	name               string // comm, at most 15 bytes
	zombie             bool
}

// readStat reads /proc/PID/stat.
func readStat(pid int) (st procStat, ok bool) {
	content, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return procStat{}, false
	}
	return parseStat(pid, content)
}

// parseStat parses the content of /proc/PID/stat: "PID (NAME) STATE PARENT GROUP …". NAME may contain
// anything, blanks and parentheses included.
func parseStat(pid int, content []byte) (st procStat, ok bool) {
	begin, end := bytes.IndexByte(content, '('), bytes.LastIndexByte(content, ')')
	if begin < 0 || end < begin {
		return procStat{}, false
	}
	fields := bytes.Fields(content[end+1:])
	if len(fields) < 3 {
		return procStat{}, false
	}
	parent, parentErr := strconv.Atoi(string(fields[1]))
	group, groupErr := strconv.Atoi(string(fields[2]))
	return procStat{
		pid: pid, parent: parent, group: group,
		name:   string(content[begin+1 : end]),
		zombie: fields[0][0] == 'Z' || fields[0][0] == 'X',
	}, parentErr == nil && groupErr == nil
}

// processes returns all processes that /proc shows. ok is false if /proc cannot be read, or
// does not show this process under its own pid.
func processes() (all []procStat, ok bool) {
	if self, err := os.Readlink("/proc/self"); err != nil || self != strconv.Itoa(os.Getpid()) {
		return nil, false
	}
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, false
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, false
	}
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			if st, ok := readStat(pid); ok {
				all = append(all, st)
			}
		}
	}
	return all, true
}

// descendants returns the descendants of this process that are not zombies.
func descendants() (living []procStat) {
	all, _ := processes()
	children := make(map[int][]procStat)
	for _, st := range all {
		children[st.parent] = append(children[st.parent], st)
	}
	for todo := []int{os.Getpid()}; len(todo) > 0; todo = todo[1:] {
		for _, child := range children[todo[0]] {
			todo = append(todo, child.pid)
			if !child.zombie {
				living = append(living, child)
			}
		}
	}
	return living
}

// groupLives reports whether the group has a process that is not a zombie, or may have one
// because /proc does not show it.
func groupLives(group int) bool {
	if unix.Kill(-group, 0) == unix.ESRCH {
		return false
	}
	all, ok := processes()
	return !ok || slices.ContainsFunc(all, func(st procStat) bool { return st.group == group && !st.zombie })
}

// groupEnded reports whether no process of the command's group is left that may be signalled.
// The error says that sig could not be sent to those that are left.
func (p *Process) groupEnded(sig syscall.Signal) (ended bool, err error) {
	p.mu.Lock()
	answer := p.killGroup(0)
	p.mu.Unlock()
	switch {
	case answer == unix.ESRCH || !groupLives(p.pid):
		return true, nil
	case answer == unix.EPERM:
		return true, p.explain(sig, "what "+p.name+" has started", answer)
	}
	return false, nil
}

// killGroup is kill(2) for the command's process group. The caller holds mu. Once the group
// is empty, it is never signalled again: its id may be another group's.
func (p *Process) killGroup(sig syscall.Signal) error {
	if p.groupEmpty {
		return unix.ESRCH
	}
	err := unix.Kill(-p.pid, sig)
	p.groupEmpty = err == unix.ESRCH && p.reaped
	return err
}

// signalGroup sends sig to every process of the command's group.
func (p *Process) signalGroup(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.killGroup(sig)
}

// signalTree sends sig to all descendants and returns their names. It signals the command's
// group as a whole, so that none escapes by a fork; with outsideOnly it leaves the group out.
func (p *Process) signalTree(sig syscall.Signal, outsideOnly bool) (names []string) {
	living := descendants()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !outsideOnly {
		_ = p.killGroup(sig)
	}
	for _, st := range living {
		if st.group == p.pid {
			p.recordRefusal(sig, st, unix.Kill(st.pid, 0))
		} else {
			// For microseconds there is a race: the pid may be another process's by now.
			p.recordRefusal(sig, st, unix.Kill(st.pid, sig))
		}
		names = append(names, st.name)
	}
	return names
}

// recordRefusal sets refused if err, the result of kill(2), means that the process may not be
// signalled. The caller holds mu.
func (p *Process) recordRefusal(sig syscall.Signal, st procStat, err error) {
	if err := p.explain(sig, st.name, err); err != nil {
		p.refused = err
	}
}

// onlyRefusedRemain returns the refusal if descendants are left and none may be signalled,
// and else nil.
func (p *Process) onlyRefusedRemain() error {
	p.mu.Lock()
	refused := p.refused
	p.mu.Unlock()
	if refused == nil {
		return nil
	}
	living := descendants()
	maySignal := func(st procStat) bool { return unix.Kill(st.pid, 0) != unix.EPERM }
	if len(living) == 0 || slices.ContainsFunc(living, maySignal) {
		return nil
	}
	return refused
}
