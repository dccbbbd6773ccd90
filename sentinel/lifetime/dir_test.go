package lifetime

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// A volume is full if it has blocks, and none is free.
func TestFull(t *testing.T) {
	t.Run("one block", func(t *testing.T) {
		_, _, ours := mounted(t, "tmpfs", "size=4k")
		if Dir(ours).Full() {
			t.Error("an empty volume counts as full")
		}
		testenv.FillBlocks(t, ours)
		if !Dir(ours).Full() {
			t.Error("a full volume does not count as full")
		}
	})
	t.Run("no blocks at all", func(t *testing.T) {
		if _, _, ours := mounted(t, "tmpfs", "size=0"); Dir(ours).Full() {
			t.Error("a volume without a limit counts as full")
		}
	})
	t.Run("no volume", func(t *testing.T) {
		if (Dir(testenv.Volume(t)) + "/none").Full() {
			t.Error("a volume that is not there counts as full")
		}
	})
}

// Whoever has the directory's lock keeps others from it, but not for longer than they want to wait.
func TestLock(t *testing.T) {
	patience := 10 * retryEvery
	dir := Dir(testenv.Volume(t))
	first := dir.Lock(patience)
	began := time.Now()
	dir.Lock(patience)()
	if waited := time.Since(began); waited < patience {
		t.Errorf("a lock that another has was waited for only for %s", waited)
	}
	first()
	second := make(chan func())
	third := dir.Lock(time.Hour)
	go func() { second <- dir.Lock(time.Hour) }()
	select {
	case <-second:
		t.Error("a lock that another has is granted")
	case <-time.After(patience):
	}
	third()
	select {
	case unlock := <-second:
		unlock()
	case <-time.After(testTimeout):
		t.Fatal("a lock that nobody has is not granted")
	}
	(dir + "/none").Lock(time.Hour)() // there is no such lock
}

// Open follows no link, not even to a regular file.
func TestOpenFollowsNoLink(t *testing.T) {
	dir := testenv.Volume(t)
	testenv.Plant(t, dir+"/file", "")
	if err := os.Symlink("file", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	if _, err := Dir(dir).Open("link", false); !errors.Is(err, unix.ELOOP) {
		t.Errorf("Open of a link: %v", err)
	}
}

// Where the kernel has no rename that spares what is there, a link does the same. Other errors stay.
func TestRenameUnknown(t *testing.T) {
	for refused, want := range map[string]string{
		"renameat2-unknown": "ok", "renameat2-none": "ok", "renameat2-broken": unix.EIO.Error(),
	} {
		dir, h := testenv.Volume(t), newHelper(t, refusing(refused))
		if answer := h.ask("begin", dir, "main"); !strings.Contains(answer, want) {
			t.Errorf("without renameat2 (%s) Begin returned %q, not %q", refused, answer, want)
		}
	}
}

// When a Tick has been stopped, its function is not running any more, and never will.
func TestTickStops(t *testing.T) {
	runs, goOn, stopped := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var calls atomic.Int64
	started := sync.OnceFunc(func() { close(runs) })
	stop := Dir("").Tick(time.Millisecond, func() {
		calls.Add(1)
		started()
		<-goOn
	})
	<-runs
	go func() {
		stop()
		close(stopped)
	}()
	select {
	case <-stopped:
		t.Error("stop has returned while the function was running")
	case <-time.After(20 * time.Millisecond):
	}
	close(goOn)
	select {
	case <-stopped:
	case <-time.After(testTimeout):
		t.Fatal("stop has not returned")
	}
	time.Sleep(20 * time.Millisecond) // not a wait for anything: nothing is to happen
	if n := calls.Load(); n != 1 {
		t.Errorf("the function has run %d times", n)
	}
}

// A watcher that gets no watch keeps no inotify instance either: a user has few.
func TestNoWatchNoInstance(t *testing.T) {
	dir, watcher := testenv.Volume(t), newHelper(t, refusing("inotify-watches"))
	watcher.send("watch", dir, "main")
	for _, want := range []string{"warning: inotify", "not started"} {
		if line := watcher.receive(); !strings.HasPrefix(line, want) {
			t.Fatalf("the watcher reports %q, not %q", line, want)
		}
	}
	fds := fmt.Sprintf("/proc/%d/fd/", watcher.cmd.Process.Pid)
	files, err := os.ReadDir(fds)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if target, _ := os.Readlink(fds + f.Name()); strings.Contains(target, "inotify") {
			t.Errorf("descriptor %s is %s", f.Name(), target)
		}
	}
}
