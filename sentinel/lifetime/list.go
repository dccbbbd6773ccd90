package lifetime

import (
	"context"
	"iter"
	"math"
	"slices"
	"strings"
)

// maxRuns is how many runs [Runs] returns at most. A pod has only a few.
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

// runOf returns the name of the run that file belongs to. ok is false if it belongs to none.
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
	// State is what a watcher would derive from the files at its first look: never NotStarted and never
	// Lost. An end that holds no code is Unsettled. A run whose owner was killed is Unverified.
	State
}

// Runs returns at most 100 of the runs whose files are on the volume, sorted by name. It serves messages
// to users, which list what is there if a run is missing. It takes no lock and does not wait. When ctx is
// done, it returns what it has found. It returns nothing if the volume cannot be read.
func Runs(ctx context.Context, v Volume) (runs []Entry) {
	names, _ := runNames(ctx, v, nil)
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
		if state.Phase != NotStarted { // else its files were removed meanwhile
			runs = append(runs, Entry{name, state})
		}
	}
	return runs
}

// runNames appends the names of the runs on the volume that are not in names yet. It returns at most maxRuns
// names, in no order; more reports whether there are more.
func runNames(ctx context.Context, v Volume, names []string) (_ []string, more bool) {
	for file := range filesOf(ctx, v) {
		name, ok := runOf(file)
		switch {
		case !ok || slices.Contains(names, name):
		case len(names) == maxRuns:
			return names, true
		default:
			names = append(names, name)
		}
	}
	return names, false
}

// StoppingRuns returns the names of the live runs on the volume that have announced their end
// ([Run.AnnounceStopping]), in no order. When ctx is done, it returns what it has found. A run counts as
// live only if its file is locked: where locks are not shared, the result is always empty.
func StoppingRuns(ctx context.Context, v Volume) (names []string) {
	for file := range filesOf(ctx, v) {
		name, ok := runOf(file)
		if ok && strings.HasSuffix(file, runningSuffix) && isStopping(v, file) {
			names = append(names, name)
		}
	}
	return names
}

// StillStopping returns those of names that StoppingRuns would return again. It does not list the directory.
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
	content, ok := readContent(f)
	return ok && content == contentStopping
}
