package cmd_test

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// TestClocksOfContainers: each container may have a monotonic clock of its own, with any time.
func TestClocksOfContainers(t *testing.T) {
	testenv.NeedRoot(t, "to make a time namespace")
	t.Parallel()
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		t.Fatal(err)
	}
	var monotonic unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &monotonic); err != nil {
		t.Fatal(err)
	}
	const century = 100 * 365 * 24 * 3600
	clock := func(monotonic, boot int64, argv []string) []string {
		flags := fmt.Sprintf("--time --monotonic %d --boottime %d --", monotonic, boot)
		return append(append([]string{"unshare"}, strings.Fields(flags)...), argv...)
	}
	if out, err := exec.Command("unshare", clock(1, 1, []string{"true"})[1:]...).CombinedOutput(); err != nil {
		t.Skipf("needs time namespaces: %v: %s", err, out)
	}
	young := []int64{-monotonic.Sec, -up.Sec} // as if the machine had just started
	old := []int64{century, century}
	for name, clocks := range map[string][2][]int64{
		"young and old": {young, old},
		"old and young": {old, young},
		"both young":    {young, young},
		"both old":      {old, old},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := testenv.FastVolume(t)
			command, open := gated(t, 3)
			argv := shim(dir, "--drain", "100ms")
			sidecar := drive.Start(t, clock(clocks[0][0], clocks[0][1], argv))
			sidecar.Await("sleep started")
			waitFor := drive.Wrap("sentinel", []string{"--dir", dir, "--wait-for", "file://" + dir}, command)
			main := drive.Start(t, clock(clocks[1][0], clocks[1][1], waitFor))
			main.Await("ready")
			sidecar.Await("main is running")
			open()
			main.Want(3)
			sidecar.Want(3)
		})
	}
}

// TestWallClock: a wall clock that is wrong, or jumps to and fro, changes nothing: neither with an end of an earlier
// run, nor with the dead file of a killed one, nor with the leftover of a killed Begin.
func TestWallClock(t *testing.T) {
	t.Parallel()
	programs := withoutVDSO(t)
	try := drive.Command("clock", "0", filepath.Join(programs, "shim"), "--version")
	if out, err := exec.Command(try[0], try[1:]...).CombinedOutput(); err != nil {
		t.Skipf("needs seccomp notifications: %v: %s", err, out)
	}
	for name, says := range map[string]string{
		"1970":              "0",
		"before 1970":       "-1000000",
		"2106":              "4294967290",
		"2262":              "9223372030",
		"1970 and 2262":     "0,9223372030",
		"now and tomorrow":  fmt.Sprintf("%d,%d", time.Now().Unix(), time.Now().Unix()+24*3600),
		"now and yesterday": fmt.Sprintf("%d,%d", time.Now().Unix(), time.Now().Unix()-24*3600),
	} {
		clock := func(argv []string) []string {
			program := filepath.Join(programs, filepath.Base(argv[0]))
			return drive.Command("clock", append([]string{says, program}, argv[1:]...)...)
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := testenv.FastVolume(t)
			testenv.Plant(t, filepath.Join(dir, "main-running"), "running\n")
			leftover := filepath.Join(dir, ".main-0123456789abcdef")
			testenv.Plant(t, leftover, "running\n")

			// The first attempt fails, the next is killed, the third succeeds.
			sidecar := drive.Start(t, clock(shim(dir, "--keep-on-failure", "--lost-after", "1h")))
			sidecar.Await("sleep started")
			command, open := gated(t, 3)
			first := drive.Start(t, clock(sentinel(dir, command)))
			sidecar.Await("main is running")
			open()
			first.Want(3)
			sidecar.Await("main exited 3")
			second := drive.Start(t, clock(sentinel(dir, neverEnding)))
			sidecar.AwaitCount("main is running", 2)
			second.Kill()
			second.Want(137)
			sidecar.Await("main was killed before it could record an exit code")
			command, open = gated(t, 0)
			third := drive.Start(t, clock(sentinel(dir, command)))
			third.Await("ready")
			open()
			third.Want(0)
			sidecar.Want(0)
			// A clock that is behind takes it for a file from the future, which is not removed.
			if _, err := os.Stat(leftover); err == nil {
				if err := os.Remove(leftover); err != nil {
					t.Fatal(err)
				}
			}
			testenv.WantListing(t, dir, `main-terminated="0\n" sidecar-terminated="0\n"`)
		})
	}
}

