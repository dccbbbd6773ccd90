package terminationlog

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

func TestWrite(t *testing.T) {
	const line = "main exited 3"
	for _, c := range []struct {
		name, before, line, want string
	}{
		{"an empty file", "", line, line + "\n"},
		{"a file in which the command has said something", "out of disk", line, "out of disk"},
		{"even if it is only a newline", "\n", line, "\n"},
		{"several lines", "", "one\ntwo\nthree", "one; two; three\n"},
		{"more than Kubernetes reads", "", strings.Repeat("x", 5000), strings.Repeat("x", 4095) + "\n"},
		{"a cut within a character", "", strings.Repeat("x", 4094) + "ü", strings.Repeat("x", 4094) + "\n"},
		{"what is no text", "", "a\xffb", "ab\n"},
	} {
		path := filepath.Join(t.TempDir(), "termination-log")
		testenv.Plant(t, path, c.before)
		Write(path, c.line)
		if got, err := os.ReadFile(path); string(got) != c.want {
			t.Errorf("%s: the file holds %.60q (%d bytes), want %.60q (%d bytes); %v",
				c.name, got, len(got), c.want, len(c.want), err)
		}
	}
}

// TestWriteElsewhere: Write does not touch, and does not wait for, what is no regular file.
func TestWriteElsewhere(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }

	Write(path("missing"), "line")
	if _, err := os.Lstat(path("missing")); !os.IsNotExist(err) {
		t.Errorf("a file that was not there has been made (%v)", err)
	}

	testenv.Plant(t, path("target"), "")
	if err := os.Symlink(path("target"), path("link")); err != nil {
		t.Fatal(err)
	}
	Write(path("link"), "line")
	if got, err := os.ReadFile(path("target")); err != nil || len(got) > 0 {
		t.Errorf("a link has been followed: its target holds %q (%v)", got, err)
	}

	if err := unix.Mkfifo(path("fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	Write(path("fifo"), "line") // without a reader, to open it would block for ever
	Write(dir, "line")
}
