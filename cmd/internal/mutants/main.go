// Command mutants finds changes of the code that no test notices. A mutant is the code with one
// small change. If no test fails with it, the mutant has survived, and a test is missing.
//
//	mutants [flags] [DIRECTORY...]
//
// The directories are those of packages of this module; by default lifetime, process, probe,
// sentinel, shim and app. Source files are not changed. All mutants of a package are compiled at
// once, each behind a switch (see switches), in an overlay of the go command (go help build). The
// overlay is in GOFLAGS, so the programs that tests build have the mutants, too. $MUTANT turns one
// of them on.
//
// # The mutants
//
//   - A condition or another boolean value is always true, or always false.
//   - An operand of && or || is left out.
//   - < becomes <=, + becomes -, min becomes max, and the other way round.
//   - An operand of | or & is left out.
//   - A small number is changed by one. A large number or a time becomes 0.
//   - A statement is left out: a call, an assignment, defer, go, break, continue, a return, or a
//     loop over a range.
//   - nil is returned instead of an error.
//   - A case of a switch or select is left out, or one value of a case.
//
// Mutants that do not compile do not count. Log messages, texts, panics and crash points are not
// changed, nor are values that are returned together with an error.
//
// A negated condition is not a mutant: the tests that kill the condition that is always true and
// the one that is always false also kill the negated one. The default of a select, a case of a type
// switch, and the length of an array are not changed, because no switch is possible there.
//
// # The layers
//
// A layer is a set of tests. The tests of the mutant's own package are run first, then those that
// drive the built programs, then the simulation, as far as they use the package. The first test
// that fails kills the mutant. A layer that takes much longer than without a mutant kills it, too.
//
// Before a layer is used for the first time, it has to pass without a mutant; if it fails, mutants
// ends with an error. Then each test of the layer runs once alone, which shows which mutants it
// reaches. For a mutant, only the tests that reach it are run. For tests that drive programs this
// is not known, so all of them are run.
//
// Tests that drive programs depend on time and may fail on a busy machine, so such a test kills a
// mutant only if it fails twice. Tests that failed once are listed with a survivor.
//
// The test that has killed a mutant is stored, and is run first the next time.
//
// # How long it takes
//
// With one layer, the 512 mutants of shim took eight minutes on two processors, the 481 of app three.
// Those that the layer does not kill take longest: each layer of the built programs then runs for up
// to some minutes. With all layers, the whole takes hours.
//
// # Equivalent mutants
//
// A mutant that no test can tell from the code is equivalent. These mutants are listed in
// equivalent.txt, each with the reason, and are not tried. An entry without a mutant is stale.
//
// # The result
//
// The output has a line for each survivor and for each stale entry, and then the numbers. The exit
// code is 1 if there is a survivor or a stale entry, and 2 after an error.
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

// options are the values of the flags.
type options struct {
	sample, parallel int
	layers           int
	seed             uint64
	only             string
	killers          string
	verbose          bool
}

// run reports whether there are survivors or stale entries.
func run(ctx context.Context) (survived bool, err error) {
	var o options
	flag.IntVar(&o.sample, "sample", 0, "try only this `number` of mutants, chosen at random; 0 is all")
	flag.Uint64Var(&o.seed, "seed", 0, "the seed of an earlier sample repeats it; 0 is a new seed")
	flag.StringVar(&o.only, "only", "", "try only mutants whose names match this regular `expression`")
	flag.IntVar(&o.parallel, "parallel", 2*runtime.NumCPU(), "try this `number` of mutants at once")
	flag.IntVar(&o.layers, "layers", 0, "run only this `number` of layers, which is faster; 0 is all")
	flag.StringVar(&o.killers, "killers", "bin/mutants/killers", "the `file` of which test has killed which mutant")
	flag.BoolVar(&o.verbose, "v", false, "print which test kills each mutant")
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
			fmt.Printf("STALE     %s\n", name)
			fmt.Printf("          is in equivalent.txt, but there is no such mutant: remove the entry\n")
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

// tryAll tries the candidates and prints the results.
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

// remark lists the flaky tests, to print after a survivor.
func (v verdict) remark() string {
	if len(v.flaky) == 0 {
		return ""
	}
	slices.Sort(v.flaky)
	return " (" + strings.Join(v.flaky, ", ") + " failed once, and passed when run again)"
}
