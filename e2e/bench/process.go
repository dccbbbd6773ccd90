package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long bench waits for anything but the sidecar's signal.
const patience = 20 * time.Second

// A command is a command line, with what it needs in its environment.
type command struct{ argv, env []string }

// A process is a wrapper that bench has started.
type process struct{ cmd *exec.Cmd }

// stage has the probes and everything that their measurement needs.
type stage struct {
	temp   string // for the stamps and the log, on memory
	probe  string // the program
	stamps *[slots]stamps
	log    *os.File // of all processes

	interrupts chan os.Signal
}

// newStage makes bench the reaper of everything that it starts, so that nothing is left at the end of a round.
func newStage(probe string) (*stage, error) {
	runtime.LockOSThread() // the death of the thread that starts a process is the death of its parent
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("become a subreaper: %w", err)
	}
	temp, err := os.MkdirTemp(memory(), "bench-")
	if err != nil {
		return nil, err
	}
	s := &stage{temp: temp, probe: probe, interrupts: make(chan os.Signal, 1)}
	signal.Notify(s.interrupts, os.Interrupt, syscall.SIGTERM)
	if s.stamps, err = mapStamps(filepath.Join(temp, "stamps")); err == nil {
		s.log, err = os.OpenFile(filepath.Join(temp, "log"), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	}
	if err != nil {
		os.RemoveAll(temp)
		return nil, err
	}
	return s, nil
}

func (s *stage) close() {
	s.endAll()
	s.log.Close()
	os.RemoveAll(s.temp)
}

// sleep fails if a signal asks bench to end.
func (s *stage) sleep(span time.Duration) error {
	select {
	case sig := <-s.interrupts:
		return errors.New(sig.String())
	case <-time.After(span):
		return nil
	}
}

// memory returns a directory in memory, or else the one for temporary files.
func memory() string {
	const shm = "/dev/shm"
	if unix.Access(shm, unix.W_OK) == nil {
		return shm
	}
	return os.TempDir()
}

// begin prepares a round and returns its volume, a new directory below parent. finish removes it, and ends what the
// round has left.
func (s *stage) begin(parent string) (volume string, finish func(), err error) {
	for i := range s.stamps {
		s.stamps[i].clear()
	}
	if err := s.log.Truncate(0); err != nil {
		return "", nil, err
	}
	volume, err = os.MkdirTemp(parent, "volume-")
	if err != nil {
		return "", nil, err
	}
	return volume, func() {
		s.endAll()
		os.RemoveAll(volume)
	}, nil
}

// role returns the command line of a probe.
func (s *stage) role(slot int, role ...string) []string {
	return append([]string{s.probe, filepath.Join(s.temp, "stamps"), strconv.Itoa(slot)}, role...)
}

// start starts a command. Its process group is its own, so that Ctrl-C reaches only bench.
func (s *stage) start(c command) (process, error) {
	cmd := exec.Command(c.argv[0], c.argv[1:]...)
	cmd.Stdout, cmd.Stderr = s.log, s.log
	cmd.Env = append(os.Environ(), c.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return process{}, err
	}
	return process{cmd}, nil
}

// wait waits for the end of a process, which it kills after some time. It returns the processor time of the process
// and of the children that it has waited for.
func (p process) wait(atMost time.Duration) (cpu time.Duration, killed bool) {
	timer := time.AfterFunc(atMost, func() { _ = p.cmd.Process.Kill() })
	_ = p.cmd.Wait() // what the command exits with does not matter
	used := p.cmd.ProcessState
	return used.UserTime() + used.SystemTime(), !timer.Stop()
}

// await waits until the probe in a slot has started.
func (s *stage) await(slot int) error {
	for deadline := time.Now().Add(patience); s.stamps[slot].started.Load() == 0; time.Sleep(200 * time.Microsecond) {
		if time.Now().After(deadline) {
			return s.failed("the wrapped command has not started within %s", patience)
		}
	}
	return nil
}

// failed returns an error with what the processes of the round have written.
func (s *stage) failed(format string, args ...any) error {
	text, err := os.ReadFile(s.log.Name())
	if err != nil {
		text = []byte(err.Error())
	}
	return fmt.Errorf("%s\n%s", fmt.Sprintf(format, args...), text)
}

// endAll kills all processes that have come from bench and are left, and reaps them.
func (s *stage) endAll() {
	for {
		for _, pid := range children(os.Getpid()) {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		if _, err := unix.Wait4(-1, nil, 0, nil); err == unix.ECHILD {
			return
		}
	}
}

// children returns the children of all threads of a process.
func children(pid int) (pids []int) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) // the pattern is valid
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			continue // the thread has ended
		}
		for _, field := range strings.Fields(string(text)) {
			if pid, err := strconv.Atoi(field); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}
