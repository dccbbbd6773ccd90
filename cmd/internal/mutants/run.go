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

// tested are the packages that are mutated by default. Each has the layers that are run after its own
// tests, the quick ones first: the packages whose tests drive programs with this package, and the
// simulation if it uses this package.
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

// unfit are tests of the programs that are never run: the switches make the programs larger, and open a file.
var unfit = []string{"TestSize", "TestOpensNothingElse"}

// layer is a set of tests of one package.
type layer struct {
	name, dir string
	args      []string // of the test binary
	// drives: the tests drive programs, so it is not known which mutants each test reaches.
	drives bool

	once  sync.Once
	fault error // why the layer cannot be used
	cost  cost  // without a mutant
	// reached has the tests that reach each mutant, by its ID: first those that are quick, then the others.
	reached map[int]*[2][]string
}

// quick is the longest time of a test that is run before the others.
const quick = 200 * time.Millisecond

// binary returns the path of a layer's test binary.
func (l *lab) binary(layer *layer) string {
	return filepath.Join(l.scratch, strings.NewReplacer("/", "-", " ", "-").Replace(layer.name)+".test")
}

// cost is the time that a run of a test binary takes, or may take at most.
type cost struct{ wall, cpu time.Duration }

// lab runs tests on mutants.
type lab struct {
	root       string // of the module
	scratch    string // the directory of all files of the lab
	memory     string // a directory in memory for the tests; empty if there is none
	env        []string
	workspaces atomic.Int64

	layers  map[string][]*layer // by the package's directory
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
	// The path has to be short, because tests make sockets below it (unix(7): 108 bytes).
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
					if name == "cmd" {
						byName[name].args = []string{"-every"} // which calls are tried is random without it
					}
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

// overlay makes every build use the packages with all their mutants, also the builds that tests run.
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

// verdict is the result for a mutant.
type verdict struct {
	mutant
	killedBy string   // empty: it has survived
	flaky    []string // the tests that failed once, and passed when run again
	took     time.Duration
	err      error // why there is no result
}

// try runs the layers until one kills the mutant.
func (l *lab) try(ctx context.Context, m mutant) (v verdict) {
	v.mutant = m
	start := time.Now()
	defer func() { v.took = time.Since(start) }()
	w, err := l.newWorkspace(m.id)
	if err != nil {
		v.err = err
		return v
	}
	defer w.close()
	killer, layers := l.killers.of(m), l.layers[path.Dir(m.file)]
	for _, layer := range layers {
		if layer.name == killer.Layer && l.decide(ctx, &v, w, layer, [][]string{{killer.Test}}) {
			return v
		}
	}
	for _, layer := range layers {
		if l.decide(ctx, &v, w, layer, nil) {
			return v
		}
	}
	return v
}

// decide runs batches of tests of a layer until one test fails; if batches is nil, all tests that can
// notice the mutant. It reports whether v is final.
func (l *lab) decide(ctx context.Context, v *verdict, w *workspace, layer *layer, batches [][]string) bool {
	layer.once.Do(func() { layer.fault = l.prepare(ctx, layer) })
	if v.err = layer.fault; v.err != nil {
		return true
	}
	if batches == nil {
		batches = layer.batches(v.id)
	}
	// A mutant may make tests wait or compute without end. On a busy machine tests may also wait long, but do not
	// compute more.
	limit := cost{5*layer.cost.wall + 20*time.Second, 2*layer.cost.cpu + 10*time.Second}
	for _, tests := range batches {
		r, flaky, err := w.run(ctx, limit, layer, tests)
		v.flaky = append(v.flaky, flaky...)
		if v.killedBy = r.failed; err == nil && r.failed != "" {
			err = l.killers.add(v.mutant, layer, r.test)
		}
		if v.err = err; err != nil || v.killedBy != "" {
			return true
		}
	}
	return false
}

// batches returns the tests that can notice a mutant, in the order in which to run them. A nil batch
// stands for all tests of the layer.
func (layer *layer) batches(id int) (batches [][]string) {
	if layer.drives {
		return [][]string{nil}
	}
	if reached := layer.reached[id]; reached != nil {
		for _, tests := range reached {
			if tests != nil {
				batches = append(batches, tests)
			}
		}
	}
	return batches
}

// prepare builds the tests of a layer, runs them without a mutant, and finds out which mutants each
// test reaches.
func (l *lab) prepare(ctx context.Context, layer *layer) error {
	build := exec.CommandContext(ctx, "go", "test", "-c", "-o", l.binary(layer), "./"+layer.dir)
	build.Dir, build.Env = l.root, l.env
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("go test -c ./%s: %w\n%s", layer.dir, err, out)
	}
	w, err := l.newWorkspace(0)
	if err != nil {
		return err
	}
	defer w.close()
	none := cost{time.Hour, time.Hour}
	r, _, err := w.run(ctx, none, layer, nil)
	if err != nil {
		return err
	}
	if r.failed != "" {
		return fmt.Errorf("%s fails without a mutant: %s\n%s", layer.name, r.failed, r.output)
	}
	layer.cost = r.cost
	if layer.drives {
		return nil
	}
	layer.reached = make(map[int]*[2][]string)
	file := filepath.Join(w.tmp, "reached")
	w.env = append(w.env, "MUTANT_REACHED="+file)
	for _, test := range r.passed {
		if err := errors.Join(os.WriteFile(file, nil, 0), os.Chmod(file, 0o666)); err != nil {
			return err
		}
		alone, err := w.test(ctx, none, layer, []string{test}, nil)
		if err != nil {
			return err
		}
		batch := 0
		if alone.cost.wall > quick {
			batch = 1
		}
		ids, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for _, field := range strings.Fields(string(ids)) {
			id, err := strconv.Atoi(field)
			if err != nil {
				return fmt.Errorf("%s wrote %q to $MUTANT_REACHED, want numbers", test, field)
			}
			if layer.reached[id] == nil {
				layer.reached[id] = new([2][]string)
			}
			// Several processes of a test may write the same ID.
			if tests := &layer.reached[id][batch]; !slices.Contains(*tests, test) {
				*tests = append(*tests, test)
			}
		}
		if err := os.Remove(file); err != nil {
			return err
		}
	}
	return nil
}

