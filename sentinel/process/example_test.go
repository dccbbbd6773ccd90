package process_test

import (
	"fmt"
	"syscall"
	"time"

	"github.com/sentinel-shim/sentinel-shim/sentinel/process"
)

// A shim stops its sidecar: SIGTERM, and SIGKILL after ten seconds. Here a sleep dies of SIGTERM.
func ExampleProcess_Stop() {
	command, err := process.Start([]string{"sleep", "1000"})
	if err != nil {
		fmt.Println(err)
		return
	}
	stopped := <-command.Stop(syscall.SIGTERM, 10*time.Second)
	status := command.Status()
	fmt.Printf("killed: %t, code: %d, signal: %s\n", stopped.Killed, status.Code, process.SignalName(status.Signal))
	// Output:
	// killed: false, code: 143, signal: SIGTERM
}
