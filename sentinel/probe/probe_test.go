package probe

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// target parses a valid address.
func target(t *testing.T, format string, args ...any) Target {
	t.Helper()
	tt, err := Parse(fmt.Sprintf(format, args...))
	if err != nil {
		t.Fatal(err)
	}
	return tt
}

// listen opens a listener and handles its connections one after the other;
// n counts them from 1. The connection is closed after handle.
func listen(t *testing.T, network, address string, handle func(n int, c net.Conn)) net.Listener {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for n := 1; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			handle(n, c)
			c.Close()
		}
	}()
	return l
}

// quiet reads until the peer closes the connection, and answers nothing.
func quiet(_ int, c net.Conn) { io.Copy(io.Discard, c) }

// request reads a request up to the blank line.
func request(c net.Conn) string {
	var b strings.Builder
	for r := bufio.NewReader(c); ; {
		line, err := r.ReadString('\n')
		b.WriteString(line)
		if err != nil || line == "\r\n" {
			return b.String()
		}
	}
}

// within returns a context for what should end by itself. It ends after 30 s.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// unused returns an address that refuses connections until the test ends.
func unused(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	// The local port of a connection: no one listens on it, and no other socket gets it.
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); l.Close() })
	return c.LocalAddr().String()
}

// wait is Wait without reports.
func wait(ctx context.Context, targets []Target) error {
	return Wait(ctx, targets, func(Target) {}, func(error) {})
}

func TestWaitAnswered(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "a b")
	testenv.Plant(t, file, "")
	tcp := listen(t, "tcp", "127.0.0.1:0", func(int, net.Conn) {})
	listen(t, "unix", filepath.Join(dir, "sock"), func(int, net.Conn) {})
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusNoContent)
	}))
	defer web.Close()
	targets := []Target{
		target(t, "tcp://%s", tcp.Addr()),
		target(t, "unix://%s/sock", dir),
		target(t, "file://%s/a%%20b", dir),
		target(t, "file://%s", dir),
		target(t, "%s/ready", web.URL),
		target(t, "tcp://%s", tcp.Addr()), // the same twice
	}
	if err := wait(within(t), targets); err != nil {
		t.Error(err)
	}
	if err := wait(within(t), nil); err != nil {
		t.Errorf("no targets: %v", err)
	}
}

// An address that does not answer at first is asked again.
func TestWaitAppears(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var asked atomic.Int32
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch asked.Add(1) {
		case 1:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 2:
			w.WriteHeader(http.StatusFound)
		case 3:
			if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
				t.Error(err)
			}
			listen(t, "unix", filepath.Join(dir, "sock"), func(int, net.Conn) {})
			w.WriteHeader(http.StatusServiceUnavailable)
		default:
			w.WriteHeader(http.StatusOK)
		}
	}))
	defer web.Close()
	err := wait(within(t), []Target{
		target(t, "file://%s/file", dir), target(t, "unix://%s/sock", dir), target(t, "%s/", web.URL)})
	if err != nil {
		t.Error(err)
	}
	if n := asked.Load(); n != 4 {
		t.Errorf("asked %d times, want 4: not again after an answer", n)
	}
}

// An address that has answered once is not asked again.
func TestWaitAsksNoMore(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	var asked atomic.Int32
	once := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) > 1 {
			cancel()
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer once.Close()
	// This one is asked as often as the other one would be.
	var attempts atomic.Int32
	later := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Load() == 0 || attempts.Add(1) < 5 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer later.Close()
	var answered []string
	targets := []Target{target(t, "%s/once", once.URL), target(t, "%s/later", later.URL)}
	err := Wait(ctx, targets, func(t Target) { answered = append(answered, t.String()) }, func(error) {})
	if want := []string{targets[0].String(), targets[1].String()}; err != nil || !slices.Equal(answered, want) {
		t.Errorf("Wait = %v, answered: %q; want %q", err, answered, want)
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
}

// Every ReportInterval, Wait reports what has not answered, and why.
func TestWaitReports(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	here, missing := target(t, "file://%s", dir), target(t, "file://%s/missing", dir)
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var events []string
		event := func(what any) {
			events = append(events, fmt.Sprintf("%s: %v", time.Since(begin).Truncate(time.Second), what))
		}
		err := Wait(t.Context(), []Target{here, missing}, func(t Target) { event(t) }, func(err error) {
			if event(err); len(events) == 3 {
				if err := os.WriteFile(filepath.Join(dir, "missing"), nil, 0o600); err != nil {
					t.Error(err)
				}
			}
		})
		failure := missing.String() + ": no such file or directory"
		want := []string{"0s: " + here.String(), "10s: " + failure, "20s: " + failure, "20s: " + missing.String()}
		if err != nil || !slices.Equal(events, want) {
			t.Errorf("Wait = %v, having reported %q, want %q", err, events, want)
		}
	})
}

