// Shim is a sidecar's wrapper for Prow's entrypoint: it stops a command when the marker file is there.
//
//	shim MARKER COMMAND...
package main

import (
	"context"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"sigs.k8s.io/prow/pkg/pod-utils/wrapper"
)

func main() {
	stop, _ := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	cmd := exec.Command(os.Args[2], os.Args[3:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		log.Fatal(err)
	}
	go func() {
		wrapper.WaitForMarkers(stop, os.Args[1])
		_ = cmd.Process.Signal(syscall.SIGTERM)
	}()
	_ = cmd.Wait()
	os.Exit(cmd.ProcessState.ExitCode())
}
