package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// simulation names the layer of the simulated pods, whose tests are in package shim.
const (
	simulation      = "the simulation"
	simulationTests = "Schedule|Defects"
	simulationDir   = "shim"
)

// tested are the packages that decide something, each with the layers that come after its own
// tests: the packages that drive programs which it is in, and the simulation if that runs through
// it. The quick ones come first.
var tested = []struct {
	dir    string
	layers []string
}{
	{"sentinel/lifetime", []string{"cmd/sentinel", "cmd/shim", simulation, "cmd"}},
	{"sentinel/process", []string{"cmd/sentinel", "cmd/shim", "cmd"}},
	{"sentinel/probe", []string{"cmd/sentinel"}},
	{"sentinel", []string{"cmd/sentinel", simulation, "cmd"}},
	{"shim", []string{"cmd/shim", simulation, "cmd"}},
	{"cmd/internal/app", []string{"cmd/sentinel", "cmd/shim", "cmd"}},
}

// layer is a number of tests, run by one call of go test.
type layer struct {
	name string
	args []string // of go test
	// drives: the tests drive programs, so that much depends on time.
	drives bool

	once  sync.Once
	took  time.Duration // with the unmutated code
	cpu   time.Duration // the same, of the processors
	fault error         // why the unmutated code did not pass
}

// lab runs tests on mutants.
type lab struct {
	root    string // of the module
	cache   string // a build cache that holds the unmutated code
	flags   string // GOFLAGS without ours
	scratch string // for all that lives as long as the lab
	memory  string // the same in memory; empty where there is no such place
	benches atomic.Int64

	layers  map[string]*layer
	killers *killers
}

// newLab prepares a lab that keeps its build cache in a directory.
func newLab(root, cache string) (*lab, error) {
	l := &lab{root: root, layers: make(map[string]*layer)}
	var err error
	if l.cache, err = filepath.Abs(cache); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(l.cache, 0o777); err != nil {
		return nil, err
	}
	if l.killers, err = openKillers(l.cache + ".killers"); err != nil {
		return nil, err
	}
	flags, err := exec.Command("go", "env", "GOFLAGS").Output()
	if err != nil {
		return nil, fmt.Errorf("go env GOFLAGS: %w", err)
	}
	l.flags = strings.TrimSpace(string(flags))
	// A short path: tests have sockets below it (unix(7): 108 bytes).
	if l.scratch, err = os.MkdirTemp("", "m"); err != nil {
		return nil, err
	}
	err = os.Chmod(l.scratch, 0o755) // tests run programs as other users
	if memory, none := os.MkdirTemp("/dev/shm", "m"); none == nil {
		l.memory, err = memory, errors.Join(err, os.Chmod(memory, 0o755))
	}
	return l, err
}

func (l *lab) close() {
	l.killers.file.Close()
	os.RemoveAll(l.scratch)
	if l.memory != "" {
		os.RemoveAll(l.memory)
	}
}

// layersOf returns the layers for a package, in their order.
func (l *lab) layersOf(dir string) (layers []*layer) {
	add := func(name string, drives bool, args ...string) {
		if l.layers[name] == nil {
			l.layers[name] = &layer{name: name, args: args, drives: drives}
		}
		layers = append(layers, l.layers[name])
	}
	add(dir, false, "-skip", simulationTests, "./"+dir)
	for _, p := range tested {
		if p.dir != dir {
			continue
		}
		for _, name := range p.layers {
			if name == simulation {
				add(name, false, "-run", simulationTests, "./"+simulationDir)
			} else {
				add(name, true, "./"+name)
			}
		}
	}
	return layers
}

// verdict is what has become of a mutant.
type verdict struct {
	mutant
	killedBy string // empty: it has survived
	// doubts are the tests that have failed once, and passed when they were repeated.
	doubts []string
	took   time.Duration
	err    error // there is no verdict
}

