package drive

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Usage is what a process has used up to an instant, and what it holds then.
type Usage struct {
	At                        time.Time
	CPU                       time.Duration // of all its threads, also of those that have ended
	Files, Threads            int
	Resident, Peak, Anonymous int // KiB of memory: now, at most so far, now without the pages of files
}

// UsageOf returns the usage of a process: see proc_pid_stat(5) and proc_pid_status(5).
func UsageOf(t testing.TB, pid int) (u Usage) {
	t.Helper()
	proc := fmt.Sprintf("/proc/%d/", pid)
	stat, statErr := os.ReadFile(proc + "stat")
	status, statusErr := os.ReadFile(proc + "status")
	files, filesErr := os.ReadDir(proc + "fd")
	if err := errors.Join(statErr, statusErr, filesErr); err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	for _, field := range strings.Fields(rest)[11:13] { // utime and stime, in hundredths of a second
		ticks, err := strconv.Atoi(field)
		if err != nil {
			t.Fatalf("%q in %s", field, stat)
		}
		u.CPU += time.Duration(ticks) * 10 * time.Millisecond
	}
	for name, value := range map[string]*int{
		"Threads:": &u.Threads, "VmRSS:": &u.Resident, "VmHWM:": &u.Peak, "RssAnon:": &u.Anonymous,
	} {
		_, rest, _ := strings.Cut(string(status), name)
		if _, err := fmt.Sscan(rest, value); err != nil {
			t.Fatalf("no %s in %s", name, status)
		}
	}
	u.At, u.Files = time.Now(), len(files)
	return u
}

// Share returns the part of one processor's time that was used since before.
func (u Usage) Share(before Usage) float64 {
	return float64(u.CPU-before.CPU) / float64(u.At.Sub(before.At))
}
