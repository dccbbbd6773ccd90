package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
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

// sizeTest is the test of how large the programs are, which the switches make larger. It is never run.
const sizeTest = "TestSize"

// layer is a number of tests of a package.
type layer struct {
	name, dir string
	args      []string // of the test binary
	// drives: the tests drive programs. Which mutants each reaches is not known.
	drives bool

	once  sync.Once
	fault error // why there is no measurement
	cost  cost  // with no mutant on
	// reached are the tests that reach each mutant: those that take less than quick, and the rest.
	reached map[int]*[2][]string
}

// quick is what a test takes at most to be among the first that are run.
const quick = 200 * time.Millisecond

// binary is where the test binary of a layer is.
func (l *lab) binary(layer *layer) string {
	return filepath.Join(l.scratch, strings.NewReplacer("/", "-", " ", "-").Replace(layer.name)+".test")
}

// cost is what a call of a test binary takes, or may take at most: as a whole, and of a processor.
type cost struct{ wall, cpu time.Duration }

// lab runs tests on mutants.
type lab struct {
	root    string // of the module
	scratch string // for all that lives as long as the lab
	memory  string // the same in memory; empty where there is no such place
	env     []string
	benches atomic.Int64

	layers  map[string][]*layer // by package
	killers *killers
}

// newLab prepares a lab for the mutants of some packages.
func newLab(root string, sources []*source, mutants []mutant, o options) (*lab, error) {
	l := &lab{root: root, layers: make(map[string][]*layer)}
	var err error
	if err := os.MkdirAll(filepath.Dir(o.killers), 0o777); err != nil {
		return nil, err
	}
	if l.killers, err = openKillers(o.killers); err != nil {
		return nil, err
	}
	// A short path: tests have sockets below it (unix(7): 108 bytes).
	if l.scratch, err = os.MkdirTemp("", "m"); err != nil {
		return nil, err
	}
	err = os.Chmod(l.scratch, 0o755) // tests run programs as other users
	if memory, none := os.MkdirTemp("/dev/shm", "m"); none == nil {
		l.memory, err = memory, errors.Join(err, os.Chmod(memory, 0o755))
	}
	if err := errors.Join(err, l.overlay(sources, mutants)); err != nil {
		l.close()
		return nil, err
	}
	byName := make(map[string]*layer)
	for _, s := range sources {
		own := &layer{name: s.dir, dir: s.dir, args: []string{"-test.skip", simulationTests}}
		l.layers[s.dir] = append(l.layers[s.dir], own)
		for _, p := range tested {
			if p.dir != s.dir {
				continue
			}
			for _, name := range p.layers {
				switch {
				case byName[name] != nil:
				case name == simulation:
					byName[name] = &layer{name: name, dir: simulationDir, args: []string{"-test.run", simulationTests}}
				default:
					byName[name] = &layer{name: name, dir: name, drives: true}
				}
				l.layers[s.dir] = append(l.layers[s.dir], byName[name])
			}
		}
		if o.layers > 0 {
			l.layers[s.dir] = l.layers[s.dir][:min(o.layers, len(l.layers[s.dir]))]
		}
	}
	return l, nil
}

// overlay has every build see the packages with all their mutants, also the builds that tests do.
func (l *lab) overlay(sources []*source, mutants []mutant) error {
	replace := make(map[string]string)
	put := func(name string, content []byte) error {
		file := filepath.Join(l.scratch, strconv.Itoa(len(replace))+".go")
		replace[filepath.Join(l.root, name)] = file
		return os.WriteFile(file, content, 0o644)
	}
	for _, s := range sources {
		for i, name := range s.names {
			if err := put(name, s.switched(i, mutants)); err != nil {
				return err
			}
		}
		text := "package " + s.files[0].Name.Name + "\n" + switchState + switches
		if err := put(filepath.Join(s.dir, switchFile), []byte(text)); err != nil {
			return err
		}
	}
	table := filepath.Join(l.scratch, "overlay.json")
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return err
	}
	flags, err := exec.Command("go", "env", "GOFLAGS").Output()
	if err != nil {
		return fmt.Errorf("go env GOFLAGS: %w", err)
	}
	l.env = append(os.Environ(), "GOFLAGS="+strings.TrimSpace(strings.TrimSpace(string(flags))+" -overlay="+table))
	return os.WriteFile(table, text, 0o644)
}

