package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Who does something in a scene: the two wrappers, what each of them wraps, and
// the volume on which files appear.
const (
	sentinel = "sentinel"
	command  = "main"
	shim     = "shim"
	sidecar  = "proxy"
	volume   = "volume"
)

// wrapped is what a wrapper's output can also come from: a wrapped command
// writes to the very files of its wrapper.
var wrapped = map[string]string{sentinel: command, shim: sidecar}

// mainTerminated is the file by which the sentinel says that main has ended.
const mainTerminated = "main-terminated"

// last is the file by whose appearance the demo knows that it has seen all others.
const last = ".last"

// An event is something seen: a line of a wrapper's output, its end, or a file on
// the volume. Every line of a timeline stems from an event, or from what the demo
// itself does: nothing is assumed.
type event struct {
	at   time.Time
	who  string
	line string
	end  *os.ProcessState
	file string
}

// result is what came of a scene.
type result struct {
	scene   scene
	codes   map[string]int
	mainEnd time.Time // when main's end was seen
	shimEnd time.Time
	fault   error           // why it failed
	output  strings.Builder // of both wrappers and what they wrap
}

// code is the exit code of a wrapper, to show.
func (r *result) code(who string) string {
	if code, ok := r.codes[who]; ok {
		return strconv.Itoa(code)
	}
	return "none"
}

// reaction is how long the shim took to end the sidecar and itself, to show.
func (r *result) reaction() string {
	if r.scene.mainFirst || r.mainEnd.IsZero() || r.shimEnd.Before(r.mainEnd) {
		return "-"
	}
	return milliseconds(r.shimEnd.Sub(r.mainEnd))
}

// A stage is a scene while it is being played.
type stage struct {
	result
	bin     programs
	dir     string // the volume
	address string // of the proxy
	began   time.Time
	events  chan event
	pids    map[string]int
	running int  // how many wrappers are
	proxied bool // the proxy has written something
	drained bool // the last file has been seen
}

// play plays one scene and judges it.
func play(ctx context.Context, s scene, bin programs) *result {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	st := &stage{
		result: result{scene: s, codes: map[string]int{}},
		bin:    bin,
		began:  time.Now(),
		// Room for all that may come when a scene was broken off and
		// nobody listens any more.
		events: make(chan event, 1024),
		pids:   map[string]int{},
	}
	st.fault = st.run(ctx)
	return &st.result
}

// run plays the scene until nothing of it is left, or until something is not as it
// should be, and says what.
func (st *stage) run(ctx context.Context) (err error) {
	if st.dir, err = os.MkdirTemp("", "sentinel-shim-demo-"); err != nil {
		return err
	}
	defer os.RemoveAll(st.dir)
	defer killChildren()
	watcher, err := st.watch()
	if err != nil {
		return fmt.Errorf("watch the volume: %w", err)
	}
	defer watcher.Close()
	if st.address, err = freeAddress(); err != nil {
		return err
	}

	if !st.scene.mainFirst {
		if err := st.startShim(ctx); err != nil {
			return err
		}
	}
	if err := st.startSentinel(ctx); err != nil {
		return err
	}
	if err := st.handleUntil(ctx, func() bool { return st.running == 0 }); err != nil {
		return err
	}
	// What has appeared on the volume may not have been told yet. The kernel
	// keeps the order: once a last file of our own is seen, all is.
	if err := os.WriteFile(filepath.Join(st.dir, last), nil, 0o600); err != nil {
		return err
	}
	if err := st.handleUntil(ctx, func() bool { return st.drained }); err != nil {
		return err
	}
	if st.scene.mainFirst && st.proxied {
		return errors.New("the proxy was launched though main had ended")
	}
	return nil
}

// watch makes an event of every file that appears on the volume.
func (st *stage) watch() (*fsnotify.Watcher, error) {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	if err := watcher.Add(st.dir); err != nil {
		watcher.Close()
		return nil, err
	}
	go func() {
		for e := range watcher.Events {
			if e.Has(fsnotify.Create) {
				st.events <- event{at: time.Now(), who: volume, file: e.Name}
			}
		}
	}()
	return watcher, nil
}

// handleUntil handles events until done.
func (st *stage) handleUntil(ctx context.Context, done func() bool) error {
	for !done() {
		select {
		case e := <-st.events:
			if err := st.handle(ctx, e); err != nil {
				return err
			}
		case <-ctx.Done():
			return fmt.Errorf("broken off: %w, and %s not ended", ctx.Err(), st.unended())
		}
	}
	return nil
}

// unended is what has not ended, to show.
func (st *stage) unended() string {
	var names []string
	for _, who := range []string{sentinel, shim} {
		if _, ended := st.codes[who]; !ended {
			names = append(names, who+" or its "+wrapped[who])
		}
	}
	return strings.Join(names, ", ") + " has"
}

func (st *stage) startShim(ctx context.Context) error {
	_, port, _ := net.SplitHostPort(st.address)
	return st.start(ctx, shim, st.bin.shim, "--",
		st.bin.proxy, "--token", "any", "--lazy-refresh", "--port", port, "PROJECT:REGION:INSTANCE")
}

func (st *stage) startSentinel(ctx context.Context) error {
	if st.scene.mainFirst {
		return st.start(ctx, sentinel, st.bin.sentinel, "--", st.bin.main, command, st.scene.end)
	}
	return st.start(ctx, sentinel, st.bin.sentinel, "--wait-for", "tcp://"+st.address, "--",
		st.bin.main, command, st.scene.end, st.address)
}