// workspace is where the tests of one mutant run.
type workspace struct {
	lab         *lab
	tmp, memory string // directories for temporary files; tests that are killed do not remove them
	env         []string
}

// newWorkspace makes a workspace for the mutant with an ID; 0 is none.
func (l *lab) newWorkspace(id int) (w *workspace, err error) {
	number := strconv.FormatInt(l.workspaces.Add(1), 10)
	w = &workspace{lab: l, tmp: filepath.Join(l.scratch, number)}
	w.env = append(slices.Clone(l.env), "TMPDIR="+w.tmp, "MUTANT="+strconv.Itoa(id))
	err = errors.Join(os.Mkdir(w.tmp, 0o777), os.Chmod(w.tmp, 0o777)) // the umask applies to Mkdir
	if l.memory != "" {
		w.memory = filepath.Join(l.memory, number)
		w.env = append(w.env, "TEST_MEMORY="+w.memory)
		err = errors.Join(err, os.Mkdir(w.memory, 0o777))
	}
	if err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

func (w *workspace) close() {
	os.RemoveAll(w.tmp)
	if w.memory != "" {
		os.RemoveAll(w.memory)
	}
}

// result is the result of a run of a test binary.
type result struct {
	failed string   // what has failed, for people; empty if nothing has
	test   string   // the test that has failed; empty if it is not known
	passed []string // the tests that have passed
	output string   // the last lines
	cost   cost
}

// run runs some tests of a layer, or all if tests is nil, until one fails. A test that drives programs
// has to fail twice; flaky are those that failed only once.
func (w *workspace) run(ctx context.Context, limit cost, layer *layer, tests []string) (
	r result, flaky []string, err error,
) {
	for {
		r, err = w.test(ctx, limit, layer, tests, flaky)
		if err != nil || r.test == "" || !layer.drives {
			return r, flaky, err
		}
		again, err := w.test(ctx, limit, layer, []string{r.test}, nil)
		if err != nil || again.failed != "" {
			return r, flaky, err
		}
		flaky = append(flaky, r.test) // and run the tests that were not run yet
	}
}

// test runs some tests of a layer, or all if tests is nil, except those in skip, until one fails. No
// process is left when it returns.
func (w *workspace) test(ctx context.Context, limit cost, layer *layer, tests, skip []string) (r result, err error) {
	timed, cancel := context.WithTimeout(ctx, limit.wall)
	defer cancel()
	self, err := os.Executable()
	if err != nil {
		return r, err
	}
	args := []string{superviseArg, strconv.Itoa(int(limit.cpu.Seconds())), w.lab.binary(layer), "-test.v=test2json"}
	args = append(args, layer.args...)
	if tests != nil {
		args = append(args, "-test.run", "^("+strings.Join(tests, "|")+")$")
	}
	if layer.drives {
		skip = append(slices.Clone(skip), unfit...)
	}
	if skip != nil {
		args = append(args, "-test.skip", "^("+strings.Join(skip, "|")+")$")
	}
	cmd := exec.CommandContext(timed, self, args...)
	cmd.Dir, cmd.Env = filepath.Join(w.lab.root, layer.dir), w.env
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	cmd.SysProcAttr = isolated()
	output := &outputReader{failed: cancel}
	cmd.Stdout, cmd.Stderr = output, output
	start := time.Now()
	err = cmd.Run()
	r = result{
		test: output.test, passed: output.passed,
		output: strings.Join(output.last, "\n"), cost: cost{wall: time.Since(start)},
	}
	if cmd.ProcessState != nil {
		r.cost.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	}
	switch {
	case ctx.Err() != nil:
		return r, ctx.Err()
	case r.test != "":
		r.failed = r.test
	case timed.Err() != nil:
		r.failed = "did not end within " + strconv.Itoa(int(limit.wall.Seconds())) + "s"
	case err != nil:
		r.failed = "the test binary ended without a failed test"
	}
	return r, nil
}

// outputReader parses the output of a test binary with -test.v=test2json. There, each line of package
// testing begins with a byte 0x16.
type outputReader struct {
	failed func()   // called when the first test has failed
	test   string   // the first test that has failed
	passed []string // the tests that have passed
	last   []string // the last lines
	rest   []byte   // the beginning of an incomplete line
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
