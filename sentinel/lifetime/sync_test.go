package lifetime

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Sync syncs the file that holds the code, and the directory. What the disk says shows that.
func TestSync(t *testing.T) {
	for _, c := range []struct {
		name, file, content string
	}{
		{"an end", "main-terminated", "3\n"},
		{"an end in place", "main-running", "3\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := newVolume(t)
			plant(t, dir+"/"+c.file, c.content)
			if err := Sync(Dir(dir), "main"); err != nil {
				t.Error(err)
			}
			failing := newHelper(t, refusing("syncs"))
			want := fmt.Sprintf("sync %s/%s: input/output error; sync %s: input/output error", dir, c.file, dir)
			if got := failing.ask("sync", dir, "main"); got != want {
				t.Errorf("where the disk fails it says %q, not %q", got, want)
			}
		})
	}
}

// Where there is nothing to sync, it says so. Nothing is opened but regular files.
func TestSyncOfNothing(t *testing.T) {
	dir := newVolume(t)
	if err := Sync(Dir(dir), "main"); err == nil || !strings.Contains(err.Error(), runningPath(dir, "main")) {
		t.Errorf("without any file it says %v", err)
	}
	if err := unix.Mkfifo(TerminatedPath(dir, "main"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := Sync(Dir(dir), "main"); err == nil || !strings.Contains(err.Error(), errIrregular.Error()) {
		t.Errorf("of a FIFO it says %v", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := Sync(Dir(dir), "main"); err == nil {
		t.Error("without a volume it says nothing")
	}
}

// A shim may have mounted the volume read-only.
func TestSyncOnAReadOnlyMount(t *testing.T) {
	dir := newVolume(t)
	plant(t, TerminatedPath(dir, "main"), "3\n")
	p, theirs, _ := mounted(t, "bind-ro", "-", dir)
	p.do("sync", theirs, "main")
}
