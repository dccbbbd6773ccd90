//go:build linux && (amd64 || arm64)

package ptrace

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// record makes a file in the way of a run's Begin and End.
func record(args []string) {
	dir := args[0]
	must(os.Chdir(dir))
	private, running, terminated := filepath.Join(dir, ".main-0"), dir+"/./main-running", dir+"/main-terminated"
	fd, err := unix.Open(private, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	must(err)
	must(unix.Fchmod(fd, 0o644))
	_, err = unix.Write(fd, []byte("running\n"))
	must(err)
	must(unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}))
	must(unix.Renameat2(unix.AT_FDCWD, private, unix.AT_FDCWD, running, unix.RENAME_NOREPLACE))
	_, err = unix.Pwrite(fd, []byte("3\n"), 0)
	must(err)
	must(unix.Ftruncate(fd, 2))
	directory, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(err)
	must(unix.Linkat(directory, "main-running", directory, "main-terminated", 0))
	must(unix.Unlinkat(unix.AT_FDCWD, "main-running", 0))
	_, err = os.Lstat(terminated)
	must(err)
	must(os.Remove(terminated))
	must(unix.Fsync(fd))
	must(unix.Close(fd))
	_, err = os.Stat("/proc/self") // elsewhere
	must(err)
	if _, err := os.Lstat(terminated); !errors.Is(err, fs.ErrNotExist) {
		must(fmt.Errorf("%s: %w", terminated, err))
	}
}

