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

// The sources of events: the two wrappers, the command that each of them wraps,
// and the volume.
const (
	sentinel = "sentinel"
	command  = "main"
	shim     = "shim"
	sidecar  = "proxy"
	volume   = "volume"
)

// wrapped has the wrapped command for each wrapper. A wrapper's output also has
// the lines of its wrapped command, which inherits its standard output and error.
var wrapped = map[string]string{sentinel: command, shim: sidecar}

// mainTerminated is the file by which the sentinel records the end of main.
const mainTerminated = "main-terminated"

// last is a file that the demo creates at the end: when the demo sees it, it has
// seen all other files.
const last = ".last"

// An event is something that the demo has observed: a line of a wrapper's output,
// the end of a wrapper, or a new file on the volume. Every line of the timeline is
// an event, or something that the demo itself does.
type event struct {
	at   time.Time
	who  string
	line string
	end  *os.ProcessState
	file string
}

// result is the result of a scene.
type result struct {
	scene   scene
	codes   map[string]int // the exit codes of the wrappers that have ended
	mainEnd time.Time      // when main's end was seen
	shimEnd time.Time
	fault   error           // why the scene failed
	output  strings.Builder // of both wrappers and their wrapped commands
}

// code returns the exit code of a wrapper, to print.
func (r *result) code(who string) string {
	if code, ok := r.codes[who]; ok {
		return strconv.Itoa(code)
	}
	return "none"
}

// reaction returns how long the shim took to end the sidecar and itself, to print.
func (r *result) reaction() string {
	if r.scene.mainFirst || r.mainEnd.IsZero() || r.shimEnd.Before(r.mainEnd) {
		return "-"
	}
	return milliseconds(r.shimEnd.Sub(r.mainEnd))
}

// A stage is a scene that is running.
type stage struct {
	result
	bin     programs
	dir     string // the volume
	address string // of the proxy
	began   time.Time
	events  chan event
	pids    map[string]int
	running int  // the number of wrappers that run
	proxied bool // the proxy has written something
	drained bool // the file last has been seen
}

// play runs one scene and returns its result.
func play(ctx context.Context, s scene, bin programs) *result {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	st := &stage{
		result: result{scene: s, codes: map[string]int{}},
		bin:    bin,
		began:  time.Now(),
		// Large enough for everything that comes after a scene was
		// cancelled, when nothing receives any more.
		events: make(chan event, 1024),
		pids:   map[string]int{},
	}
	st.fault = st.run(ctx)
	return &st.result
}

// run runs the scene until both wrappers have ended, or until something is not as
// expected, which it returns.
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
	// Some events of the volume may not have arrived yet. inotify keeps their
	// order, so when this file is seen, all others have been.
	if err := os.WriteFile(filepath.Join(st.dir, last), nil, 0o600); err != nil {
		return err
	}
	if err := st.handleUntil(ctx, func() bool { return st.drained }); err != nil {
		return err
	}
	if st.scene.mainFirst && st.proxied {
		return errors.New("the proxy was started although main had ended")
	}
	return nil
}

// watch sends an event for every new file on the volume.
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

// handleUntil handles events until done returns true.
func (st *stage) handleUntil(ctx context.Context, done func() bool) error {
	for !done() {
		select {
		case e := <-st.events:
			if err := st.handle(ctx, e); err != nil {
				return err
			}
		case <-ctx.Done():
			return fmt.Errorf("cancelled: %w: these have not ended: %s", ctx.Err(), st.unended())
		}
	}
	return nil
}

// unended lists the wrappers that have not ended, or whose wrapped commands have
// not.
func (st *stage) unended() string {
	var names []string
	for _, who := range []string{sentinel, shim} {
		if _, ended := st.codes[who]; !ended {
			names = append(names, who+" or its "+wrapped[who])
		}
	}
	return strings.Join(names, ", ")
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

// start starts a wrapper. Its output and its end arrive as events.
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
		// The pipe is closed, so the wrapper and its wrapped command have
		// ended.
		_ = cmd.Wait()
		st.events <- event{at: time.Now(), who: who, end: cmd.ProcessState}
	}()
	return nil
}

// handle prints an event, and does what the scene does then.
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

// ended prints the end of a wrapper and its wrapped command.
func (st *stage) ended(ctx context.Context, e event) error {
	st.running--
	text, code := ending(e.end)
	st.codes[e.who] = code
	if e.who == shim {
		st.shimEnd = e.at
	}
	st.show(e.at, e.who, text)
	if code != st.scene.want {
		return fmt.Errorf("%s's exit code is %d, want %d", e.who, code, st.scene.want)
	}
	if e.who == sentinel && st.scene.mainFirst {
		return st.startShim(ctx)
	}
	return nil
}

// wrote prints a line of output. A log line in JSON is the wrapper's, any other
// line the wrapped command's.
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

// killMain kills all processes of main's container, as the OOM killer does. The
// sentinel comes first, so that it cannot see and record main's end.
func (st *stage) killMain() {
	pids := append([]int{st.pids[sentinel]}, children(st.pids[sentinel])...)
	st.mainEnd = time.Now()
	for _, pid := range pids {
		// An error means that the process has already ended with its sentinel.
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	st.show(st.mainEnd, "demo", fmt.Sprintf("sends SIGKILL to the sentinel and its child, pids %d", pids))
}

// appeared prints a file that is new on the volume.
func (st *stage) appeared(e event) {
	name := filepath.Base(e.file)
	if name == last {
		st.drained = true
	}
	if strings.HasPrefix(name, ".") {
		return // a private file, which is not complete yet
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

// show prints a line of the timeline.
func (st *stage) show(now time.Time, who, what string) {
	const width = 96 // the whole line then fits in 120 columns
	if runes := []rune(what); len(runes) > width {
		what = string(runes[:width-1]) + "…"
	}
	fmt.Printf("%12s  %-8s  %s\n", milliseconds(now.Sub(st.began)), who, what)
}

// logLine returns a wrapper's log line, to print; ok is false if the line is not
// in JSON.
func logLine(line string) (text string, ok bool) {
	var fields map[string]any
	if json.Unmarshal([]byte(line), &fields) != nil {
		return "", false
	}
	text = fmt.Sprint(fields["message"])
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		switch name {
		case "level", "time", "message", "logger", "main": // the timeline has these already
		default:
			text += fmt.Sprintf(" %s=%v", name, fields[name])
		}
	}
	return text, true
}

// withoutClock removes the time at the beginning of a line of Go's log package,
// which the proxy uses. The timeline has its own times.
func withoutClock(line string) string {
	const clock = "2006/01/02 15:04:05 "
	if len(line) > len(clock) {
		if _, err := time.Parse(clock, line[:len(clock)]); err == nil {
			return line[len(clock):]
		}
	}
	return line
}

// ending returns how a process ended, to print, and its exit code as in Kubernetes:
// 128+n for signal n.
func ending(state *os.ProcessState) (text string, code int) {
	status := state.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		code = 128 + int(status.Signal())
		return fmt.Sprintf("%s by signal %d (exit code %d); its wrapped command has ended, too",
			status.Signal(), status.Signal(), code), code
	}
	return fmt.Sprintf("exited with %d", status.ExitStatus()), status.ExitStatus()
}

// freeAddress returns an address on which the proxy can listen.
func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

// killChildren kills the processes that are left of a scene that failed or was
// cancelled.
func killChildren() {
	for _, pid := range children(os.Getpid()) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// children returns the processes whose parent is pid (proc_pid_task(5)).
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

// brief returns a command line, to print: its programs without their directories.
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
