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

// patience is for how long a test waits for what happens at once.
const patience = 30 * time.Second

// pod is a sandbox with one shared directory, as the kubelet and gVisor's containerd shim make it.
type pod struct {
	t     *testing.T
	dir   string            // everything of this pod
	root  string            // runsc's own state
	hints map[string]string // annotations about its volume, by the last part of their names
	ids   []string          // of its containers, the sandbox's own first
}

// newPod starts a sandbox. With sharedMount, gVisor is told that the volume is its pod's alone.
func newPod(t *testing.T, sharedMount bool) *pod {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: gVisor's sandbox is made of namespaces")
	}
	// Not t.TempDir, which would have to be empty of mounts: the tmpfs around it goes as a whole.
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

// path is the path of a file on the volume.
func (p *pod) path(file string) string { return filepath.Join(p.dir, "volume", file) }

// command is one of runsc's.
func (p *pod) command(args ...string) *exec.Cmd {
	return exec.Command(runsc, append([]string{"--root", p.root, "--ignore-cgroups", "--network=none"}, args...)...)
}

// do carries out a command of runsc's.
func (p *pod) do(args ...string) {
	p.t.Helper()
	if err := p.try(args...); err != nil {
		p.t.Fatal(err)
	}
}

// try does the same, and tells what went wrong.
func (p *pod) try(args ...string) error {
	if out, err := p.command(args...).CombinedOutput(); err != nil {
		return fmt.Errorf("runsc %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// remove removes the containers, the sandbox last, and whatever of them is left.
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

	exited chan struct{} // closed at its end; then:
	at     time.Time
	code   int
	err    error
}

// start starts a container: the sandbox's own, or one in it.
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
		cmd.Stdout, cmd.Stderr = w, w // which become the container's, at one of these or the other
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
	annotations := map[string]string{"io.kubernetes.cri.sandbox-id": "sandbox", "io.kubernetes.cri.container-name": name}
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
		"process":     map[string]any{"cwd": "/", "args": argv, "env": []string{"PATH=/"}, "user": map[string]any{"uid": 0, "gid": 0}},
		"mounts": []map[string]any{
			{"destination": "/proc", "type": "proc", "source": "proc"},
			{"destination": "/tmp/pod", "type": "bind", "source": p.path(""), "options": []string{"rw", "rbind"}},
		},
		"linux": map[string]any{"namespaces": []map[string]string{{"type": "pid"}, {"type": "mount"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}}},
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

// log is what the container has written so far.
func (c *container) log() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.output.String()
}

// wait waits for the container's end.
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

// want fails the test unless the container ends with the code, within a time.
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
		c.t.Fatalf("%s ended with %d, not %d:\n%s", c.name, c.code, code, c.log())
	}
}

// wantAlive fails the test if the container has ended.
func (c *container) wantAlive() {
	c.t.Helper()
	select {
	case <-c.exited:
		c.t.Fatalf("%s has ended, with %d:\n%s", c.name, c.code, c.log())
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

// never fails the test if the container has written a text.
func (c *container) never(text string) {
	c.t.Helper()
	if log := c.log(); strings.Contains(log, text) {
		c.t.Fatalf("%s has written %q:\n%s", c.name, text, log)
	}
}

// awaitFile waits for a file on the volume, and tells its modification time.
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

// within waits until condition is met, and fails the test with what it has said last if it never is.
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
