package process

import (
	"fmt"
	"os"
	"testing"

	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

const threadsWanted = 30 // more than a program has at its start

// threadsMode prints whether enough threads were created, and how many of them have ended by the next time.
func threadsMode([]string) int {
	threads := func() map[string]bool {
		all, err := os.ReadDir("/proc/self/task")
		if err != nil {
			panic(err)
		}
		ids := make(map[string]bool)
		for _, thread := range all {
			ids[thread.Name()] = true
		}
		return ids
	}
	prestartThreads(threadsWanted)
	before := threads()
	prestartThreads(threadsWanted)
	after := threads()
	ended := 0
	for id := range before {
		if !after[id] {
			ended++
		}
	}
	fmt.Printf("enough: %v, ended: %d\n", len(before) > threadsWanted, ended)
	return 0
}

// TestPrestartThreads: the threads exist at once, and stay.
func TestPrestartThreads(t *testing.T) {
	t.Parallel()
	start(t, testenv.Command("threads")).await("enough: true, ended: 0")
}
