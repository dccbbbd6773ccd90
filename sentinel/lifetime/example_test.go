package lifetime_test

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
)

// A sentinel begins a run, and ends it with the exit code of its command. A shim watches, looks, and
// looks again at every hint until the run has ended.
func Example() {
	dir, err := os.MkdirTemp("", "volume-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	volume := lifetime.Dir(dir)

	watcher, err := lifetime.Watch(volume, []string{"main"}, time.Minute)
	if err != nil {
		fmt.Println("only a look each second:", err)
	}
	defer watcher.Close()
	fmt.Println("has not started:", watcher.Look()[0].Phase == lifetime.NotStarted)

	run, restarted, err := lifetime.Begin(context.Background(), volume, "main", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("is running:", watcher.Look()[0].Phase == lifetime.Running, "- restarted:", restarted)

	if err := run.End(3); err != nil {
		fmt.Println(err)
	}
	for {
		if state := watcher.Look()[0]; state.Phase == lifetime.Ended {
			fmt.Println("has ended with", state.Code)
			return
		}
		<-watcher.Hints()
	}
	// Output:
	// has not started: true
	// is running: true - restarted: false
	// has ended with 3
}