func TestCalls(t *testing.T) {
	parallel(t)
	target := t.TempDir()
	link := filepath.Join(t.TempDir(), "volume")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	spec := self("record", link)
	spec.Returns = true
	var got []string
	result := run(t, spec, Touching(link), func(_ *Tracee, c Call) {
		got = append(got, strings.NewReplacer(link, "LINK", target, "REAL").Replace(c.String()))
	})
	var want []string
	for i, call := range [][2]string{
		{"chdir(LINK)", "0"},
		{"openat(LINK/.main-0)", "fd"},
		{"fchmod(REAL/.main-0)", "0"},
		{"write(REAL/.main-0)", "8"},
		{"fcntl(REAL/.main-0)", "0"},
		{"renameat2(LINK/.main-0, LINK/main-running)", "0"},
		{"pwrite64(REAL/main-running)", "2"},
		{"ftruncate(REAL/main-running)", "0"},
		{"openat(LINK)", "fd"},
		{"linkat(REAL/main-running, REAL/main-terminated)", "0"},
		{"unlinkat(REAL/main-running)", "0"},
		{"newfstatat(LINK/main-terminated)", "0"},
		{"unlinkat(LINK/main-terminated)", "0"},
		{"fsync(REAL/main-terminated (deleted))", "0"},
		{"close(REAL/main-terminated (deleted))", "0"},
		{"newfstatat(LINK/main-terminated)", "no such file or directory"},
	} {
		entry := fmt.Sprintf("#%d %s", i+1, call[0])
		want = append(want, entry, entry+" = "+call[1])
	}
	// The number of a descriptor may differ, and so may the name that the kernel reports for a file that had two.
	for i, s := range got {
		if strings.Contains(s, "openat") && i%2 == 1 {
			got[i] = s[:strings.LastIndex(s, " ")] + " fd"
		}
		got[i] = strings.Replace(got[i], "REAL/main-running (deleted)", "REAL/main-terminated (deleted)", 1)
	}
	if !slices.Equal(got, want) {
		t.Errorf("the calls were\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
	if want := (Result{Calls: len(want) / 2}); result != want {
		t.Errorf("result %+v, want %+v", result, want)
	}
}

// step makes the directories 1 to n, one after the other.
func step(args []string) {
	n, err := strconv.Atoi(args[1])
	must(err)
	for i := 1; i <= n; i++ {
		must(os.Mkdir(filepath.Join(args[0], strconv.Itoa(i)), 0o700))
	}
}

// A program killed at call i has made the calls before it, and no other.
func TestKillAtEachCall(t *testing.T) {
	parallel(t)
	const n = 10
	dir := t.TempDir()
	r := run(t, self("step", dir, strconv.Itoa(n)), Touching(dir), nil)
	if r != (Result{Calls: n}) || count(t, dir) != n {
		t.Fatalf("undisturbed: %+v and %d directories, want %d of both", r, count(t, dir), n)
	}
	for i := 1; i <= n; i++ {
		dir := t.TempDir()
		r := run(t, self("step", dir, strconv.Itoa(n)), Touching(dir), func(p *Tracee, c Call) {
			if got := count(t, dir); got != c.N-1 {
				t.Errorf("at call %s: %d directories", c, got)
			}
			if c.N == i {
				if err := p.Kill(); err != nil {
					t.Error(err)
				}
			}
		})
		if want := (Result{Calls: i, ExitCode: -1, Signal: syscall.SIGKILL}); r != want || count(t, dir) != i-1 {
			t.Errorf("killed at call %d: %+v and %d directories, want %+v and %d", i, r, count(t, dir), want, i-1)
		}
	}
}

// handle handles signals, makes directories, and ends by the first signal it gets:
// exits with its number plus 100.
func handle(args []string) {
	c := make(chan os.Signal, 100)
	signal.Notify(c, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGCONT)
	step(args)
	sig := (<-c).(syscall.Signal)
	must(os.Mkdir(filepath.Join(args[0], "end"), 0o700))
	if len(c) > 0 {
		must(fmt.Errorf("another signal: %v", <-c))
	}
	os.Exit(100 + int(sig))
}

// A signal sent at call i arrives once, with its number; the calls go on.
func TestSignalAtEachCall(t *testing.T) {
	parallel(t)
	const n = 5
	for i := 1; i <= n; i++ {
		for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGUSR1} {
			dir := t.TempDir()
			r := run(t, self("handle", dir, strconv.Itoa(n)), Touching(dir), func(p *Tracee, c Call) {
				if c.N == i {
					if err := p.Signal(sig); err != nil {
						t.Error(err)
					}
				}
			})
			if want := (Result{Calls: n + 1, ExitCode: 100 + int(sig)}); r != want {
				t.Errorf("%v at call %d: %+v, want %+v", sig, i, r, want)
			}
		}
	}
	// Nobody handles it.
	dir := t.TempDir()
	r := run(t, self("step", dir, "1000"), Touching(dir), func(p *Tracee, c Call) {
		if c.N == 3 {
			p.Signal(syscall.SIGTERM)
		}
	})
	if r.Signal != syscall.SIGTERM || r.ExitCode != -1 || r.Calls == 1000 {
		t.Errorf("SIGTERM that is not handled: %+v", r)
	}
}

// A stopped program stays so until it is continued, as if nobody traced it.
func TestStopAndContinue(t *testing.T) {
	parallel(t)
	const n = 1000
	for _, sig := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGTSTP} {
		dir := t.TempDir()
		var seen atomic.Int64
		stopped := make(chan int64, 1)
		r := run(t, self("step", dir, strconv.Itoa(n)), Touching(dir), func(p *Tracee, c Call) {
			seen.Add(1)
			if c.N != 10 {
				return
			}
			if err := p.Signal(sig); err != nil {
				t.Error(err)
			}
			go func() {
				// Time enough for a program that goes on to make all its calls.
				time.Sleep(300 * time.Millisecond)
				stopped <- seen.Load()
				p.Signal(syscall.SIGCONT)
			}()
		})
		if at := <-stopped; at == n {
			t.Errorf("%v at call 10: the program went on to its end", sig)
		}
		if want := (Result{Calls: n}); r != want {
			t.Errorf("%v, then SIGCONT: %+v, want %+v", sig, r, want)
		}
	}
}

// exit ends with a code, or by a signal.
func exit(args []string) {
	n, err := strconv.Atoi(args[1])
	must(err)
	if args[0] == "code" {
		os.Exit(n)
	}
	must(unix.Kill(os.Getpid(), syscall.Signal(n)))
	unix.Pause()
}

func TestResult(t *testing.T) {
	parallel(t)
	for _, code := range []int{0, 1, 124, 255} {
		r := run(t, self("exit", "code", strconv.Itoa(code)), Touching("/none"), nil)
		if r != (Result{ExitCode: code}) {
			t.Errorf("exit with %d: %+v", code, r)
		}
	}
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGINT} {
		r := run(t, self("exit", "signal", strconv.Itoa(int(sig))), Touching("/none"), nil)
		if r != (Result{ExitCode: -1, Signal: sig}) {
			t.Errorf("ended by %v: %+v", sig, r)
		}
	}
}

// What a run costs beside the program's own time.
func BenchmarkRun(b *testing.B) {
	dir := b.TempDir()
	for b.Loop() {
		if _, err := Run(b.Context(), self("exit", "code", "0"), Touching(dir), nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUntraced(b *testing.B) {
	for b.Loop() {
		if err := untraced("exit", "code", "0").Run(); err != nil {
			b.Fatal(err)
		}
	}
}
