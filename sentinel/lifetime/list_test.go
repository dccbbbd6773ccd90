package lifetime

import (
	"context"
	"fmt"
	"iter"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// StoppingRuns returns the live runs that have announced their end.
func TestStopping(t *testing.T) {
	dir := testenv.Volume(t)
	stopping, running, killed := newHelper(t), newHelper(t), newHelper(t)
	stopping.do("begin", dir, "a")
	stopping.do("stopping")
	running.do("begin", dir, "b")
	running.do("stopping")
	running.do("running")
	killed.do("begin", dir, "c")
	killed.do("stopping")
	// Files that belong to no live run.
	testenv.Plant(t, dir+"/-running", contentStopping)
	testenv.Plant(t, dir+"/d-running", contentStopping)
	testenv.Plant(t, dir+"/stopping", contentStopping)
	if err := syscall.Mkfifo(dir+"/e-running", 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a-running", dir+"/f-running"); err != nil {
		t.Fatal(err)
	}

	want := func(want string) {
		t.Helper()
		names := StoppingRuns(t.Context(), Dir(dir))
		if len(names) > 1 && names[0] > names[1] {
			names[0], names[1] = names[1], names[0]
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("the stopping runs are %q, not %q", got, want)
		}
	}
	want("a c")
	killed.kill()
	want("a")
	stopping.do("end", "0")
	want("")
	if names := StoppingRuns(t.Context(), Dir(dir+"/none")); names != nil {
		t.Errorf("on a volume that is not there, %q are stopping", names)
	}
}

// Runs derives the states from the files, and ignores files that belong to no run.
func TestRuns(t *testing.T) {
	dir := testenv.Volume(t)
	live, killed, both := newHelper(t), newHelper(t), newHelper(t)
	live.do("begin", dir, "live")
	killed.do("begin", dir, "killed")
	killed.kill()
	both.do("begin", dir, "both") // beside an end, which a shell may leave
	testenv.Plant(t, dir+"/both-terminated", "4\n")
	testenv.Plant(t, dir+"/ended-terminated", "3\n")
	testenv.Plant(t, dir+"/place-running", "7\n")
	testenv.Plant(t, dir+"/empty-terminated", "")
	testenv.Plant(t, dir+"/garbage-terminated", "done\n")
	if err := syscall.Mkfifo(dir+"/fifo-terminated", 0o666); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"-running", ".hidden-terminated", "a b-running", "\x1b[31m-terminated", "log", "live-running.new",
	} {
		testenv.Plant(t, dir+"/"+name, "0\n")
	}
	want := "both ended: 4, empty unsettled, ended ended: 3, fifo unsettled, garbage unsettled, " +
		"killed unverified, live running, place ended: 7"
	var got []string
	for _, run := range Runs(t.Context(), Dir(dir)) {
		got = append(got, run.Name+" "+describe(run.State))
	}
	if strings.Join(got, ", ") != want {
		t.Errorf("the runs are\n%s, not\n%s", strings.Join(got, ", "), want)
	}
	if runs := Runs(t.Context(), Dir(dir+"/none")); runs != nil {
		t.Errorf("on a volume that is not there, the runs are %v", runs)
	}
}

// Runs returns at most maxRuns, sorted by name.
func TestRunsAreBounded(t *testing.T) {
	dir := testenv.FastVolume(t)
	for i := range 3 * maxRuns {
		testenv.Plant(t, fmt.Sprintf("%s/n%d-terminated", dir, i), "0\n")
	}
	runs := Runs(t.Context(), Dir(dir))
	if len(runs) != maxRuns {
		t.Errorf("%d runs", len(runs))
	}
	for i := range runs[1:] {
		if runs[i].Name >= runs[i+1].Name {
			t.Errorf("%s comes before %s", runs[i].Name, runs[i+1].Name)
		}
	}
}

// countingVolume is a volume of many files. It calls listed after each name that it has yielded.
type countingVolume struct {
	Dir
	listed func()
}

func (v countingVolume) Names() iter.Seq[string] {
	return func(yield func(string) bool) {
		for range 1000 {
			if !yield("some-running") {
				return
			}
			v.listed()
		}
	}
}

// A listing ends as soon as its context is done.
func TestListingsEnd(t *testing.T) {
	const until = 10
	dir := testenv.Volume(t)
	for name, list := range map[string]func(context.Context, Volume){
		"StoppingRuns":    func(ctx context.Context, v Volume) { StoppingRuns(ctx, v) },
		"Runs":            func(ctx context.Context, v Volume) { Runs(ctx, v) },
		"removeLeftovers": func(ctx context.Context, v Volume) { removeLeftovers(ctx, v, "main") },
	} {
		ctx, cancel := context.WithCancel(t.Context())
		listed := 0
		list(ctx, countingVolume{Dir(dir), func() {
			if listed++; listed == until {
				cancel()
			}
		}})
		if listed != until {
			t.Errorf("%s has read %d names, not %d", name, listed, until)
		}
	}
}