// start starts a wrapper. All that is seen of it arrives as events.
func (st *stage) start(ctx context.Context, who string, argv ...string) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = w, w
	cmd.Env = append(os.Environ(), "SENTINEL_DIR="+st.dir, "SENTINEL_LOG_FORMAT=json",
		"SHIM_DIR="+st.dir, "SHIM_LOG_FORMAT=json")
	err = cmd.Start()
	w.Close()
	if err != nil {
		r.Close()
		return err
	}
	st.pids[who] = cmd.Process.Pid
	st.running++
	st.show(time.Now(), who, "started: "+st.brief(argv))
	go func() {
		defer r.Close()
		for lines := bufio.NewScanner(r); lines.Scan(); {
			st.events <- event{at: time.Now(), who: who, line: lines.Text()}
		}
		// Nothing is left that could write to it: the wrapper has ended,
		// and so has what it wraps. The state tells how.
		_ = cmd.Wait()
		st.events <- event{at: time.Now(), who: who, end: cmd.ProcessState}
	}()
	return nil
}

// handle shows an event and does what the scene does at it.
func (st *stage) handle(ctx context.Context, e event) error {
	switch {
	case e.end != nil:
		return st.ended(ctx, e)
	case e.file != "":
		st.appeared(e)
	default:
		st.wrote(e)
	}
	return nil
}

// ended shows the end of a wrapper and of what it wraps.
func (st *stage) ended(ctx context.Context, e event) error {
	st.running--
	text, code := ending(e.end)
	st.codes[e.who] = code
	if e.who == shim {
		st.shimEnd = e.at
	}
	st.show(e.at, e.who, text)
	if code != st.scene.want {
		return fmt.Errorf("%s's exit code is %d, not %d", e.who, code, st.scene.want)
	}
	if e.who == sentinel && st.scene.mainFirst {
		return st.startShim(ctx)
	}
	return nil
}

// wrote shows a line: a wrapper's own if it is a log line in JSON, else the
// wrapped command's.
func (st *stage) wrote(e event) {
	fmt.Fprintf(&st.output, "%-8s  %s\n", e.who, e.line)
	if text, ok := logLine(e.line); ok {
		st.show(e.at, e.who, text)
		return
	}
	who := wrapped[e.who]
	st.show(e.at, who, withoutClock(e.line))
	switch {
	case who == sidecar:
		st.proxied = true
	case st.scene.end == untilKilled && st.mainEnd.IsZero():
		st.killMain()
	}
}

// killMain kills all that there is in main's container, as the OOM killer does.
// The sentinel comes first: it must not live to see main's end.
func (st *stage) killMain() {
	pids := append([]int{st.pids[sentinel]}, children(st.pids[sentinel])...)
	st.mainEnd = time.Now()
	for _, pid := range pids {
		// One that is dead already died with its sentinel.
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	st.show(st.mainEnd, "demo", fmt.Sprintf("sends SIGKILL to the sentinel and its child, pids %d", pids))
}

// appeared shows a file that has appeared on the volume.
func (st *stage) appeared(e event) {
	name := filepath.Base(e.file)
	if name == last {
		st.drained = true
	}
	if strings.HasPrefix(name, ".") {
		return // a file that is not ready yet
	}
	if name == mainTerminated {
		st.mainEnd = e.at
	}
	text := name + " appeared"
	if content, err := os.ReadFile(e.file); err == nil {
		text += ": " + strings.TrimSpace(string(content))
	}
	st.show(e.at, volume, text)
}

// show writes a line of the timeline.
func (st *stage) show(now time.Time, who, what string) {
	const width = 96 // with what is before it, fits in 120 columns
	if runes := []rune(what); len(runes) > width {
		what = string(runes[:width-1]) + "…"
	}
	fmt.Printf("%12s  %-8s  %s\n", milliseconds(now.Sub(st.began)), who, what)
}

// logLine is a wrapper's log line, to show, if it is one.
func logLine(line string) (text string, ok bool) {
	var fields map[string]any
	if json.Unmarshal([]byte(line), &fields) != nil {
		return "", false
	}
	text = fmt.Sprint(fields["message"])
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		switch name {
		case "level", "time", "message", "logger", "main": // said already
		default:
			text += fmt.Sprintf(" %s=%v", name, fields[name])
		}
	}
	return text, true
}

// withoutClock is a line without the time of day that Go's log package, and so
// the proxy, begins it with: the timeline has a clock of its own.
func withoutClock(line string) string {
	const clock = "2006/01/02 15:04:05 "
	if len(line) > len(clock) {
		if _, err := time.Parse(clock, line[:len(clock)]); err == nil {
			return line[len(clock):]
		}
	}
	return line
}

// ending is how a process ended, to show, and its exit code as Kubernetes has it:
// 128+n for signal n.
func ending(state *os.ProcessState) (text string, code int) {
	status := state.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		code = 128 + int(status.Signal())
		return fmt.Sprintf("%s by signal %d (exit code %d); what it wrapped is gone too", status.Signal(), status.Signal(), code), code
	}
	return fmt.Sprintf("exited with %d", status.ExitStatus()), status.ExitStatus()
}

// freeAddress is an address on which the proxy can listen.
func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

// killChildren ends what is left of a scene that was broken off.
func killChildren() {
	for _, pid := range children(os.Getpid()) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// children are the processes whose parent is pid (proc_pid_task(5)).
func children(pid int) (pids []int) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		text, _ := os.ReadFile(list)
		for _, field := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(field); err == nil {
				pids = append(pids, child)
			}
		}
	}
	return pids
}

// brief is a command line, to show: its programs without their directories.
func (st *stage) brief(argv []string) string {
	words := slices.Clone(argv)
	for i, word := range words {
		switch word {
		case st.bin.sentinel, st.bin.shim, st.bin.proxy, st.bin.main:
			words[i] = filepath.Base(word)
		}
	}
	return strings.Join(words, " ")
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}
