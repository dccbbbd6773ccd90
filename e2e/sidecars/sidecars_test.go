// Package sidecars runs the programs of docs/sidecars.md as it says: under the shim, with the documented arguments,
// main waiting for the documented address, and then failing. It needs root, but no Kubernetes: make sidecars.
package sidecars

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// patience is how long a pod may take. The shim gives a sidecar 10 s.
const patience = 90 * time.Second

// enterMode is the first argument of the test binary as the first process of a container. The others are the root file
// system, the user, and the command.
const enterMode = "sidecars:enter"

func TestMain(m *testing.M) {
	if len(os.Args) > 4 && os.Args[1] == enterMode {
		fmt.Fprintln(os.Stderr, "sidecars:", enter(os.Args[2], os.Args[3], os.Args[4:]))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// enter executes a command in a container's root file system, whose namespaces have been made.
func enter(root, user string, command []string) error {
	if err := syscall.Mount("proc", root+"/proc", "proc", 0, ""); err != nil {
		return os.NewSyscallError("mount of /proc", err)
	}
	if err := errors.Join(syscall.Chroot(root), os.Chdir("/")); err != nil {
		return err
	}
	if user != "root" {
		passwd, err := os.ReadFile("/etc/passwd")
		if err != nil {
			return err
		}
		found := regexp.MustCompile(`(?m)^` + user + `:[^:]*:(\d+):(\d+):`).FindSubmatch(passwd)
		if found == nil {
			return fmt.Errorf("/etc/passwd has no user %s", user)
		}
		uid, _ := strconv.Atoi(string(found[1]))
		gid, _ := strconv.Atoi(string(found[2]))
		if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(gid), syscall.Setuid(uid)); err != nil {
			return err
		}
	}
	path := "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" // the default of container images
	return syscall.Exec(command[0], command, []string{path})
}

// A stage is what a sidecar finds in its image and in its volumes, besides its program.
type stage struct {
	user  string            // root, if it is empty
	files map[string]string // by path
	extra []string          // arguments in addition to the documented ones, because nothing is behind a proxy
	// The version's first digits stand in the document. They are those of a Debian package, or of the Go module that
	// this file was built from.
	debian, goFile string
}

// execOnly is an entrypoint script that does what all of them do in the end.
const execOnly = "#!/bin/sh\nexec \"$@\"\n"

// stages has a stage for each sidecar that the document says is run, by its heading.
var stages = map[string]stage{
	"Cloud SQL Auth Proxy": {
		user: "nobody", goFile: "/cloud-sql-proxy", extra: []string{"--token", "any", "--lazy-refresh"},
	},
	"AlloyDB Auth Proxy": {
		user: "nobody", goFile: "/alloydb-auth-proxy", extra: []string{"--token", "any", "--lazy-refresh"},
	},
	"HAProxy": {user: "haproxy", debian: "haproxy", files: map[string]string{
		"/usr/local/etc/haproxy/haproxy.cfg": `
global
  maxconn 100
  hard-stop-after 4s
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
listen database
  bind 127.0.0.1:5432
  server database 127.0.0.1:9
`,
	}},
	"nginx": {debian: "nginx-light", files: map[string]string{"/docker-entrypoint.sh": execOnly}},
	"PgBouncer": {user: "postgres", debian: "pgbouncer", files: map[string]string{
		"/entrypoint.sh": execOnly,
		"/etc/pgbouncer/pgbouncer.ini": `
[databases]
* = host=127.0.0.1 port=9
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = 5432
unix_socket_dir =
auth_type = any
`,
	}},
	"stunnel": {debian: "stunnel4", files: map[string]string{"/etc/stunnel/stunnel.conf": `
foreground = yes
pid =
[database]
client = yes
accept = 127.0.0.1:5432
connect = 127.0.0.1:9
`}},
	"oauth2-proxy": {user: "nobody", goFile: "/bin/oauth2-proxy", files: map[string]string{
		"/etc/oauth2-proxy/oauth2-proxy.cfg": `
provider = "github"
client_id = "any"
client_secret = "any"
cookie_secret = "0123456789abcdef0123456789abcdef"
email_domains = ["*"]
upstreams = ["http://127.0.0.1:8080/"]
`,
	}},
	"statsd-exporter": {user: "nobody", goFile: "/bin/statsd_exporter"},
	"Redis": {debian: "redis-server", files: map[string]string{
		"/usr/local/bin/docker-entrypoint.sh": execOnly,
	}},
	"Memcached": {user: "memcache", debian: "memcached", files: map[string]string{
		"/usr/local/bin/docker-entrypoint.sh": execOnly,
	}},
}

// A row is what the document's table says of a sidecar.
type row struct{ signal, code, address, run string }

var tableRow = regexp.MustCompile("(?m)^\\| ([^|`]+) \\| ([A-Z0-9]+) \\| (\\d*) ?\\| `([^`]+)` \\| (.+) \\|$")

// section returns what the document has below a heading of a sidecar.
func section(t *testing.T, document, heading string) string {
	t.Helper()
	_, rest, found := strings.Cut(document, "\n## "+heading+"\n")
	if !found {
		t.Fatalf("docs/sidecars.md has no heading %q", heading)
	}
	rest, _, _ = strings.Cut(rest, "\n## ")
	return rest
}

func TestSidecars(t *testing.T) {
	document := readFile(t, "../../docs/sidecars.md")
	programs := build(t)
	left := maps.Clone(stages)
	for _, found := range tableRow.FindAllStringSubmatch(document, -1) {
		name, row := found[1], row{found[2], found[3], found[4], found[5]}
		_, snippet, _ := strings.Cut(section(t, document, name), "```yaml\n")
		snippet, _, _ = strings.Cut(snippet, "```")
		var pod corev1.PodSpec
		if err := yaml.UnmarshalStrict([]byte(snippet), &pod); err != nil || len(pod.Containers) != 2 {
			t.Errorf("%s: the snippet is not one of a sidecar and a main: %v\n%s", name, err, snippet)
			continue
		}
		sidecar, main := pod.Containers[0], pod.Containers[1]
		expectAsInTable(t, name, row, sidecar.Command, main.Command)
		stage, runs := stages[name]
		delete(left, name)
		if runs != (row.run != "–") {
			t.Errorf("%s: the document's table says %q, and there is a stage for it here: %v", name, row.run, runs)
		} else if runs {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				play(t, programs, stage, row, sidecar, main)
			})
		}
	}
	for name := range left {
		t.Errorf("the document's table has no row %q", name)
	}
}

