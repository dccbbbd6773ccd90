package main_test

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// These tests are about --wait-for.

// TestWaitInVain: after --wait-timeout the exit code is 124, the command is not started, and the error names every
// address that has not answered.
func TestWaitInVain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	here, missing := "file://"+dir, []string{"file://" + dir + "/one", "unix://" + dir + "/two"}
	start := time.Now()
	flags := []string{"--wait-for", missing[0], "--wait-for", here + " " + missing[1], "--wait-timeout", "1s"}
	p := sentinel(t, dir, flags, "echo", "launched")
	p.Want(124)
	if took := time.Since(start); took < time.Second {
		t.Errorf("sentinel gave up after %s, before the --wait-timeout of 1s", took)
	}
	p.Await("waiting for " + missing[0] + ", " + here + ", " + missing[1] + ", at most 1s\"")
	p.Await(here + " answered after ")
	const why = ": no such file or directory"
	p.Await("echo was not started: --wait-for timed out after --wait-timeout 1s: " +
		missing[0] + why + "; " + missing[1] + why + "\"")
	if strings.Contains(p.Output(), "launched\n") {
		t.Errorf("the command was launched:\n%s", p.Output())
	}
	wantRecord(t, dir, 124)
}

// TestWaitNamesEndedSidecars: the error after --wait-timeout names the sidecars that have ended, and no live one.
func TestWaitNamesEndedSidecars(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	stopping(t, dir, "lives")
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "cloud-sql-proxy-terminated"), []byte("1\n"), 0o644),
		os.WriteFile(filepath.Join(dir, "statsd-terminated"), []byte("0\n"), 0o644),
	); err != nil {
		t.Fatal(err)
	}
	p := sentinel(t, dir, []string{"--wait-for", "file:///no/such/file", "--wait-timeout", "500ms"}, "true")
	p.Want(124)
	p.Await("file:///no/such/file: no such file or directory; " +
		"cloud-sql-proxy has ended with 1: see its log; statsd has ended with 0: see its log\"")
}

// TestWaitSpeaks: sentinel logs at once which addresses it waits for, every 10 s which have not answered, and each
// answer.
func TestWaitSpeaks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ready, flaky := "file://"+dir+"/ready", "file://"+dir+"/flaky"
	p := sentinel(t, dir, []string{"--wait-for", flaky + " " + ready}, "echo", "launched")
	p.Await("waiting for " + flaky + ", " + ready + ", at most 1m0s\"")
	testenv.Plant(t, filepath.Join(dir, "flaky"), "")
	p.Await(flaky + " answered after ")
	// An address that has answered may disappear.
	if err := errors.Join(os.Remove(filepath.Join(dir, "flaky")),
		os.WriteFile(filepath.Join(dir, "proxy-terminated"), []byte("1\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	p.Await("still waiting after 1") // 10 s, or a little more on a busy machine
	p.Await("s: " + ready + ": no such file or directory; proxy has ended with 1: see its log\"")
	testenv.Plant(t, filepath.Join(dir, "ready"), "")
	p.Await(ready + " answered after 1")
	p.Await("launched\n")
	p.Want(0)
}

// The name that a test waits for, and the address that a nameserver has for it.
const (
	waitedName = "db.example"
	waitedIP   = "127.0.0.9"
)

// TestNameservers: a nameserver that does not answer delays --wait-for, but does not make it fail, although Go waits
// 5 s for that nameserver and an attempt has 2 s. If a name cannot be resolved, the error says so.
func TestNameservers(t *testing.T) {
	t.Parallel()
	const target = "tcp://" + waitedName + ":5432"
	const mute, answering = "127.0.0.2", "127.0.0.3"
	const inVain = target + ": cannot resolve " + waitedName + ": the nameserver "
	for _, c := range []struct {
		name       string
		resolvConf string
		timeout    string
		wait       string // an address
		code       int
		says       []string
	}{
		{"the first is mute", "nameserver " + mute + "\nnameserver " + answering, "1m", target, 0,
			[]string{target + " answered after "}},
		{"all are mute", "nameserver " + mute, "2s", target, 124,
			[]string{inVain + mute + " has not answered (see /etc/resolv.conf)"}},
		{"all are mute, and Go gives up", "nameserver " + mute + "\noptions timeout:1 attempts:1", "5s", target, 124,
			[]string{inVain + mute + " did not answer (see /etc/resolv.conf)"}},
		// Without a nameserver, Go asks this machine.
		{"all are mute, and SIGTERM comes", "nameserver " + mute, "1h", target, 143,
			[]string{"true was not started: SIGTERM came before"}},
		{"there is none", "", "2s", target, 124,
			[]string{inVain, " failed: connection refused (see /etc/resolv.conf)"}},
		{"none is needed", "", "1m", "tcp://" + waitedIP + ":5432", 0,
			[]string{"tcp://" + waitedIP + ":5432 answered after "}},
		{"no such name", "nameserver " + answering, "2s", "http://cache.example/", 124,
			[]string{"http://cache.example/: cannot resolve cache.example: no such host"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			testenv.NeedRoot(t, "to make a network namespace")
			t.Parallel()
			dir := t.TempDir()
			conf := filepath.Join(t.TempDir(), "resolv.conf")
			testenv.Plant(t, conf, c.resolvConf+"\n")
			flags := []string{"--dir", dir, "--wait-for", c.wait, "--wait-timeout", c.timeout}
			argv := append([]string{conf, mute, answering}, drive.Wrap("sentinel", flags, []string{"true"})...)
			p := drive.Start(t, drive.Command("nameserved", argv...), inNetwork(t))
			if c.code == 128+int(syscall.SIGTERM) {
				p.Await("waiting for ")
				p.Signal(syscall.SIGTERM)
			}
			p.Want(c.code)
			for _, text := range c.says {
				p.Await(text)
			}
			if out := p.Output(); strings.Contains(out, "no answer") || strings.Contains(out, "lookup") {
				t.Errorf("the log contains \"no answer\", or Go's word \"lookup\":\n%s", out)
			}
			wantRecord(t, dir, c.code)
		})
	}
}

// inNetwork gives a command a network and mounts of its own, as a container has them.
func inNetwork(t *testing.T) func(*exec.Cmd) {
	t.Helper()
	namespace := func(cmd *exec.Cmd) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS}
	}
	try := exec.Command("true")
	if namespace(try); try.Run() != nil {
		t.Skip("needs root with the right to make a network namespace (CAP_SYS_ADMIN)")
	}
	return namespace
}

