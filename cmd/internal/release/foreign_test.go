package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// emulators are the names of QEMU's programs that run programs for another processor (qemu-user).
var emulators = map[string]string{
	"amd64": "x86_64", "arm64": "aarch64", "arm": "arm", "ppc64le": "ppc64le", "s390x": "s390x", "riscv64": "riscv64",
}

// emulator returns the command that runs programs for a platform; nothing if they run here as they are.
func emulator(t *testing.T, p platform) []string {
	t.Helper()
	if p.arch == runtime.GOARCH {
		return nil
	}
	name := "qemu-" + emulators[p.arch]
	for _, name := range []string{name + "-static", name} {
		if found, err := exec.LookPath(name); err == nil {
			return []string{found}
		}
	}
	t.Fatalf("%s is missing: apt-get install qemu-user-static", name)
	return nil
}

// pod is a volume, and the programs of a platform. What they wrap are programs of this machine.
type pod struct {
	t        *testing.T
	dir      string
	emulator []string
	programs string // their directory
}

// run starts a program. Its log is for people.
func (p pod) run(program string, args ...string) *drive.Process {
	p.t.Helper()
	argv := append(append([]string{}, p.emulator...), filepath.Join(p.programs, program))
	return drive.Start(p.t, append(argv, args...))
}

// sentinel starts a sentinel around a command.
func (p pod) sentinel(command ...string) *drive.Process {
	p.t.Helper()
	return p.run("sentinel", append([]string{"--dir", p.dir, "--"}, command...)...)
}

// shim starts a shim around a sidecar that only a signal ends, and waits until it is started.
func (p pod) shim(flags ...string) *drive.Process {
	p.t.Helper()
	args := append([]string{"--dir", p.dir, "--name", "sidecar"}, flags...)
	s := p.run("shim", append(args, "--", "sleep", "1000")...)
	s.Await("sleep started")
	return s
}

// ended is a run's end in a listing of the volume.
func ended(name string, code int) string { return fmt.Sprintf("%s-terminated=\"%d\\n\"", name, code) }

// smoke is what the programs of each platform have to do.
var smoke = map[string]func(p pod){
	"version": func(p pod) {
		for _, program := range programs {
			v := p.run(program, "--version")
			v.Want(0)
			if got, want := v.Output(), program+" version "+*version+"\n"; got != want {
				p.t.Errorf("%s --version: %q, want %q", program, got, want)
			}
		}
	},
	"copy": func(p pod) {
		p.run("sentinel", "--copy-to", p.dir).Want(0)
		for _, program := range programs {
			if string(readFile(p.t, p.dir, program)) != string(readFile(p.t, p.programs, program)) {
				p.t.Errorf("the copy of %s is not %s", program, program)
			}
		}
	},
	"success": func(p pod) {
		p.sentinel("true").Want(0)
		testenv.WantListing(p.t, p.dir, ended("main", 0))
	},
	"failure": func(p pod) {
		p.sentinel("sh", "-c", "exit 3").Want(3)
		testenv.WantListing(p.t, p.dir, ended("main", 3))
	},
	"not found": func(p pod) {
		p.sentinel("no-such-command").Want(127)
		testenv.WantListing(p.t, p.dir, ended("main", 127))
	},
	"main's code": func(p pod) {
		s := p.shim()
		p.sentinel("sh", "-c", "exit 3").Want(3)
		s.Want(3)
		if strings.Contains(s.Output(), `"level":"warn"`) {
			p.t.Errorf("something that the shim needs is missing:\n%s", s.Output())
		}
		testenv.WantListing(p.t, p.dir, ended("main", 3), ended("sidecar", 3))
	},
	"a lost main": func(p pod) {
		s := p.shim("--lost-after", "1h") // so that only the lock tells it
		m := p.sentinel("sleep", "1000")
		s.Await("main is running")
		m.Kill()
		s.Want(137)
		s.Await("main was killed before it could record an exit code")
		m.AwaitAll() // its command has been killed with it
	},
	"TERM to sentinel": func(p pod) {
		s := p.shim()
		m := p.sentinel("sleep", "1000")
		m.Await("sleep started")
		m.Signal(syscall.SIGTERM)
		m.Want(143)
		s.Want(143)
		testenv.WantListing(p.t, p.dir, ended("main", 143), ended("sidecar", 143))
	},
	"TERM to shim without a main": func(p pod) {
		s := p.shim()
		s.Signal(syscall.SIGTERM)
		s.Want(143)
	},
	"TERM to shim while main runs": func(p pod) {
		s := p.shim("--hold", "1h")
		m := p.sentinel("sh", "-c", "trap 'exit 3' USR1; echo ready; while :; do sleep 0.02; done")
		m.Await("ready")
		s.Await("main is running")
		s.Signal(syscall.SIGTERM)
		s.Await("is kept until main has ended")
		m.Signal(syscall.SIGUSR1)
		m.Want(3)
		s.Want(3)
		testenv.WantListing(p.t, p.dir, ended("main", 3), ended("sidecar", 3))
	},
}

// TestForeign runs the programs of each archive: those for other processors in QEMU.
func TestForeign(t *testing.T) {
	needRelease(t)
	for _, on := range platforms {
		t.Run(on.slug(), func(t *testing.T) {
			t.Parallel()
			qemu, programs := emulator(t, on), extract(t, on)
			for name, run := range smoke {
				t.Run(name, func(t *testing.T) {
					run(pod{t, testenv.Volume(t), qemu, programs})
				})
			}
		})
	}
}

// extract writes the programs of a platform to a directory.
func extract(t *testing.T, p platform) (dir string) {
	t.Helper()
	dir = t.TempDir()
	top := fmt.Sprintf("sentinel-shim_%s_%s", *version, p.slug())
	_, _, contents := unpack(t, readFile(t, *dist, top+".tar.gz"))
	for _, name := range programs {
		if err := os.WriteFile(filepath.Join(dir, name), contents[top+"/"+name], 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