// expectAsInTable: the snippet has the signal and the address of the table.
func expectAsInTable(t *testing.T, name string, row row, sidecar, main []string) {
	t.Helper()
	signal := "TERM"
	if i := slices.Index(sidecar, "--stop-signal"); i >= 0 {
		signal = sidecar[i+1]
	}
	if signal != row.signal {
		t.Errorf("%s: the snippet's --stop-signal is %s, the table's %s", name, signal, row.signal)
	}
	if !slices.Contains(main, row.address) {
		t.Errorf("%s: the snippet's main is %q, the table's --wait-for %s", name, main, row.address)
	}
}

// play runs a pod: both containers at once, as the kubelet does.
func play(t *testing.T, programs string, stage stage, row row, sidecar, main corev1.Container) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, for namespaces and mounts")
	}
	// The namespaces are this thread's and those of its children. They end with it, because it is never unlocked.
	runtime.LockOSThread()
	root := makePod(t, programs, stage)
	expectVersion(t, root, stage, row)

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	user := stage.user
	if user == "" {
		user = "root"
	}
	shim := start(t, ctx, root, user, sidecar.Command, sidecar.Args, stage.extra)
	sentinel := start(t, ctx, root, "nobody", main.Command, []string{"sh", "-c", "exit 3"})
	mainLog, mainCode := sentinel.wait()
	sidecarLog, sidecarCode := shim.wait()
	if mainCode != 3 || sidecarCode != 3 {
		t.Errorf("main exited %d, the sidecar %d: want 3 and 3", mainCode, sidecarCode)
	}
	if !strings.Contains(mainLog, row.address+" answered after") {
		t.Errorf("main did not wait for %s", row.address)
	}
	expectStopped(t, sidecarLog, row)
	if t.Failed() {
		t.Logf("main's log:\n%s\nthe sidecar's log:\n%s", mainLog, sidecarLog)
	}
}

// summary is the shim's last line.
var summary = regexp.MustCompile(`^main exited 3; \S+ stopped by SIG(\w+) in ([0-9.]+)s$`)

// expectStopped: the sidecar ended by the stop signal, with the documented code, and before the shim sent its second
// signal at half of the grace period.
func expectStopped(t *testing.T, log string, row row) {
	t.Helper()
	for _, text := range strings.Split(log, "\n") {
		var line struct {
			Message string
			Code    *int `json:"sidecar_code"`
		}
		if json.Unmarshal([]byte(text), &line) != nil || line.Code == nil {
			continue // the sidecar's own line, or an earlier one
		}
		found := summary.FindStringSubmatch(line.Message)
		if found == nil {
			t.Errorf("the shim says %q", line.Message)
			return
		}
		if seconds, err := strconv.ParseFloat(found[2], 64); found[1] != row.signal || err != nil || seconds >= 5 {
			t.Errorf("the sidecar was stopped by %s in %s s: want %s, in less than 5 s", found[1], found[2], row.signal)
		}
		if strconv.Itoa(*line.Code) != row.code {
			t.Errorf("the sidecar's own code is %d, documented is %q", *line.Code, row.code)
		}
		t.Log(line.Message)
		return
	}
	t.Error("the shim has not said how the sidecar ended")
}

