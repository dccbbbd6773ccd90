// Package terminationlog writes the termination message of a container, which kubectl
// describe pod shows.
package terminationlog

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// DefaultPath is the file's path, unless the container's terminationMessagePath names
// another.
const DefaultPath = "/dev/termination-log"

// maxBytes is how much Kubernetes reads of a termination message.
const maxBytes = 4096

// Write writes line to the file at path if that is a writable, empty regular file: the
// command's own message stays. A newline in line becomes "; ", and the message is cut at
// 4096 bytes. Write ignores all errors, because nothing depends on the message.
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
	// No half character at the cut: the message becomes part of the pod's status, which is text.
	line = strings.ToValidUTF8(line[:min(len(line), maxBytes-1)], "")
	_, _ = f.WriteString(line + "\n")
}