func (l *lab) close() {
	l.killers.file.Close()
	os.RemoveAll(l.scratch)
	if l.memory != "" {
		os.RemoveAll(l.memory)
	}
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
func (l *lab) try(ctx context.Context, m mutant) (v verdict) {
	v.mutant = m
	start := time.Now()
	defer func() { v.took = time.Since(start) }()
	bench, err := l.newBench(m.id)
	if err != nil {
		v.err = err
		return v
	}
	defer bench.close()
	killer, layers := l.killers.of(m), l.layers[path.Dir(m.file)]
	for _, layer := range layers {
		if layer.name == killer.Layer && l.decide(ctx, &v, bench, layer, [][]string{{killer.Test}}) {
			return v
		}
	}
	for _, layer := range layers {
		if l.decide(ctx, &v, bench, layer, nil) {
			return v
		}
	}
	return v
}

// decide runs some tests of a layer in turns, or those that may tell the mutant (nil), and reports
// whether that decides what becomes of it.
func (l *lab) decide(ctx context.Context, v *verdict, bench *bench, layer *layer, turns [][]string) bool {
	layer.once.Do(func() { layer.fault = l.prepare(ctx, layer) })
	if v.err = layer.fault; v.err != nil {
		return true
	}
	if turns == nil {
		turns = layer.turns(v.id)
	}
	// A mutant may make the tests wait in vain, or work without end. The first costs little,
	// and is not to be mistaken for a busy machine.
	limit := cost{5*layer.cost.wall + 20*time.Second, 2*layer.cost.cpu + 10*time.Second}
	for _, tests := range turns {
		r, doubts, err := bench.run(ctx, limit, layer, tests)
		v.doubts = append(v.doubts, doubts...)
		if v.killedBy = r.failed; err == nil && r.failed != "" {
			err = l.killers.add(v.mutant, layer, r.test)
		}
		if v.err = err; err != nil || v.killedBy != "" {
			return true
		}
	}
	return false
}

// turns are the tests to run for a mutant, one slice after the other; nil is all of the layer.
func (layer *layer) turns(id int) (turns [][]string) {
	if layer.drives {
		return [][]string{nil}
	}
	if reached := layer.reached[id]; reached != nil {
		for _, tests := range reached {
			if tests != nil {
				turns = append(turns, tests)
			}
		}
	}
	return turns
}

// prepare builds the tests of a layer, runs them with no mutant on, and finds out which mutants
// each reaches.
func (l *lab) prepare(ctx context.Context, layer *layer) error {
	build := exec.CommandContext(ctx, "go", "test", "-c", "-o", l.binary(layer), "./"+layer.dir)
	build.Dir, build.Env = l.root, l.env
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("go test -c ./%s: %w\n%s", layer.dir, err, out)
	}
	bench, err := l.newBench(0)
	if err != nil {
		return err
	}
	defer bench.close()
	none := cost{time.Hour, time.Hour}
	r, _, err := bench.run(ctx, none, layer, nil)
	if err != nil {
		return err
	}
	if r.failed != "" {
		return fmt.Errorf("with no mutant, %s fails: %s\n%s", layer.name, r.failed, r.output)
	}
	layer.cost = r.cost
	if layer.drives {
		return nil
	}
	layer.reached = make(map[int]*[2][]string)
	file := filepath.Join(bench.tmp, "reached")
	bench.env = append(bench.env, "MUTANT_REACHED="+file)
	for _, test := range r.passed {
		if err := errors.Join(os.WriteFile(file, nil, 0), os.Chmod(file, 0o666)); err != nil {
			return err
		}
		alone, err := bench.test(ctx, none, layer, []string{test}, nil)
		if err != nil {
			return err
		}
		turn := 0
		if alone.cost.wall > quick {
			turn = 1
		}
		ids, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for _, field := range strings.Fields(string(ids)) {
			id, err := strconv.Atoi(field)
			if err != nil {
				return fmt.Errorf("%s has noted %q as reached", test, field)
			}
			if layer.reached[id] == nil {
				layer.reached[id] = new([2][]string)
			}
			if tests := &layer.reached[id][turn]; !slices.Contains(*tests, test) { // it has several processes
				*tests = append(*tests, test)
			}
		}
		if err := os.Remove(file); err != nil {
			return err
		}
	}
	return nil
}

// bench is what a mutant is tried on.
type bench struct {
	lab         *lab
	tmp, memory string // removed with it: tests that are cut off leave much behind
	env         []string
}

