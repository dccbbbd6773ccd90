package lifetime

import (
	"context"
	"fmt"
	"iter"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// listed is a volume that lists the given names.
type listed struct {
	hooked
	names []string
}

func (v listed) Names() iter.Seq[string] { return slices.Values(v.names) }

// Runs ignores files that belong to no run, however many there are, and runs that have gone meanwhile. It
// leaves no file open.
func TestRunsAmongOtherFiles(t *testing.T) {
	dir, open := testenv.Volume(t), 0
	v := listed{hooked: counted(dir, &open)}
	for i := range 2 * maxRuns {
		v.names = append(v.names, fmt.Sprintf("file%d", i))
	}
	v.names = append(v.names, "gone-terminated", "a-running", "b-terminated")
	mustBegin(t, dir, "a") // never ends
	testenv.Plant(t, TerminatedPath(dir, "b"), "3\n")
	var got []string
	for _, run := range Runs(t.Context(), v) {
		got = append(got, run.Name+" "+describe(run.State))
	}
	if want := "a running, b ended: 3"; strings.Join(got, ", ") != want {
		t.Errorf("the runs are %q, not %q", got, want)
	}
	if open != 0 {
		t.Errorf("%d files are left open", open)
	}
}

// Runs stops to look as soon as its context is done.
func TestRunsEnd(t *testing.T) {
	dir := testenv.Volume(t)
	for _, name := range []string{"a", "b", "c"} {
		testenv.Plant(t, TerminatedPath(dir, name), "3\n")
	}
	ctx, cancel := context.WithCancel(t.Context())
	v := hooked{Dir: Dir(dir)}
	v.lstat = func(name string) (Info, error) {
		cancel()
		return v.Dir.Lstat(name)
	}
	if runs := Runs(ctx, v); len(runs) != 1 || runs[0].Name != "a" {
		t.Errorf("the runs are %v, not a alone", runs)
	}
}

// Only a live run of a valid name counts as stopping, by its own file.
func TestStoppingUnderOtherNames(t *testing.T) {
	dir, open := testenv.Volume(t), 0
	for _, name := range []string{"a", ".hidden", "moved"} {
		if err := mustBegin(t, dir, name).AnnounceStopping(); err != nil {
			t.Fatal(err)
		}
	}
	mustBegin(t, dir, "b") // these never end
	if err := os.Rename(runningPath(dir, "moved"), TerminatedPath(dir, "moved")); err != nil {
		t.Fatal(err)
	}
	v := counted(dir, &open)
	if got := StoppingRuns(t.Context(), v); !slices.Equal(got, []string{"a"}) {
		t.Errorf("the stopping runs are %q, not a alone", got)
	}
	if got := StillStopping(v, []string{"b", "a", "c", "moved"}); !slices.Equal(got, []string{"a"}) {
		t.Errorf("still stopping are %q, not a alone", got)
	}
	if open != 0 {
		t.Errorf("%d files are left open", open)
	}
}

// A file that is open for reading only cannot be locked for writing.
func TestRefusedLock(t *testing.T) {
	dir := testenv.Volume(t)
	testenv.Plant(t, dir+"/file", "")
	f, err := Dir(dir).Open("file", false)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.TryWriteLock() == nil {
		t.Error("the lock is refused, and TryWriteLock returns no error")
	}
}

// The longest name leaves 18 of 255 bytes for the rest of the private file's name.
func TestMaxName(t *testing.T) {
	const most = 237
	if err := CheckName(strings.Repeat("n", most)); err != nil {
		t.Error(err)
	}
	if CheckName(strings.Repeat("n", most+1)) == nil {
		t.Errorf("a name may have more than %d bytes", most)
	}
}

// The documents name this time.
func TestMinLostAfter(t *testing.T) {
	if MinLostAfter != 45*time.Second {
		t.Errorf("a run can safely count as lost after %s, not 45s", MinLostAfter)
	}
}
