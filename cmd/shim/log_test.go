package main

import (
	"strings"
	"testing"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
)

// These tests are about the log of a shim.

// TestFirstLine: the first line shows which mains the shim follows, and on which volume.
func TestFirstLine(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	p.begin("etl")
	s := p.shim("--main etl --main load", drive.Command("server", "TERM=0")...)
	s.Await(`"pid":`)
	first, _, _ := strings.Cut(s.Output(), "\n")
	for _, text := range []string{
		"follows etl, load on " + p.dir,
		`"version":`, `"name":"proxy"`, `"dir":"` + p.dir + `"`, `"mains":["etl","load"]`,
	} {
		if !strings.Contains(first, text) {
			t.Errorf("the first line does not contain %q: %s", text, first)
		}
	}
}

// TestLevels: debug has each decision with what the shim saw, trace also each look.
func TestLevels(t *testing.T) {
	t.Parallel()
	const decision, look = `"seen":["main ended 3"],`, `"nothing to do"`
	for _, c := range []struct {
		level     string
		want, not []string
	}{
		{"info", []string{"main exited 3"}, []string{decision, look}},
		{"debug", []string{decision, "from up to confirming"}, []string{look}},
		{"trace", []string{decision, look}, nil},
	} {
		t.Run(c.level, func(t *testing.T) {
			t.Parallel()
			p := newPod(t)
			s := p.shim("--log-level "+c.level, drive.Command("server", "TERM=0")...)
			s.Await("ready")
			run := p.begin("main")
			s.Await("main is running")
			p.end(run, 3)
			s.Want(3)
			for _, text := range c.want {
				s.Await(text)
			}
			for _, text := range c.not {
				wantNot(t, s, text)
			}
		})
	}
}

// TestCodeFields: in every line, code is the exit code of the shim.
func TestCodeFields(t *testing.T) {
	t.Parallel()
	p, run, s := withServer(t, "", "TERM=9")
	p.end(run, 3)
	s.Want(3)
	s.Await(`"main_code":3`)
	s.Await(`"sidecar_code":9`)
	s.Await(`"duration_seconds":`)
	wantNot(t, s, `"duration_seconds":9223372036`) // the time since a zero time.Time
	if n := strings.Count(s.Output(), `"code":`); n != 1 {
		t.Errorf("%d lines have a code, not only the last one:\n%s", n, s.Output())
	}
	t.Run("no volume", func(t *testing.T) {
		p := pod{t, "/nowhere"}
		s := p.shim("", "sleep", "1000")
		s.Want(125)
		s.Await(`"code":125`)
	})
}

// TestMainNeverBegins: if main has not begun after 10 s, the log lists the runs on the volume: --main may be wrong.
func TestMainNeverBegins(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	p.begin("migrate")
	p.record("haproxy-terminated", "0\n")
	s := p.shim("", drive.Command("server", "TERM=0")...)
	s.Await("main has not begun after 10s, the other runs on the volume are haproxy, migrate: ")
}