// newBench makes one for the mutant with an id; 0 is none.
func (l *lab) newBench(id int) (b *bench, err error) {
	number := strconv.FormatInt(l.benches.Add(1), 10)
	b = &bench{lab: l, tmp: filepath.Join(l.scratch, number)}
	b.env = append(slices.Clone(l.env), "TMPDIR="+b.tmp, "MUTANT="+strconv.Itoa(id))
	err = errors.Join(os.Mkdir(b.tmp, 0o777), os.Chmod(b.tmp, 0o777)) // whatever the umask is
	if l.memory != "" {
		b.memory = filepath.Join(l.memory, number)
		b.env = append(b.env, "TEST_MEMORY="+b.memory)
		err = errors.Join(err, os.Mkdir(b.memory, 0o777))
	}
	if err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

func (b *bench) close() {
	os.RemoveAll(b.tmp)
	if b.memory != "" {
		os.RemoveAll(b.memory)
	}
}

// result is what has come of a call of a test binary.
type result struct {
	failed string   // what has failed, for people; empty: nothing
	test   string   // the test that has failed, if it was one
	passed []string // the tests that have passed
	output string   // its last lines
	cost   cost
}

// run runs some tests of a layer, or all (nil), until something fails. A test that drives programs
// has to fail twice. Those that have failed only once are the doubts.
func (b *bench) run(ctx context.Context, limit cost, layer *layer, tests []string) (r result, doubts []string, err error) {
	for {
		r, err = b.test(ctx, limit, layer, tests, doubts)
		if err != nil || r.test == "" || !layer.drives {
			return r, doubts, err
		}
		again, err := b.test(ctx, limit, layer, []string{r.test}, nil)
		if err != nil || again.failed != "" {
			return r, doubts, err
		}
		doubts = append(doubts, r.test) // and the others have not had their say
	}
}

// test runs some tests of a layer, or all (nil), but not those to skip, until something fails. No
// process is left then.
func (b *bench) test(ctx context.Context, limit cost, layer *layer, tests, skip []string) (r result, err error) {
	timed, cancel := context.WithTimeout(ctx, limit.wall)
	defer cancel()
	self, err := os.Executable()
	if err != nil {
		return r, err
	}
	args := append([]string{superviseArg, strconv.Itoa(int(limit.cpu.Seconds())), b.lab.binary(layer), "-test.v=test2json"}, layer.args...)
	if tests != nil {
		args = append(args, "-test.run", "^("+strings.Join(tests, "|")+")$")
	}
	if layer.drives {
		skip = append(slices.Clone(skip), sizeTest)
	}
	if skip != nil {
		args = append(args, "-test.skip", "^("+strings.Join(skip, "|")+")$")
	}
	cmd := exec.CommandContext(timed, self, args...)
	cmd.Dir, cmd.Env = filepath.Join(b.lab.root, layer.dir), b.env
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	output := &outputReader{failed: cancel}
	cmd.Stdout, cmd.Stderr = output, output
	start := time.Now()
	err = cmd.Run()
	r = result{test: output.test, passed: output.passed, output: strings.Join(output.last, "\n"), cost: cost{wall: time.Since(start)}}
	if cmd.ProcessState != nil {
		r.cost.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	}
	switch {
	case ctx.Err() != nil:
		return r, ctx.Err()
	case r.test != "":
		r.failed = r.test
	case timed.Err() != nil:
		r.failed = "no end within " + strconv.Itoa(int(limit.wall.Seconds())) + "s"
	case err != nil:
		r.failed = "the test program, as a whole"
	}
	return r, nil
}

// outputReader takes the output of a test binary with -test.v=test2json, which marks each line of
// the testing package with a byte 0x16.
type outputReader struct {
	failed func()   // is called when a test has failed
	test   string   // that test
	passed []string // the tests that have passed before
	last   []string // lines
	rest   []byte
}

func (o *outputReader) Write(p []byte) (int, error) {
	o.rest = append(o.rest, p...)
	for {
		line, rest, found := bytes.Cut(o.rest, []byte("\n"))
		if !found {
			return len(p), nil
		}
		o.rest = rest
		text := string(line)
		_, event, _ := strings.Cut(text, "\x16--- ")
		verdict, test, _ := strings.Cut(event, ": ")
		test, _, _ = strings.Cut(test, " ")
		switch top, _, isPart := strings.Cut(test, "/"); {
		case verdict == "FAIL" && o.test == "":
			o.test = top
			o.failed()
		case verdict == "PASS" && !isPart:
			o.passed = append(o.passed, test)
		}
		o.last = append(o.last, text)
		o.last = o.last[max(0, len(o.last)-60):]
	}
}
