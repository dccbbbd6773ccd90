package process

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

func TestParseStat(t *testing.T) {
	for content, want := range map[string]procStat{
		"7 (sh) S 1 6 5 0 -1\n":     {7, 1, 6, "sh", false},
		"7 (sh) Z 1 6 5\n":          {7, 1, 6, "sh", true},
		"7 (sh) X 1 6\n":            {7, 1, 6, "sh", true},
		"7 (a) b (c) R 2 1 6 5\n":   {7, 2, 1, "a) b (c", false},
		"7 () S 1 6":                {7, 1, 6, "", false},
		"(7 S 9 9) S 3 7 5":         {7, 3, 7, "7 S 9 9", false},
		"7 (Z) S 1 6":               {7, 1, 6, "Z", false},
		"7 (new\nline) S 1 6 5 4 3": {7, 1, 6, "new\nline", false},
	} {
		if got, ok := parseStat(7, []byte(content)); !ok || got != want {
			t.Errorf("parseStat(%q) = %+v, %v, want %+v", content, got, ok, want)
		}
	}
	for _, content := range []string{
		"", "7", "7 (sh", "7 sh) S 1 6", ")(", "7 )sh( S 1 6",
		"7 (sh)", "7 (sh) S", "7 (sh) S 1", "7 (sh) S x 6", "7 (sh) S 1 x",
	} {
		if got, ok := parseStat(7, []byte(content)); ok {
			t.Errorf("parseStat(%q) = %+v, want that it is none", content, got)
		}
	}
}

// TestReadStat: of this process, and of one that has ended.
func TestReadStat(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Base(self)
	want := procStat{os.Getpid(), os.Getppid(), syscall.Getpgrp(), name[:min(len(name), 15)], false}
	if got, ok := readStat(os.Getpid()); !ok || got != want {
		t.Errorf("this process is %+v, %v, want %+v", got, ok, want)
	}
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	if got, ok := readStat(ended.Process.Pid); ok {
		t.Errorf("a process that has ended is %+v", got)
	}
}
