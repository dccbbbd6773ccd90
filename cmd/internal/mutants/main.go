// Command mutants measures what the tests notice. It changes the code in one place, a mutant,
// and runs the tests; if none fails, the mutant has survived, and a test is missing.
//
//	mutants [flags] [DIRECTORY...]
//
// The directories are those of packages of this module; by default all that decide something:
// lifetime, process, probe, sentinel, shim, app. Files are never changed: all mutants of these
// packages are compiled at once, each behind a switch (see switches), into an overlay of the go
// command (go help build). The overlay is in GOFLAGS, so that the programs which tests build have
// the mutants, too. $MUTANT turns one of them on.
//
// # The mutants
//
// A condition, and any other boolean value, is always or never true; a part of a conjunction or
// disjunction is left out; < becomes <=, + becomes -, min becomes max; a flag of several is left
// out; a small number is changed by one, a large one or a time to 0; a statement is left out
// (a call, an assignment, defer, go, break, continue, a return, a loop over a range); nil is
// returned instead of an error; a case of a switch or select is left out, or one of its values.
// Mutants that do not compile do not count. What is logged, texts, panics, and crash points stay
// as they are, and so does what is returned beside an error.
//
// (A negated condition is no mutant: what kills one that is always true and one that is never
// true kills that, too. Nor is the default of a select, a case of a type switch, or the length of
// an array: there is no switch for these.)
//
// # The layers
//
// The tests of the mutant's own package come first; then those that drive the built programs, if
// the package is in them; then the simulation, for the packages that it runs through. The first
// test that fails kills the mutant. So does a layer that takes much longer than without a mutant.
//
// Before a layer is used for the first time, it has to pass without a mutant: else there is no
// measurement. Then each of the package's own tests runs once by itself, to see which mutants it
// reaches; only these tests are run for a mutant. Of tests that drive programs this is not known.
//
// Tests that drive programs depend on time, and may fail on a busy machine; so a test of these
// has to fail twice to kill. One that fails once is told beside the survivor.
//
// Which test has killed a mutant is remembered, and that test comes first in the next run.
//
// # What it takes
//
// The tests of shim alone take a minute and a half for 497 mutants, those of app a bit over three for
// 333: two busy processors. With all layers the 650 mutants of probe and app took 26 minutes on a
// machine nine tenths of whose time went to others.
//
// # Equivalent mutants
//
// Those that no test can tell from the code are listed in equivalent.txt, each with the reason.
// They are not tried. An entry that fits no mutant any more is an error.
//
// # The end
//
// A line for each survivor, then the numbers. The exit code is 1 if there is a survivor or a stale
// entry, and 2 if it could not be measured.
package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 3 && os.Args[1] == superviseArg {
		os.Exit(supervise(os.Args[2:]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	survived, err := run(ctx)
	stop()
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(2)
	case survived:
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	sample, parallel int
	layers           int
	seed             uint64
	only             string
	killers          string
	verbose          bool
}

// run reports whether there are survivors, or stale entries in the list of equivalents.
func run(ctx context.Context) (survived bool, err error) {
	var o options
	flag.IntVar(&o.sample, "sample", 0, "try only this `number` of mutants, taken by chance; 0 is all")
	flag.Uint64Var(&o.seed, "seed", 0, "the seed of an earlier sample; 0 is a new one")
	flag.StringVar(&o.only, "only", "", "try only mutants whose names match this regular `expression`")
	flag.IntVar(&o.parallel, "parallel", 2*runtime.NumCPU(), "try this `number` of mutants at once")
	flag.IntVar(&o.layers, "layers", 0, "run only this `number` of layers, for while tests are written; 0 is all")
	flag.StringVar(&o.killers, "killers", "bin/mutants/killers", "the `file` that remembers what has killed which mutant")
	flag.BoolVar(&o.verbose, "v", false, "tell what kills each mutant")
	flag.Parse()
	dirs := flag.Args()
	if len(dirs) == 0 {
		for _, p := range tested {
			dirs = append(dirs, p.dir)
		}
	}
	for i := range dirs {
		dirs[i] = filepath.Clean(dirs[i])
	}
	only, err := regexp.Compile(o.only)
	if err != nil {
		return false, err
	}
	root, err := os.Getwd()
	if err != nil {
		return false, err
	}
	reasons, err := parseEquivalents(equivalents)
	if err != nil {
		return false, err
	}
	sources, err := load(root, dirs)
	if err != nil {
		return false, err
	}
	var all, candidates []mutant
	equivalent := 0
	for _, s := range sources {
		mutants, err := s.mutants(len(all) + 1)
		if err != nil {
			return false, err
		}
		all = append(all, mutants...)
		for _, name := range stale(reasons, s.dir, mutants) {
			survived = true
			fmt.Printf("STALE     %s\n          is in equivalent.txt, but no such mutant is left\n", name)
		}
		for _, m := range mutants {
			switch {
			case reasons[m.name()] != "":
				equivalent++
			case only.MatchString(m.name()):
				candidates = append(candidates, m)
			}
		}
	}
	if o.sample > 0 {
		if o.seed == 0 {
			o.seed = rand.Uint64N(1e9) + 1
		}
		fmt.Printf("a sample of %d mutants: SEED=%d\n", o.sample, o.seed)
		rand.New(rand.NewPCG(o.seed, 0)).Shuffle(len(candidates), func(i, j int) {
			candidates[i], candidates[j] = candidates[j], candidates[i]
		})
		candidates = candidates[:min(o.sample, len(candidates))]
	}
	lab, err := newLab(root, sources, all, o)
	if err != nil {
		return false, err
	}
	defer lab.close()
	return survived, o.tryAll(ctx, lab, candidates, equivalent, &survived)
}

// tryAll tries the candidates and tells what has become of them.
func (o options) tryAll(ctx context.Context, l *lab, candidates []mutant, equivalent int, survived *bool) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	jobs, verdicts := make(chan mutant), make(chan verdict)
	go func() {
		defer close(jobs)
		for _, m := range candidates {
			select {
			case jobs <- m:
			case <-ctx.Done():
				return
			}
		}
	}()
	var workers sync.WaitGroup
	for range o.parallel {
		workers.Go(func() {
			for m := range jobs {
				verdicts <- l.try(ctx, m)
			}
		})
	}
	go func() {
		workers.Wait()
		close(verdicts)
	}()
	killed, left, start := 0, 0, time.Now()
	for v := range verdicts {
		switch {
		case v.err != nil:
			if err == nil {
				err = v.err
			}
			cancel()
		case v.killedBy != "":
			killed++
			if o.verbose {
				fmt.Printf("killed    %s (%s, %.1fs)\n", v, v.killedBy, v.took.Seconds())
			}
		default:
			left++
			*survived = true
			fmt.Printf("SURVIVED  %s%s\n", v, v.remark())
		}
		if (killed+left)%100 == 0 {
			fmt.Printf("%d tried in %s\n", killed+left, time.Since(start).Round(time.Second))
		}
	}
	if err == nil {
		err = ctx.Err()
	}
	fmt.Printf("%d killed, %d survived, %d equivalent\n", killed, left, equivalent)
	return err
}

// remark names the tests that have failed only once.
func (v verdict) remark() string {
	if len(v.doubts) == 0 {
		return ""
	}
	slices.Sort(v.doubts)
	return " (" + strings.Join(v.doubts, ", ") + " failed, and passed when repeated)"
}
