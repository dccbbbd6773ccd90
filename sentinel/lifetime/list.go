package lifetime

import (
	"context"
	"iter"
	"math"
	"slices"
	"strings"
)

// What is listed: which runs there are, whatever their names.

// maxRuns is how many runs [Runs] reports at most. A pod has a few; more are a neighbour's
// mischief, or no runs at all.
const maxRuns = 100

// filesOf yields the names of the files on a volume, in no order. It ends when ctx is done.
func filesOf(ctx context.Context, v Volume) iter.Seq[string] {
	return func(yield func(string) bool) {
		for file := range v.Names() {
			if ctx.Err() != nil || !yield(file) {
				return
			}
		}
	}
}

// runOf is the name of the run whose file this is; ok is false if it is no run's.
func runOf(file string) (name string, ok bool) {
	name, ok = strings.CutSuffix(file, runningSuffix)
	if !ok {
		name, ok = strings.CutSuffix(file, terminatedSuffix)
	}
	return name, ok && CheckName(name) == nil
}

// Entry is a run that [Runs] has found.
type Entry struct {
	Name string
	// State is what a watcher would make of the files at its first look: never
	// NotStarted and never Lost. An end that holds no code is Unsettled. A run whose
	// owner was killed is Unverified.
	State
}

// Runs returns the runs whose files are on the volume, sorted by name: at most a hundred.
// It is for messages to people, who may want to know what is there where something is
// missing. It takes no lock, waits for nothing, and remembers nothing. It returns what it
// has found by then when ctx is done, and nothing where the volume cannot be read.
func Runs(ctx context.Context, v Volume) (runs []Entry) {
	var names []string
	for file := range filesOf(ctx, v) {
		name, ok := runOf(file)
		if !ok || slices.Contains(names, name) {
			continue
		}
		if names = append(names, name); len(names) == maxRuns {
			break
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if ctx.Err() != nil {
			break
		}
		o := NewObserver(v, name, math.MaxInt64)
		state, locked := o.Look(false, 0)
		if locked != nil {
			locked.Close()
		}
		if state.Phase != NotStarted { // it was removed meanwhile
			runs = append(runs, Entry{name, state})
		}
	}
	return runs
}

// StoppingRuns names the live runs on the volume that have said that they are about to
// end ([Run.AnnounceStopping]); those that it has found by then when ctx is done. The word of a
// killed one does not count, for its lock is gone; so where locks are not shared, none is
// ever named.
func StoppingRuns(ctx context.Context, v Volume) (names []string) {
	for file := range filesOf(ctx, v) {
		name, ok := runOf(file)
		if ok && strings.HasSuffix(file, runningSuffix) && isStopping(v, file) {
			names = append(names, name)
		}
	}
	return names
}

// StillStopping is which of the runs that StoppingRuns has named it would name again.
func StillStopping(v Volume, names []string) (still []string) {
	for _, name := range names {
		if isStopping(v, name+runningSuffix) {
			still = append(still, name)
		}
	}
	return still
}

func isStopping(v Volume, file string) bool {
	f, err := openRegular(v, file)
	if err != nil {
		return false
	}
	defer f.Close()
	if !f.WriteLocked() {
		return false
	}
	var state fileState
	state.read(f)
	return state.readable && state.content == wordStopping
}