// nameserved is a mode that runs a command line beside two nameservers: one does not answer, and one knows waitedName.
// At waitedIP a server listens. It is for a network of its own.
//
//	nameserved RESOLV-CONF MUTE-IP ANSWERING-IP PROGRAM [ARG...]
func nameserved(args []string) int {
	conf, mute, answering, argv := args[0], args[1], args[2], args[3:]
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	must(unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""))
	must(unix.Mount(conf, "/etc/resolv.conf", "", unix.MS_BIND, ""))
	must(loopbackUp())
	silent, err := net.ListenPacket("udp", mute+":53")
	must(err)
	defer silent.Close()
	nameserver, err := net.ListenPacket("udp", answering+":53")
	must(err)
	go serveNames(nameserver)
	server, err := net.Listen("tcp", waitedIP+":5432") // the kernel accepts
	must(err)
	defer server.Close()

	runtime.LockOSThread() // Pdeathsig is about the end of the thread
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	must(cmd.Start())
	go func() { _ = cmd.Process.Signal(<-signals) }()
	_ = cmd.Wait()
	return cmd.ProcessState.ExitCode()
}

// loopbackUp does the same as: ip link set lo up.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}

// serveNames is a nameserver (RFC 1035, 4.1) that knows only the IPv4 address of waitedName.
func serveNames(conn net.PacketConn) {
	const header = 12 // bytes
	query := make([]byte, 512)
	for {
		n, from, err := conn.ReadFrom(query)
		if err != nil || n < header {
			return
		}
		// The question: labels, each with its length, and an empty one at the end; type; class.
		var labels []string
		at := header
		for ; query[at] > 0; at += 1 + int(query[at]) {
			labels = append(labels, string(query[at+1:at+1+int(query[at])]))
		}
		known := strings.Join(labels, ".") == waitedName
		typeA := query[at+1] == 0 && query[at+2] == 1
		question := query[header : at+5]

		flags, answers := uint8(0), uint8(0)
		if !known {
			flags = 3 // NXDOMAIN
		}
		if known && typeA {
			answers = 1
		}
		reply := []byte{query[0], query[1], 0x81, 0x80 | flags, 0, 1, 0, answers, 0, 0, 0, 0}
		reply = append(reply, question...)
		if answers > 0 { // the name of the question, A, IN, valid for 0 s, 4 bytes
			reply = append(reply, 0xc0, header, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4)
			reply = append(reply, net.ParseIP(waitedIP).To4()...)
		}
		_, _ = conn.WriteTo(reply, from)
	}
}
