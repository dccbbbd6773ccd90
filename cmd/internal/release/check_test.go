package main

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The tests of this file and of foreign_test.go need a real release: make release-check. They compile the standard
// library for other machines, which takes minutes.

// needRelease skips the test if there is no real release.
func needRelease(t *testing.T) {
	t.Helper()
	if *dist == "" {
		t.Skip("needs a release: make release-check")
	}
}

// sources are what a release is built from.
var sources = []string{"go.mod", "go.sum", "cmd", "sentinel", "shim", "Dockerfile", "LICENSE", "README.md"}

// copySources copies what a release is built from into a directory.
func copySources(t *testing.T, into string) {
	t.Helper()
	for _, name := range sources {
		from, to := filepath.Join(root, name), filepath.Join(into, name)
		info, err := os.Stat(from)
		if err != nil {
			t.Fatal(err)
		}
		if info.IsDir() {
			err = os.CopyFS(to, os.DirFS(from))
		} else {
			err = os.WriteFile(to, readFile(t, from), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestReproducible builds the release once more, in another directory and with nothing in Go's build cache, and gets
// the same bytes.
func TestReproducible(t *testing.T) {
	needRelease(t)
	elsewhere := t.TempDir()
	copySources(t, elsewhere)
	t.Setenv("GOCACHE", t.TempDir())
	again := filepath.Join(elsewhere, "again")
	r := release{version: *version, root: elsewhere, dir: again}
	if err := r.build(strings.Join(platformNames(), ",")); err != nil {
		t.Fatal(err)
	}
	first, second := sums(t, *dist), sums(t, again)
	for name, sum := range first {
		if second[name] != sum {
			t.Errorf("%s: the SHA-256 is %s, and built again %q", name, sum, second[name])
		}
		delete(second, name)
	}
	if len(second) > 0 {
		t.Errorf("only the second build has %v", second)
	}
	t.Logf("%d files are equal", len(first))
}

// TestOnlyForLinux: a build for another system ends with one line for each program that says why.
func TestOnlyForLinux(t *testing.T) {
	needRelease(t)
	for _, name := range programs {
		cmd := exec.Command("go", "build", "-o", os.DevNull, "./cmd/"+name)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "GOOS=darwin", "CGO_ENABLED=0")
		out, err := cmd.CombinedOutput()
		lines := slices.DeleteFunc(strings.Split(strings.TrimSpace(string(out)), "\n"), func(line string) bool {
			return strings.HasPrefix(line, "# ") // the name of the package
		})
		want := "undefined: " + name + "_runs_on_Linux_only__build_it_with_GOOS_linux"
		if err == nil || len(lines) != 1 || !strings.HasSuffix(lines[0], want) {
			t.Errorf("GOOS=darwin go build ./cmd/%s: %v: %s\nwant one line with %q", name, err, out, want)
		}
	}
}

// TestBuildOnAnotherSystem: where Go's default is another system, as on a Mac, cmd/build builds for Linux.
func TestBuildOnAnotherSystem(t *testing.T) {
	needRelease(t)
	dir := t.TempDir()
	settings := filepath.Join(dir, "env")
	if err := os.WriteFile(settings, []byte("GOOS=darwin\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("cmd/build", dir)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "GOENV="+settings, "GOOS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cmd/build: %v\n%s", err, out)
	}
	for _, name := range programs {
		f, err := elf.NewFile(bytes.NewReader(readFile(t, dir, name)))
		if err != nil {
			t.Errorf("%s is no program for Linux: %v", name, err)
			continue
		}
		if f.Section(".interp") != nil {
			t.Errorf("%s is not static", name)
		}
	}
}