// One answer of a name's addresses is enough. An address that does not answer does not use up
// the Timeout of the others.
func TestAskSeveral(t *testing.T) {
	t.Parallel()
	mute := listen(t, "tcp", "127.0.0.1:0", quiet).Addr().String()
	answering := listen(t, "tcp", "127.0.0.1:0", func(_ int, c net.Conn) {
		request(c)
		io.WriteString(c, "HTTP/1.0 200\n")
	}).Addr().String()
	refusing, web := unused(t), target(t, "http://web/")
	for _, addresses := range [][]string{
		{answering}, {refusing, answering}, {mute, answering}, {answering, mute},
		{mute, mute, refusing, mute, answering},
	} {
		if err := web.ask(within(t), "tcp", addresses...); err != nil {
			t.Errorf("%q: %v", addresses, err)
		}
	}
	for _, c := range []struct {
		addresses []string
		says      string
	}{
		{[]string{refusing, refusing}, "connection refused"},
		{[]string{refusing, mute}, "connection refused"},
		{[]string{mute, mute}, "no answer"},
	} {
		if err := web.ask(within(t), "tcp", c.addresses...); err == nil || err.Error() != c.says {
			t.Errorf("%q: %v, want %q", c.addresses, err, c.says)
		}
	}
}

// Each of two servers answers only once the other has been asked.
func TestWaitConcurrently(t *testing.T) {
	t.Parallel()
	var asked sync.WaitGroup
	asked.Add(2)
	handle := func(_ int, c net.Conn) {
		request(c)
		asked.Done()
		asked.Wait()
		io.WriteString(c, "HTTP/1.0 200\n")
	}
	a, b := listen(t, "tcp", "127.0.0.1:0", handle), listen(t, "tcp", "127.0.0.1:0", handle)
	targets := []Target{target(t, "http://%s", a.Addr()), target(t, "http://%s", b.Addr())}
	if err := wait(within(t), targets); err != nil {
		t.Error(err)
	}
}

// An attempt without an answer ends after Timeout, and the next one may succeed.
func TestWaitGivesAttemptUp(t *testing.T) {
	t.Parallel()
	silent := listen(t, "tcp", "127.0.0.1:0", func(n int, c net.Conn) {
		if request(c); n == 1 {
			quiet(n, c)
			return
		}
		io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
	})
	trickling := listen(t, "tcp", "127.0.0.1:0", func(n int, c net.Conn) {
		if request(c); n == 1 {
			trickle(n, c)
			return
		}
		io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n")
	})
	begin := time.Now()
	targets := []Target{target(t, "http://%s", silent.Addr()), target(t, "http://%s", trickling.Addr())}
	if err := wait(within(t), targets); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took < Timeout {
		t.Errorf("answered after %v, before the first attempt can have ended", took)
	}
}

