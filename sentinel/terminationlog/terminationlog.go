// Package terminationlog tells Kubernetes why a container ended: what stands in
// its termination message is shown by kubectl describe pod.
package terminationlog

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// DefaultPath is where Kubernetes puts the file, unless a container's
// terminationMessagePath says otherwise.
const DefaultPath = "/dev/termination-log"

// maxBytes is as much as Kubernetes reads of a termination message.
const maxBytes = 4096

// Write writes one line to the file at path if it is there, writable and empty:
// what the command itself has said stays. It is a courtesy; nothing that can go
// wrong with it is worth an error.
func Write(path, line string) {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() > 0 {
		return
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer f.Close()
	line = strings.ReplaceAll(line, "\n", "; ")
	// Whole characters: it becomes part of the pod's status, which is text.
	line = strings.ToValidUTF8(line[:min(len(line), maxBytes-1)], "")
	_, _ = f.WriteString(line + "\n")
}
