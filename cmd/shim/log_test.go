package main

import (
	"strings"
	"testing"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
)

// What a shim says of itself, at each level.

// TestFirstLine: a log shows who follows whom, and where, even if nothing else happens.
func TestFirstLine(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	p.begin("etl")
	s := p.shim("--main etl --main load", drive.Command("server", "TERM=0")...)
	s.Await(`"pid":`)
	first, _, _ := strings.Cut(s.Output(), "\n")
	for _, text := range []string{"follows etl, load on " + p.dir, `"version":`, `"name":"proxy"`, `"dir":"` + p.dir + `"`, `"mains":["etl","load"]`} {
		if !strings.Contains(first, text) {
			t.Errorf("the first line is %q, %q is not in it", first, text)
		}
	}
}

// TestLevels: debug tells each decision and what was seen then, trace each look as well.
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

// TestCodeFields: in every line, code is what the shim exits with.
func TestCodeFields(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	run := p.begin("main")
	s := p.shim("", drive.Command("server", "TERM=9")...)
	s.Await("ready")
	p.end(run, 3)
	s.Want(3)
	s.Await(`"main_code":3`)
	s.Await(`"sidecar_code":9`)
	s.Await(`"duration_seconds":`)
	wantNot(t, s, `"duration_seconds":9223372036`) // since the year 1
	if n := strings.Count(s.Output(), `"code":`); n != 1 {
		t.Errorf("%d lines have a code, not the last one only:\n%s", n, s.Output())
	}
	t.Run("no volume", func(t *testing.T) {
		p := pod{t, "/nowhere"}
		s := p.shim("", "sleep", "1000")
		s.Want(125)
		s.Await(`"code":125`)
	})
}

// TestMainNeverBegins: a wrong --main is told after ten seconds, with the runs that are there.
func TestMainNeverBegins(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	p.begin("migrate")
	p.record("haproxy-terminated", "0\n")
	s := p.shim("", drive.Command("server", "TERM=0")...)
	s.Await("main has not begun after 10s, the other runs on the volume are haproxy, migrate: ")
}