// withoutVDSO returns a directory with copies of both programs that get the time with a system call, which a test can
// answer. Without the change they would get it from the vDSO.
func withoutVDSO(t testing.TB) (directory string) {
	t.Helper()
	directory = t.TempDir()
	for _, program := range []string{"sentinel", "shim"} {
		image, err := os.ReadFile(drive.Program(program))
		if err != nil {
			t.Fatal(err)
		}
		symbol := []byte("__vdso_clock_gettime")
		if runtime.GOARCH == "arm64" {
			symbol = []byte("__kernel_clock_gettime")
		}
		if !bytes.Contains(image, symbol) {
			t.Fatalf("%s does not look for %s", program, symbol)
		}
		// There is no symbol of this name, so the program falls back to the system call.
		image = bytes.ReplaceAll(image, symbol, bytes.ToUpper(symbol))
		if err := os.WriteFile(filepath.Join(directory, program), image, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return directory
}

// wallClock is a mode that runs a program of withoutVDSO with another wall clock. When the program begins, the clock is
// at a number of seconds since 1970. With two numbers, the clock jumps from one to the other at each question.
//
//	clock SECONDS[,SECONDS] PROGRAM [ARG...]
func wallClock(args []string) int {
	var says []int64
	for _, word := range strings.Split(args[0], ",") {
		seconds, err := strconv.ParseInt(word, 10, 64)
		if err != nil {
			panic(err)
		}
		says = append(says, seconds)
	}
	// Only calls for the wall clock, not for the monotonic one.
	return runUnder(func(notify int) { answerClock(notify, says) }, args[1:],
		testenv.Notify(unix.SYS_CLOCK_GETTIME, testenv.Equal(0, unix.CLOCK_REALTIME)))
}

// answerClock answers every question for the wall clock.
func answerClock(notify int, says []int64) {
	const receive, send = 0xc0502100, 0xc0182101 // SECCOMP_IOCTL_NOTIF_RECV and _SEND
	began := time.Now()
	for n := 0; ; n++ {
		var asked struct { // struct seccomp_notif
			id         uint64
			pid, flags uint32
			nr         int32
			arch       uint32
			ip         uint64
			args       [6]uint64
		}
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(notify), receive, uintptr(unsafe.Pointer(&asked)))
		if errno == unix.EINTR || errno == unix.ENOENT { // the process that asked is dead
			continue
		}
		if errno != 0 {
			panic(errno)
		}
		since := time.Since(began)
		now := unix.Timespec{Sec: says[n%len(says)] + int64(since/time.Second), Nsec: int64(since % time.Second)}
		const size = int(unsafe.Sizeof(now))
		local := []unix.Iovec{{Base: (*byte)(unsafe.Pointer(&now))}}
		local[0].SetLen(size)
		remote := []unix.RemoteIovec{{Base: uintptr(asked.args[1]), Len: size}}
		if _, err := unix.ProcessVMWritev(int(asked.pid), local, remote, 0); err != nil && err != unix.ESRCH {
			panic(err)
		}
		response := struct { // struct seccomp_notif_resp
			id    uint64
			value int64
			err   int32
			flags uint32
		}{id: asked.id}
		_, _, errno = unix.Syscall(unix.SYS_IOCTL, uintptr(notify), send, uintptr(unsafe.Pointer(&response)))
		if errno != 0 && errno != unix.ENOENT {
			panic(errno)
		}
	}
}

// TestTimesOfFiles: a modification time that is very old or far in the future changes nothing.
func TestTimesOfFiles(t *testing.T) {
	t.Parallel()
	for name, at := range map[string]time.Time{
		"1970":        time.Unix(0, 0),
		"before 1970": time.Unix(-1_000_000, 0),
		"1901":        time.Unix(math.MinInt32, 0),
		"2038":        time.Unix(math.MaxInt32, 999_999_999),
		"2106":        time.Unix(math.MaxUint32, 0),
		"2446":        time.Unix(1<<34-1<<31-1, 0), // the last that ext4 has
	} {
		touch := func(t *testing.T, path string) {
			t.Helper()
			if err := os.Chtimes(path, at, at); err != nil {
				t.Fatal(err)
			}
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := testenv.FastVolume(t)
			dead := filepath.Join(dir, "main-running")
			testenv.Plant(t, dead, "running\n")
			touch(t, dead)
			for _, file := range []string{".main-0123456789abcdef", ".sidecar-0123456789abcdef"} {
				testenv.Plant(t, filepath.Join(dir, file), "running\n")
				touch(t, filepath.Join(dir, file))
			}
			// The shim gives a dead file up after --lost-after; under OnFailure it counts as stale.
			sidecar := drive.Start(t, shim(dir, "--restart-policy", "OnFailure", "--lost-after", "1s"))
			sidecar.Await("main is taken for running")
			sidecar.Await("in an earlier attempt")
			command, open := gated(t, 3)
			main := drive.Start(t, sentinel(dir, command))
			main.Await("ready")
			sidecar.Await("main is running")
			touch(t, dead) // the run is live now, and stays so
			open()
			main.Want(3)
			sidecar.Want(3)

			// An end with the same content and the same time is still the old one.
			end := filepath.Join(dir, "main-terminated")
			touch(t, end)
			sidecar = drive.Start(t, shim(dir, "--restart-policy", "OnFailure"))
			sidecar.Await("in an earlier attempt")
			sidecar.Await("sleep started")
			touch(t, end)
			testenv.Plant(t, end+".new", "4\n")
			touch(t, end+".new")
			if err := os.Rename(end+".new", end); err != nil {
				t.Fatal(err)
			}
			sidecar.Want(4)
			leftovers, err := filepath.Glob(filepath.Join(dir, ".*"))
			if err != nil || at.Before(time.Now()) && len(leftovers) > 0 {
				t.Errorf("%q are left (%v), want none", leftovers, err)
			}
		})
	}
}
