package gvisor

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience is how long a test waits for something that should happen at once.
const patience = 30 * time.Second

// pod is a sandbox with one volume, as the kubelet and gVisor's containerd shim make it.
type pod struct {
	t     *testing.T
	dir   string            // all files of this pod
	root  string            // runsc's state
	hints map[string]string // annotations about the volume, by the last part of their names
	ids   []string          // of the containers; that of the sandbox comes first
}

// newPod starts a sandbox. With sharedMount, annotations tell gVisor that only this pod uses the volume.
func newPod(t *testing.T, sharedMount bool) *pod {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: gVisor's sandbox is made of namespaces")
	}
	// Not t.TempDir, which cannot be removed while something is mounted in it. The tmpfs around it is unmounted later.
	dir, err := os.MkdirTemp("", "pod-")
	if err != nil {
		t.Fatal(err)
	}
	p := &pod{t: t, dir: dir}
	p.root = filepath.Join(p.dir, "runsc")
	if sharedMount {
		p.hints = map[string]string{"source": p.path(""), "type": "tmpfs", "share": "pod"}
	}
	for _, directory := range []string{p.root, p.path("")} {
		if err := os.Mkdir(directory, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(p.remove)
	p.start("sandbox", []string{"/stand-in", pauseMode})
	return p
}

// path returns the path of a file on the volume.
func (p *pod) path(file string) string { return filepath.Join(p.dir, "volume", file) }

// command returns a runsc command.
func (p *pod) command(args ...string) *exec.Cmd {
	return exec.Command(runsc, append([]string{"--root", p.root, "--ignore-cgroups", "--network=none"}, args...)...)
}

// do runs a runsc command.
func (p *pod) do(args ...string) {
	p.t.Helper()
	if err := p.try(args...); err != nil {
		p.t.Fatal(err)
	}
}

// try runs a runsc command and returns the error.
func (p *pod) try(args ...string) error {
	if out, err := p.command(args...).CombinedOutput(); err != nil {
		return fmt.Errorf("runsc %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// remove kills and removes the containers, the sandbox last.
func (p *pod) remove() {
	for i := len(p.ids) - 1; i >= 0; i-- {
		if err := p.try("delete", "--force", p.ids[i]); err != nil {
			p.t.Error(err)
		}
	}
}

// container is one container of a pod.
type container struct {
	t    *testing.T
	pod  *pod
	name string

	mu     sync.Mutex
	output bytes.Buffer

	exited chan struct{} // closed when the container has ended; then the fields below are set
	at     time.Time
	code   int
	err    error // why the code is not known
}

// start starts a container. The first one of a pod is its sandbox.
func (p *pod) start(name string, argv []string) *container {
	p.t.Helper()
	c := &container{t: p.t, pod: p, name: name, exited: make(chan struct{})}
	r, w, err := os.Pipe()
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { r.Close() })
	go c.read(r)
	bundle := p.bundle(name, argv)
	p.ids = append(p.ids, name)
	for _, args := range [][]string{{"create", "--bundle", bundle, name}, {"start", name}} {
		cmd := p.command(args...)
		cmd.Stdout, cmd.Stderr = w, w // runsc passes them on to the container
		if err = cmd.Run(); err != nil {
			break
		}
	}
	w.Close()
	if err != nil {
		p.t.Fatalf("runsc cannot start %s: %v\n%s", name, err, c.log())
	}
	go c.wait()
	return c
}

// bundle makes the OCI bundle of a container.
func (p *pod) bundle(name string, argv []string) (directory string) {
	p.t.Helper()
	kind := "container"
	annotations := map[string]string{
		"io.kubernetes.cri.sandbox-id":     "sandbox",
		"io.kubernetes.cri.container-name": name,
	}
	if len(p.ids) == 0 {
		kind = "sandbox"
		for hint, value := range p.hints {
			annotations["dev.gvisor.spec.mount.pod."+hint] = value
		}
	}
	annotations["io.kubernetes.cri.container-type"] = kind
	spec, err := json.Marshal(map[string]any{
		"ociVersion":  "1.0.0",
		"annotations": annotations,
		"root":        map[string]any{"path": filepath.Join(os.TempDir(), "root"), "readonly": true},
		"process": map[string]any{
			"cwd": "/", "args": argv, "env": []string{"PATH=/"}, "user": map[string]any{"uid": 0, "gid": 0},
		},
		"mounts": []map[string]any{
			{"destination": "/proc", "type": "proc", "source": "proc"},
			{"destination": "/tmp/pod", "type": "bind", "source": p.path(""), "options": []string{"rw", "rbind"}},
		},
		"linux": map[string]any{"namespaces": []map[string]string{
			{"type": "pid"}, {"type": "mount"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"},
		}},
	})
	if err != nil {
		p.t.Fatal(err)
	}
	directory = filepath.Join(p.dir, name)
	if err := os.Mkdir(directory, 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(directory, "config.json"), spec, 0o644); err != nil {
		p.t.Fatal(err)
	}
	return directory
}

func (c *container) read(r *os.File) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		c.mu.Lock()
		fmt.Fprintln(&c.output, lines.Text())
		c.mu.Unlock()
	}
}

// log returns what the container has written so far.
func (c *container) log() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.output.String()
}

// wait waits for the container's end and closes exited.
func (c *container) wait() {
	defer close(c.exited)
	out, err := c.pod.command("wait", c.name).Output()
	c.at = time.Now()
	var result struct{ ExitStatus int }
	if c.err = err; err == nil {
		c.err = json.Unmarshal(out, &result)
	}
	c.code = result.ExitStatus
}

// want fails the test unless the container exits with the code within a time.
func (c *container) want(code int, within time.Duration) {
	c.t.Helper()
	select {
	case <-c.exited:
	case <-time.After(within):
		c.t.Fatalf("%s has not ended within %s:\n%s", c.name, within, c.log())
	}
	if c.err != nil {
		c.t.Fatalf("runsc wait %s: %v", c.name, c.err)
	}
	if c.code != code {
		c.t.Fatalf("%s exited with %d, want %d:\n%s", c.name, c.code, code, c.log())
	}
}

// wantAlive fails the test if the container has ended.
func (c *container) wantAlive() {
	c.t.Helper()
	select {
	case <-c.exited:
		c.t.Fatalf("%s has exited with %d, want it to run:\n%s", c.name, c.code, c.log())
	default:
	}
}

// await waits until the container has written a text.
func (c *container) await(text string) {
	c.t.Helper()
	within(c.t, func() error {
		if log := c.log(); !strings.Contains(log, text) {
			return fmt.Errorf("%s has not written %q:\n%s", c.name, text, log)
		}
		return nil
	})
}

// never fails the test if the container has written a text so far.
func (c *container) never(text string) {
	c.t.Helper()
	if log := c.log(); strings.Contains(log, text) {
		c.t.Fatalf("%s has written %q, which it should not:\n%s", c.name, text, log)
	}
}

// awaitFile waits until a file is on the volume, and returns its modification time.
func (p *pod) awaitFile(file string) (modified time.Time) {
	p.t.Helper()
	within(p.t, func() error {
		info, err := os.Lstat(p.path(file))
		if err == nil {
			modified = info.ModTime()
		}
		return err
	})
	return modified
}

// within waits until condition returns nil, for at most patience. Then it fails the test with the last error.
func within(t *testing.T, condition func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if err = condition(); err == nil {
			return
		}
	}
	t.Fatal(err)
}