// makePod moves this thread into the namespaces of a new pod, and makes the root file system of its containers.
func makePod(t *testing.T, programs string, stage stage) (root string) {
	t.Helper()
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	if _, err := os.Stat(filepath.Join(state(t), "key")); err != nil {
		t.Fatalf("%v: run e2e/sidecars/root first, as make sidecars does", err)
	}
	must("new namespaces", unix.Unshare(unix.CLONE_NEWNS|unix.CLONE_NEWNET))
	must("no propagation of mounts", unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must("loopback", loopbackUp())

	// Nothing of it is on a disk, and nobody removes files below it: it is gone with the namespace.
	pod := filepath.Join(state(t), "pod")
	must("mount point", os.MkdirAll(pod, 0o755))
	must("tmpfs", unix.Mount("tmpfs", pod, "tmpfs", 0, "mode=755"))
	root = pod + "/root"
	for _, directory := range []string{pod + "/upper", pod + "/work", root} {
		must("directory", os.Mkdir(directory, 0o755))
	}
	must("overlay", unix.Mount("overlay", root, "overlay", 0,
		fmt.Sprintf("lowerdir=%s/root,upperdir=%[2]s/upper,workdir=%[2]s/work", state(t), pod)))
	for path, text := range stage.files {
		must("directory", os.MkdirAll(filepath.Dir(root+path), 0o755))
		must("file", os.WriteFile(root+path, []byte(text), 0o755))
	}
	for _, directory := range []string{"/sentinel-shim", "/tmp/pod", "/dev"} {
		must("directory", os.MkdirAll(root+directory, 0o755))
	}
	must("the volume's mode", os.Chmod(root+"/tmp/pod", 0o777))
	must("the programs", unix.Mount(programs, root+"/sentinel-shim", "", unix.MS_BIND, ""))
	must("/dev", unix.Mount("tmpfs", root+"/dev", "tmpfs", 0, "mode=755"))
	for _, device := range []string{"/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"} {
		must("mount point", os.WriteFile(root+device, nil, 0o600))
		must(device, unix.Mount(device, root+device, "", unix.MS_BIND, ""))
	}
	return root
}

// loopbackUp makes 127.0.0.1 work in a new network namespace.
func loopbackUp() error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, request)
}

// expectVersion: the program has the version that the document says.
func expectVersion(t *testing.T, root string, stage stage, row row) {
	t.Helper()
	kind, want, _ := strings.Cut(row.run, " ")
	if stage.goFile != "" {
		info, err := buildinfo.ReadFile(root + stage.goFile)
		if err != nil {
			t.Fatal(err)
		}
		if kind != "G" || info.Main.Version != want {
			t.Errorf("documented is %q, but this is the Go module %s", row.run, info.Main.Version)
		}
		return
	}
	status := readFile(t, root+"/var/lib/dpkg/status")
	version := regexp.MustCompile(`(?m)^Package: ` + stage.debian + `\n(?:.+\n)*?Version: (?:\d+:)?(\S+)`)
	found := version.FindStringSubmatch(status)
	if found == nil || kind != "D" || !strings.HasPrefix(found[1], want+".") && !strings.HasPrefix(found[1], want+"-") {
		t.Errorf("documented is %q, but the package %s is %q", row.run, stage.debian, found)
	}
}

// A container is a running one.
type container struct {
	t      *testing.T
	cmd    *exec.Cmd
	output bytes.Buffer
}

// start starts a container, with a PID namespace of its own.
func start(t *testing.T, ctx context.Context, root, user string, command ...[]string) *container {
	t.Helper()
	args := append([]string{enterMode, root, user}, slices.Concat(command...)...)
	c := &container{t: t, cmd: exec.CommandContext(ctx, "/proc/self/exe", args...)}
	c.cmd.Stdout, c.cmd.Stderr = &c.output, &c.output
	c.cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL,
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return c
}

// wait returns what the container has printed, and its exit code.
func (c *container) wait() (output string, code int) {
	err := c.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Errorf("%q: %v", c.cmd.Args, err)
	}
	return c.output.String(), c.cmd.ProcessState.ExitCode()
}

// build builds both programs, and returns their directory.
func build(t *testing.T) string {
	t.Helper()
	programs := t.TempDir()
	cmd := exec.Command("cmd/build", programs)
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cmd/build: %v\n%s", err, out)
	}
	return programs
}

// state is the directory that the script root fills.
func state(t *testing.T) string {
	t.Helper()
	directory, err := filepath.Abs("../.state/sidecars")
	if err != nil {
		t.Fatal(err)
	}
	return directory
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