// try runs the layers until one kills the mutant.
func (l *lab) try(ctx context.Context, m mutant, content []byte, layers []*layer) (v verdict) {
	v.mutant = m
	start := time.Now()
	defer func() { v.took = time.Since(start) }()
	bench, err := l.newBench(m, content)
	if err != nil {
		v.err = err
		return v
	}
	defer bench.close()
	killer := l.killers.of(m)
	for _, layer := range layers {
		if layer.name == killer.Layer && l.decide(ctx, &v, bench, layer, killer.Test) {
			return v
		}
	}
	for _, layer := range layers {
		if l.decide(ctx, &v, bench, layer, "") {
			return v
		}
	}
	return v
}

// decide runs a layer, or one test of it, and reports whether that decides what becomes of the
// mutant.
func (l *lab) decide(ctx context.Context, v *verdict, bench *bench, layer *layer, test string) bool {
	layer.once.Do(func() { l.calibrate(ctx, layer) })
	if v.err = layer.fault; v.err != nil {
		return true
	}
	// A mutant may make the tests wait in vain, or work without end. The first costs little,
	// and is not to be mistaken for a busy machine.
	limits := limits{wall: 5*layer.took + 30*time.Second, cpu: 2*layer.cpu + 10*time.Second}
	run := func(test string) (r result) {
		args := layer.args
		if test != "" {
			args = append(slices.Clone(args), "-run", "^"+test+"$")
		}
		r, v.err = bench.test(ctx, limits, args...)
		return r
	}
	r := run(test)
	if v.err == nil && r.test != "" && layer.drives && run(r.test).failed == "" && v.err == nil {
		v.doubts = append(v.doubts, r.test)
		return false
	}
	if v.err == nil && r.failed != "" {
		v.killedBy = r.failed
		v.err = l.killers.add(v.mutant, layer, r.test)
	}
	return v.err != nil || v.killedBy != ""
}

// calibrate runs a layer on the unmutated code.
func (l *lab) calibrate(ctx context.Context, layer *layer) {
	bench, err := l.newBench(mutant{}, nil)
	if err != nil {
		layer.fault = err
		return
	}
	defer bench.close()
	start := time.Now()
	result, err := bench.test(ctx, limits{20 * time.Minute, time.Hour}, layer.args...)
	layer.took, layer.cpu, layer.fault = time.Since(start), result.cpu, err
	if result.failed != "" {
		layer.fault = fmt.Errorf("the code fails without a mutant: %s\n%s", result.failed, result.output)
	}
}

// bench is what a mutant is tried on.
type bench struct {
	lab         *lab
	tmp, memory string // removed with it: tests that are cut off leave much behind
	cache       string
	env         []string
}

// newBench makes one for a mutant, or for the unmutated code if content is nil.
func (l *lab) newBench(m mutant, content []byte) (b *bench, err error) {
	number := strconv.FormatInt(l.benches.Add(1), 10)
	b = &bench{lab: l, cache: l.cache, tmp: filepath.Join(l.scratch, number)}
	b.env = append(os.Environ(), "TMPDIR="+b.tmp)
	err = errors.Join(os.Mkdir(b.tmp, 0o777), os.Chmod(b.tmp, 0o777)) // whatever the umask is
	if l.memory != "" {
		b.memory = filepath.Join(l.memory, number)
		b.env = append(b.env, "TEST_MEMORY="+b.memory)
		err = errors.Join(err, os.Mkdir(b.memory, 0o777))
	}
	if content != nil && err == nil {
		err = b.overlay(m, content)
	}
	if err != nil {
		b.close()
		return nil, err
	}
	b.env = append(b.env, "GOCACHE="+b.cache)
	return b, nil
}

