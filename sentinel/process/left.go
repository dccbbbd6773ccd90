package process

import (
	"bytes"
	"os"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// What is left of a command: its descendants, in its process group and out of it. The
// kernel has no call for that, so they are looked for in /proc. Where that is missing, or
// is another PID namespace's, the process group is all that is known.

// relative is a process as /proc shows it.
type relative struct {
	pid, parent, group int
	name               string // comm, at most 15 bytes
	zombie             bool
}

// readStat reads /proc/PID/stat.
func readStat(pid int) (r relative, ok bool) {
	content, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return relative{}, false
	}
	return parseStat(pid, content)
}

// parseStat reads what proc_pid_stat(5) describes: "PID (NAME) STATE PARENT GROUP …", where NAME
// may have anything in it.
func parseStat(pid int, content []byte) (r relative, ok bool) {
	begin, end := bytes.IndexByte(content, '('), bytes.LastIndexByte(content, ')')
	if begin < 0 || end < begin {
		return relative{}, false
	}
	fields := bytes.Fields(content[end+1:])
	if len(fields) < 3 {
		return relative{}, false
	}
	parent, parentErr := strconv.Atoi(string(fields[1]))
	group, groupErr := strconv.Atoi(string(fields[2]))
	return relative{
		pid: pid, parent: parent, group: group,
		name:   string(content[begin+1 : end]),
		zombie: fields[0][0] == 'Z' || fields[0][0] == 'X',
	}, parentErr == nil && groupErr == nil
}

// processes are all that /proc shows. ok is false where it does not show this process
// under its own number.
func processes() (all []relative, ok bool) {
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
			if r, ok := readStat(pid); ok {
				all = append(all, r)
			}
		}
	}
	return all, true
}

// descendants are the processes below this one that are not zombies.
func descendants() (living []relative) {
	all, _ := processes()
	children := make(map[int][]relative)
	for _, r := range all {
		children[r.parent] = append(children[r.parent], r)
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

// groupLives reports whether a process of the group is left that is not a zombie.
func groupLives(group int) bool {
	if unix.Kill(-group, 0) == unix.ESRCH {
		return false
	}
	all, ok := processes()
	return !ok || slices.ContainsFunc(all, func(r relative) bool { return r.group == group && !r.zombie })
}

// groupEnded reports whether nothing of the command's group is left that may be signalled.
func (p *Process) groupEnded() bool {
	p.mu.Lock()
	err := p.killGroup(0)
	p.mu.Unlock()
	return err == unix.ESRCH || err == unix.EPERM || !groupLives(p.pid)
}

// killGroup is kill(2) for the command's process group. The caller holds mu. A group that
// is empty may be another's at any time, and is not asked again.
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

// signalLeft sends sig to all that is left of the command, and gives their names. The
// group is signalled as one, so that none slips through by a fork; unless that has been
// done before (outsideOnly).
func (p *Process) signalLeft(sig syscall.Signal, outsideOnly bool) (names []string) {
	left := descendants()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !outsideOnly {
		_ = p.killGroup(sig)
	}
	for _, r := range left {
		if r.group == p.pid {
			p.refuse(sig, r, unix.Kill(r.pid, 0))
		} else {
			// Its number could have been given away since, within microseconds.
			p.refuse(sig, r, unix.Kill(r.pid, sig))
		}
		names = append(names, r.name)
	}
	return names
}

// refuse remembers that a process may not be signalled. The caller holds mu.
func (p *Process) refuse(sig syscall.Signal, r relative, err error) {
	if err := p.explain(sig, r.name, err); err != nil {
		p.refused = err
	}
}

// onlyRefusedLeft is why nothing that is left may be signalled; nil if some of it may.
func (p *Process) onlyRefusedLeft() error {
	p.mu.Lock()
	refused := p.refused
	p.mu.Unlock()
	if refused == nil {
		return nil
	}
	left := descendants()
	if len(left) == 0 || slices.ContainsFunc(left, func(r relative) bool { return unix.Kill(r.pid, 0) != unix.EPERM }) {
		return nil
	}
	return refused
}
