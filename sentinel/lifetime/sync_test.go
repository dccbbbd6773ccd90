package lifetime

import (
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// Sync syncs the file that holds the code, and the directory. The errors of a failing disk show that.
func TestSync(t *testing.T) {
	for _, c := range []struct {
		name, file, content string
	}{
		{"an end", "main-terminated", "3\n"},
		{"an end in place", "main-running", "3\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := testenv.Volume(t)
			testenv.Plant(t, dir+"/"+c.file, c.content)
			if err := Sync(Dir(dir), "main"); err != nil {
				t.Error(err)
			}
			failing := newHelper(t, refusing("syncs"))
			want := fmt.Sprintf("sync %s/%s: input/output error; sync %s: input/output error", dir, c.file, dir)
			if got := failing.ask("sync", dir, "main"); got != want {
				t.Errorf("on a failing disk Sync returned %q, not %q", got, want)
			}
		})
	}
}

// Sync fails if there is nothing to sync. It opens only regular files.
func TestSyncOfNothing(t *testing.T) {
	dir := testenv.Volume(t)
	if err := Sync(Dir(dir), "main"); err == nil || !strings.Contains(err.Error(), runningPath(dir, "main")) {
		t.Errorf("without any file Sync returned %v", err)
	}
	if err := unix.Mkfifo(TerminatedPath(dir, "main"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := Sync(Dir(dir), "main"); err == nil || !strings.Contains(err.Error(), errIrregular.Error()) {
		t.Errorf("for a FIFO Sync returned %v", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := Sync(Dir(dir), "main"); err == nil || !strings.Contains(err.Error(), "open "+dir+": no such file") {
		t.Errorf("without a volume Sync returned %v", err)
	}
}

// Sync leaves no file open: a shim lives on.
func TestSyncCloses(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // which would close what is left open
	dir := testenv.Volume(t)
	testenv.Plant(t, TerminatedPath(dir, "main"), "3\n")
	open := func() int {
		files, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(files)
	}
	const times = 20
	before := open()
	for range times {
		if err := Sync(Dir(dir), "main"); err != nil {
			t.Fatal(err)
		}
	}
	if after := open(); after >= before+times {
		t.Errorf("%d files are open, and %d were", after, before)
	}
}

// Sync works on a read-only mount, which a shim may have.
func TestSyncOnAReadOnlyMount(t *testing.T) {
	dir := testenv.Volume(t)
	testenv.Plant(t, TerminatedPath(dir, "main"), "3\n")
	h, theirs, _ := mounted(t, "bind-ro", "-", dir)
	h.do("sync", theirs, "main")
}