// overlay has every build see the mutant's file, also the builds that tests do. What they
// leave in the cache is of no use later: they get links to all that is in it.
func (b *bench) overlay(m mutant, content []byte) error {
	file, table := filepath.Join(b.tmp, "mutant.go"), filepath.Join(b.tmp, "overlay.json")
	text, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(b.lab.root, m.file): file}})
	if err != nil {
		return err
	}
	if err := errors.Join(os.WriteFile(file, content, 0o644), os.WriteFile(table, text, 0o644)); err != nil {
		return err
	}
	b.env = append(b.env, "GOFLAGS="+strings.TrimSpace(b.lab.flags+" -overlay="+table))
	if b.cache, err = os.MkdirTemp(filepath.Dir(b.lab.cache), "cache-"); err != nil {
		return err
	}
	return filepath.WalkDir(b.lab.cache, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := filepath.Join(b.cache, strings.TrimPrefix(path, b.lab.cache))
		if d.IsDir() {
			return os.MkdirAll(to, 0o777)
		}
		return os.Link(path, to)
	})
}

func (b *bench) close() {
	os.RemoveAll(b.tmp)
	if b.memory != "" {
		os.RemoveAll(b.memory)
	}
	if b.cache != b.lab.cache {
		os.RemoveAll(b.cache)
	}
}

// result is what has come of a call of go test.
type result struct {
	failed string // what has failed, for people; empty: nothing
	test   string // the test that has failed, if it was one
	output string // the last lines of that test; or, where no test has failed, of all else
	cpu    time.Duration
}

// limits are what a call of go test may take: as a whole, and each process of it of a processor.
type limits struct{ wall, cpu time.Duration }

// test calls go test, until something fails. No process is left then.
func (b *bench) test(ctx context.Context, limits limits, args ...string) (r result, err error) {
	timed, cancel := context.WithTimeout(ctx, limits.wall)
	defer cancel()
	self, err := os.Executable()
	if err != nil {
		return r, err
	}
	args = append([]string{superviseArg, strconv.Itoa(int(limits.cpu.Seconds())), "go", "test", "-json", "-count=1", "-vet=off", "-timeout=0"}, args...)
	cmd := exec.CommandContext(timed, self, args...)
	cmd.Dir, cmd.Env = b.lab.root, b.env
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	events := &eventReader{failed: cancel, lines: make(map[string][]string)}
	cmd.Stdout, cmd.Stderr = events, events
	err = cmd.Run()
	r = result{test: events.test, output: strings.Join(events.lines[events.test], "")}
	if cmd.ProcessState != nil {
		r.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	}
	switch {
	case ctx.Err() != nil:
		return r, ctx.Err()
	case events.notBuilt:
		return r, fmt.Errorf("the package or its tests do not compile:\n%s", r.output)
	case r.test != "":
		r.failed = r.test
	case timed.Err() != nil:
		r.failed = "no end within " + strconv.Itoa(int(limits.wall.Seconds())) + "s"
	case err != nil:
		r.failed = "the test program, as a whole"
	}
	return r, nil
}

// eventReader takes the output of go test -json. See go doc test2json.
type eventReader struct {
	failed   func() // is called when a test has failed
	test     string // that test
	notBuilt bool
	lines    map[string][]string // by test
	rest     []byte
}

func (e *eventReader) Write(p []byte) (int, error) {
	e.rest = append(e.rest, p...)
	for {
		line, rest, found := bytes.Cut(e.rest, []byte("\n"))
		if !found {
			return len(p), nil
		}
		e.rest = rest
		var event struct{ Action, Test, Output, FailedBuild string }
		if json.Unmarshal(line, &event) != nil {
			event.Output = string(line) + "\n" // of the go command, or of a test's child
		}
		test, _, _ := strings.Cut(event.Test, "/")
		if event.Output != "" && !strings.HasPrefix(event.Output, "=== ") {
			lines := append(e.lines[test], event.Output)
			e.lines[test] = lines[max(0, len(lines)-60):]
		}
		e.notBuilt = e.notBuilt || event.FailedBuild != ""
		if event.Action == "fail" && test != "" && e.test == "" {
			e.test = test
			e.failed()
		}
	}
}