// trickle sends an endless status line, slowly.
func trickle(_ int, c net.Conn) {
	for s := "HTTP/1.1 200 O"; ; s = "K" {
		if _, err := io.WriteString(c, s); err != nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// The error of an attempt says why it failed.
func TestTry(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	testenv.Plant(t, filepath.Join(dir, "plain"), "")
	server := func(s string) net.Addr {
		return listen(t, "tcp", "127.0.0.1:0", func(_ int, c net.Conn) { request(c); io.WriteString(c, s) }).Addr()
	}
	refusing := unused(t)
	for _, c := range []struct {
		target Target
		says   string
	}{
		{target(t, "tcp://%s", refusing), "connection refused"},
		{target(t, "http://%s/", refusing), "connection refused"},
		{target(t, "unix://%s/sock", dir), "no such file or directory"},
		{target(t, "unix://%s/plain", dir), "connection refused"},
		{target(t, "file://%s/none", dir), "no such file or directory"},
		{target(t, "file://%s/plain/none", dir), "not a directory"},
		{target(t, "http://%s/", server("HTTP/1.1 503 Service Unavailable\r\n\r\n")), "answered with status 503"},
		{target(t, "http://%s/", server("HTTP/1.1 301 Moved\r\nLocation: /\r\n\r\n")),
			"answered with status 301 (redirects are not followed)"},
		{target(t, "http://%s/", server("SSH-2.0-OpenSSH_9.2\r\n")), `not an HTTP answer: "SSH-2.0-OpenSSH_9.2"`},
		{target(t, "http://%s/", server("")), "the connection was closed without an HTTP answer"},
	} {
		if err := c.target.try(within(t), func(error) {}); err == nil || err.Error() != c.says {
			t.Errorf("%s: %v, want %q", c.target, err, c.says)
		}
	}
}

// Wait ends with its context, also in the middle of an attempt.
func TestWaitEnds(t *testing.T) {
	t.Parallel()
	for name, handle := range map[string]func(int, net.Conn){"silent": quiet, "trickling": trickle} {
		tt := target(t, "http://%s/", listen(t, "tcp", "127.0.0.1:0", handle).Addr())
		ctx, cancel := context.WithTimeout(t.Context(), Interval)
		defer cancel()
		err := wait(ctx, []Target{tt})
		if want := tt.String() + ": no answer"; !errors.Is(err, context.DeadlineExceeded) || err.Error() != want {
			t.Errorf("%s server: Wait = %v, want %q, being context.DeadlineExceeded", name, err, want)
		}
	}
}

// late is a context whose deadline is over but whose Done is not closed yet.
type late struct{ context.Context }

func (late) Deadline() (time.Time, bool) { return time.Now().Add(-time.Second), true }

// An attempt that the deadline cuts off is not reported: the failure before it stays.
func TestWaitKeepsFailure(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	target(t, "unix://%s/sock", dir).askUntilAnswered(late{ctx}, func(err error) {
		t.Errorf("reported: %v", err)
		cancel()
	})
}

// TestTryTellsOfTheConnection: from then on, no nameserver is to blame.
func TestTryTellsOfTheConnection(t *testing.T) {
	t.Parallel()
	l := listen(t, "tcp", "127.0.0.1:0", func(int, net.Conn) {})
	var told []error
	err := target(t, "tcp://%s", l.Addr()).try(within(t), func(err error) { told = append(told, err) })
	if err != nil || !slices.Equal(told, []error{errNoAnswer}) {
		t.Errorf("it told %v, and ended with %v", told, err)
	}
}

// TestAskAfterTheEnd: what has answered counts though ctx has ended meanwhile; a failure does not,
// for it may be that end.
func TestAskAfterTheEnd(t *testing.T) {
	t.Parallel()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		target Target
		want   []error
	}{
		{target(t, "file://%s", t.TempDir()), []error{nil}},
		{target(t, "file://%s/none", t.TempDir()), nil},
	} {
		var got []error
		c.target.askUntilAnswered(ended, func(err error) { got = append(got, err) })
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: reported %v, want %v", c.target, got, c.want)
		}
	}
}

// The error of Wait has each address that has not answered with its last
// failure, none that has, and is the context's cause.
func TestWaitNamesFailures(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	// A second connection shows that the failure of the first attempt has been reported.
	var again sync.WaitGroup
	again.Add(2)
	server := func(s string) Target {
		return target(t, "http://%s/", listen(t, "tcp", "127.0.0.1:0", func(n int, c net.Conn) {
			if request(c); n == 2 {
				again.Done()
			}
			io.WriteString(c, s)
		}).Addr())
	}
	a, b, c := server(""), target(t, "file:///proc/self"), server("HTTP/1.0 500\n\n")
	stop := errors.New("SIGTERM")
	go func() { again.Wait(); cancel(stop) }()
	err := wait(ctx, []Target{a, b, c})
	want := fmt.Sprintf("%s: the connection was closed without an HTTP answer; %s: answered with status 500", a, c)
	if err == nil || err.Error() != want || !errors.Is(err, stop) {
		t.Errorf("Wait = %v, want %q, being the context's cause", err, want)
	}
}
