package probe

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/sentinel-shim/sentinel-shim/internal/testenv"
)

func TestParse(t *testing.T) {
	const tail = " HTTP/1.1\r\nHost: %s\r\nUser-Agent: sentinel\r\nAccept: */*\r\nConnection: close\r\n\r\n"
	get := func(uri, host string) string { return "GET " + uri + fmt.Sprintf(tail, host) }
	socket := "/" + strings.Repeat("s", maxSocket-1)
	name := strings.Repeat("d", 254)
	for _, c := range []struct{ in, scheme, address, request string }{
		{"tcp://127.0.0.1:5432", "tcp", "127.0.0.1:5432", ""},
		{"tcp://localhost:1", "tcp", "localhost:1", ""},
		{"tcp://my_db-0.db.svc.cluster.local.:65535", "tcp", "my_db-0.db.svc.cluster.local.:65535", ""},
		{"tcp://[::1]:80", "tcp", "[::1]:80", ""},
		{"tcp://[fe80::1%25eth0]:80", "tcp", "[fe80::1%eth0]:80", ""},
		{"TCP://db:080", "tcp", "db:80", ""},
		{"tcp://aAzZ09:1", "tcp", "aAzZ09:1", ""},
		{"tcp://" + name + ":1", "tcp", name + ":1", ""},
		{"unix:///run/app.sock", "unix", "/run/app.sock", ""},
		{"unix://" + socket, "unix", socket, ""},
		{"file:///tmp/pod/ready", "file", "/tmp/pod/ready", ""},
		{"file://" + socket + "s", "file", socket + "s", ""},
		{"file:///a%20b%23%3F%25ü", "file", "/a b#?%ü", ""},
		{"http://web", "http", "web:80", get("/", "web")},
		{"http://web:80/", "http", "web:80", get("/", "web")},
		{"http://web:8080/healthz?a=1,2&b=%20", "http", "web:8080", get("/healthz?a=1,2&b=%20", "web:8080")},
		{"http://web?q", "http", "web:80", get("/?q", "web")},
		{"http://web/a%2Fb^", "http", "web:80", get("/a%2Fb^", "web")},
		{"http://web//a?/b", "http", "web:80", get("//a?/b", "web")},
		{"http://[::1]/", "http", "[::1]:80", get("/", "[::1]")},
		{"http://[fe80::1%25eth0]:8080/x", "http", "[fe80::1%eth0]:8080", get("/x", "[fe80::1]:8080")},
	} {
		got, err := Parse(c.in)
		if want := (Target{c.in, c.scheme, c.address, c.request}); err != nil || got != want {
			t.Errorf("Parse(%q) = %+v, %v; want %+v", c.in, got, err, want)
		}
		if got.String() != c.in {
			t.Errorf("Parse(%q).String() = %q", c.in, got)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct{ in, says string }{
		{"", "it is empty"},
		{"db", "does not begin with tcp://, unix://, file:// or http://"},
		{"db:5432", "does not begin with tcp://, unix://, file:// or http://"},
		{"/run/app.sock", "does not begin with tcp://, unix://, file:// or http://"},
		{"udp://db:53", "does not begin with tcp://, unix://, file:// or http://"},
		{"https://web/", "no TLS"},
		{"://", "does not begin with tcp://"},
		{"127.0.0.1:5432", "does not begin with tcp://"},
		{"%zz", "does not begin with tcp://"},
		{"tcp:db:5432", "does not begin with tcp://"},
		{"tcp:/db:5432", "does not begin with tcp://"},
		{"unix:/run/app.sock", "does not begin with tcp://"},
		{"tcp://db", "the port is missing"},
		{"tcp://db:", "the port is missing"},
		{"tcp://[::1]", "the port is missing"},
		{"http://web:/", "the port is missing"},
		{"tcp://db:0", `"0" is no port`},
		{"tcp://db:65536", `"65536" is no port`},
		{"tcp://db:postgres", `"db:postgres" is no HOST:PORT (a port is a number`},
		{"tcp://db:+1", `"db:+1" is no HOST:PORT`},
		{"tcp://:5432", "the host is missing"},
		{"http:///ready", "the host is missing"},
		{"tcp://::1:5432", "into brackets"},
		{"tcp://[127.0.0.1]:5432", "an IPv6 address and nothing else goes into brackets"},
		{"tcp://[::1]x:5432", `"[::1]x:5432" is no HOST:PORT`},
		{"http://[::1/ready?x", `"[::1" is no HOST:PORT`},
		{"tcp://[fe80::1%eth0]:80", "the % of its zone as %25"},
		{"tcp://d%41b:80", `"d%41b:80" is no HOST:PORT`},
		{"tcp://d\"b:5432", "neither a host name nor an IPv4 address"},
		{"tcp://dß:5432", "neither a host name nor an IPv4 address"},
		{"tcp://" + strings.Repeat("d", 255) + ":1", "neither a host name nor an IPv4 address"},
		{"tcp://db:5432/", `"/" is too much`},
		{"tcp://db:5432/x", `"/x" is too much`},
		{"tcp://db:5432?x", "a query"},
		{"tcp://db:5432?", "a query"},
		{"tcp://me@db:5432", "credentials"},
		{"http://me:secret@web/", "credentials"},
		{"http://@web/", "credentials"},
		{"https://me:secret@web/", "no TLS"},
		{"postgres://me:secret@db:5432/app", "does not begin with tcp://, unix://, file:// or http://"},
		{"postgres://me:se/cret:secret@db:5432/app", "credentials"}, // not escaped: no URL
		{"tcp://me:12/secret@db:5432", "credentials"},
		{"me:secret@db", "does not begin with tcp://, unix://, file:// or http://"},
		{"me:secret@db", `address "xxxxx@db": `},
		{"@db", `address "xxxxx@db": `},
		{"https://secret@web/", "xxxxx@web"},
		{"file:///a:b@c?", `"file:///a:b@c?"`},
		{"http://web/a@b#", `"http://web/a@b#"`},
		{"http://web:80x/a@b", "http://xxxxx@b"}, // the 80x could be a password
		{"http://web/#top", "a fragment"},
		{"http://web/#", "a fragment"},
		{"http://web/a b", `contains ' '`},
		{" tcp://db:1", `contains ' '`},
		{"http://web/\x7f", `contains '\x7f'`},
		{"http://web/?a\r\nX: y", `contains '\r'`},
		{"http://web/ü", `contains "ü": percent-encode`},
		{"http://web/?ü", `contains "ü": percent-encode`},
		{"http://web/%zz", `"%zz" is no percent escape`},
		{"http:///%zz", `"%zz" is no percent escape`},
		{"HTTP://[::1/", `"[::1" is no HOST:PORT`},
		{"http://[1.2.3.4]:80", "nothing else goes into brackets"},
		{"http://web:/", "; write an address such as http://127.0.0.1:8080/ready"},
		{"unix://[::1/app.sock", `"[::1" stands where a host would`},
		{"file://[::1/ready", `"[::1" stands where a host would`},
		{"unix://run/app.sock", `"run" stands where a host would`},
		{"file://localhost/x", `"localhost" stands where a host would`},
		{"unix://", "the path is missing"},
		{"file:///", "the path is missing"},
		{"file:///a?b", "a query"},
		{"file:///a#b", "a fragment"},
		{"file:///a%00b", "NUL"},
		{"unix:///" + strings.Repeat("s", maxSocket), "at most 107 bytes, this one has 108"},
	} {
		got, err := Parse(c.in)
		if err == nil {
			t.Errorf("Parse(%q) = %+v, want an error", c.in, got)
			continue
		}
		if !strings.Contains(err.Error(), c.says) {
			t.Errorf("Parse(%q) says %q, want it to say %q", c.in, err, c.says)
		}
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("Parse(%q) shows the password: %q", c.in, err)
		}
		for _, wording := range []string{
			"first path segment", "missing protocol", "invalid", "IP-literal", "missing ']'", "parse ",
		} {
			if strings.Contains(err.Error(), wording) {
				t.Errorf("Parse(%q) says %q, in the words of net/url", c.in, err)
			}
		}
		checkRefusal(t, c.in, err)
	}
}

var anExample = regexp.MustCompile(`(tcp|unix|file|http)://[^ ,]+`)

// checkRefusal fails the test unless an error of Parse names the address, ends with valid
// ones, and is one line of text.
func checkRefusal(t *testing.T, in string, err error) {
	t.Helper()
	if named := fmt.Sprintf("address %q: ", in); !strings.HasPrefix(err.Error(), named) && !strings.Contains(in, "@") {
		t.Errorf("Parse(%q): the error does not begin with %s: %q", in, named, err)
	}
	if len(err.Error()) > 500+12*len(in) || strings.ContainsFunc(err.Error(), isUnprintable) {
		t.Errorf("Parse(%q): the error is too long or not printable: %q", in, err)
	}
	_, tail, found := strings.Cut(err.Error(), "; write an address such as ")
	examples := anExample.FindAllString(tail, -1)
	if !found || len(examples) == 0 {
		t.Errorf("Parse(%q): the error shows no valid address: %q", in, err)
	}
	for _, e := range examples {
		if _, err := Parse(e); err != nil && !strings.Contains(in, e) {
			t.Errorf("the example %q is wrong itself: %v", e, err)
		}
	}
}

func isUnprintable(r rune) bool { return !strconv.IsPrint(r) }

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

func TestAnswer(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\n"
	long := strings.Repeat("x", maxLine)
	for _, c := range []struct{ in, says string }{
		{ok, ""},
		{"HTTP/1.0 200\n", ""},
		{"HTTP/1.1 299 \r\n", ""},
		{ok + "Content-Length: -1\r\ngarbage", ""}, // the status line decides
		{"HTTP/1.1 100 Continue\r\n\r\n" + ok, ""},
		{"HTTP/1.1 103 Early Hints\r\nLink: x\r\nLink: y\r\n\r\nHTTP/1.1 102 P\n\n" + ok, ""},
		{"HTTP/1.1 200 " + long[:maxLine-len("HTTP/1.1 200 \r\n")] + "\r\n", ""},
		{"HTTP/1.1 200 " + long + "\r\n", "a line of more than 4096 bytes"},
		{"HTTP/1.1 100 C\r\nX: " + long + "\r\n\r\n" + ok, "a line of more than 4096 bytes"},
		{strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", maxAnswer/25+1) + ok, "incomplete HTTP answer"},
		{"HTTP/1.1 100 Continue\r\n\r\n", "closed without an HTTP answer"},
		{"HTTP/1.1 100 Continue\r\n", "closed without an HTTP answer"},
		{"HTTP/1.1 100 Continue\r\n" + ok, "closed without an HTTP answer"}, // a header by its place
		{"HTTP/1.1 101 Switching Protocols\r\n\r\n" + ok, "status 101"},
		{"HTTP/1.1 200 OK", "incomplete HTTP answer"},
		{"HTTP/1.1 200", "incomplete HTTP answer"},
		{"HTTP/1.1 2", "incomplete HTTP answer"},
		{"", "closed without an HTTP answer"},
		{"\r\n" + ok, `not an HTTP answer: ""`},
		{"HTTP/1.1 404 Not Found\r\n", "status 404"},
		{"HTTP/1.1 304 Not Modified\r\n", "status 304 (redirects"},
		{"HTTP/1.1 300 x\r\n", "status 300 (redirects"},
		{"HTTP/1.1 399 x\r\n", "status 399 (redirects"},
		{"HTTP/1.1 100 C\r\nx\r\n\r\n" + ok, ""}, // a header that is none
		{"HTTP/1.1\r\n", "not an HTTP answer"},
		{"HTTP/1.1 999\r\n", "status 999"},
		{"HTTP/1.1 099 x\r\n", "not an HTTP answer"},
		{"HTTP/1.1 2000 OK\r\n", "not an HTTP answer"},
		{"HTTP/1.1 20 OK\r\n", "not an HTTP answer"},
		{"HTTP/1.1 20\r\n", "not an HTTP answer"},
		{"HTTP/1.1  200 OK\r\n", "not an HTTP answer"},
		{"HTTP/1.1 +20 OK\r\n", "not an HTTP answer"},
		{"HTTP/1.x 200 OK\r\n", "not an HTTP answer"},
		{"HTTP/2.0 200 OK\r\n", "not an HTTP answer"},
		{"HTTP/1.1\t200 OK\r\n", "not an HTTP answer"},
		{"http/1.1 200 OK\r\n", "not an HTTP answer"},
		{"\x00\xff\n" + ok, `not an HTTP answer: "\x00\xff"`},
	} {
		err := answer(strings.NewReader(c.in))
		if c.says == "" && err != nil {
			t.Errorf("answer(%.60q…): %v", c.in, err)
		}
		if c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("answer(%.60q…) = %v, want an error that says %q", c.in, err, c.says)
		}
	}

	if broken := errors.New("broken"); answer(iotest.ErrReader(broken)) != broken {
		t.Errorf("a connection that breaks: %v, want its error", answer(iotest.ErrReader(broken)))
	}

	endless := &endlessReader{line: "HTTP/1.1 100 Continue\r\n\r\n"}
	if err := answer(endless); err == nil || endless.read > maxAnswer {
		t.Errorf("endless interim responses: %v after %d bytes, want an error after at most %d",
			err, endless.read, maxAnswer)
	}
}

// endlessReader repeats a line and counts the bytes read.
type endlessReader struct {
	line string
	read int
}

func (r *endlessReader) Read(p []byte) (int, error) {
	n := copy(p, r.line[r.read%len(r.line):])
	r.read += n
	return n, nil
}

// A server of net/http reads from the request what Parse was given.
func TestRequest(t *testing.T) {
	t.Parallel()
	type seen struct{ proto, method, uri, host, agent, accept string }
	requests := make(chan seen, 1)
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !r.Close {
			t.Error("the request does not ask to close the connection")
		}
		requests <- seen{r.Proto, r.Method, r.RequestURI, r.Host, r.UserAgent(), r.Header.Get("Accept")}
	}))
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skipf("no IPv6 on this machine: %v", err)
	}
	web.Listener.Close()
	web.Listener = l
	web.Start()
	defer web.Close()
	if err := wait(within(t), []Target{target(t, "http://%s/a%%2Fb^?c=d,e&f=%%20", l.Addr())}); err != nil {
		t.Fatal(err)
	}
	want := seen{"HTTP/1.1", http.MethodGet, "/a%2Fb^?c=d,e&f=%20", l.Addr().String(), "sentinel", "*/*"}
	if got := <-requests; got != want {
		t.Errorf("the server saw %+v, want %+v", got, want)
	}
}

// FuzzParse: Parse agrees with net/url on what it accepts, accepts what net/url has built, and
// shows no password in an error.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"tcp://127.0.0.1:5432", "tcp://[fe80::1%25eth0]:1", "unix:///run/app.sock", "file:///a%20b",
		"http://web:8080/ready?a=1,2", "http://me:pw@[::1]/#x", "https://web", "tcp:///%zz", "http://h?\r\n", "",
		"0123456789abcdef01",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got, err := Parse(s); err != nil {
			checkRefusal(t, s, err)
			if got != (Target{}) {
				t.Errorf("Parse(%q) = %+v beside an error", s, got)
			}
		} else {
			checkTarget(t, s, got)
		}
		checkPaths(t, "/"+s)
		checkAddress(t, s)
		checkSecrecy(t, s)
	})
}

// accept parses an address that is valid and checks the target.
func accept(t *testing.T, s string) Target {
	t.Helper()
	got, err := Parse(s)
	if err != nil {
		t.Fatalf("Parse(%q): %v", s, err)
	}
	checkTarget(t, s, got)
	return got
}

// checkTarget compares the target that Parse has made of s with net/url's result, and the
// request of an http target with what net/http reads from it.
func checkTarget(t *testing.T, s string, got Target) {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil || u.Scheme != got.scheme || u.User != nil || u.Fragment != "" || got.String() != s {
		t.Fatalf("Parse(%q) = %+v; net/url: %+v, %v", s, got, u, err)
	}
	if u.Scheme == "unix" || u.Scheme == "file" {
		if got.address != u.Path || u.Host != "" || !filepath.IsAbs(got.address) || got.request != "" {
			t.Fatalf("Parse(%q) = %+v; net/url: %+v", s, got, u)
		}
		return
	}
	host, port, err := net.SplitHostPort(got.address)
	n, notNumber := strconv.Atoi(port)
	if err != nil || notNumber != nil || n < 1 || n > 65535 || host == "" || host != u.Hostname() {
		t.Fatalf("Parse(%q): the address %q (%v); net/url: %+v", s, got.address, err, u)
	}
	if want, err := strconv.Atoi(u.Port()); want != n && (err == nil || u.Scheme != "http" || n != 80) {
		t.Fatalf("Parse(%q): port %d; net/url: %q", s, n, u.Port())
	}
	if u.Scheme == "tcp" {
		if got.request != "" {
			t.Fatalf("Parse(%q): the request %q", s, got.request)
		}
		return
	}
	sent := bufio.NewReader(strings.NewReader(got.request))
	r, err := http.ReadRequest(sent)
	if err != nil {
		t.Fatalf("Parse(%q): the request %q: %v", s, got.request, err)
	}
	path := u.Path
	if path == "" {
		path = "/"
	}
	if r.Method != http.MethodGet || r.Proto != "HTTP/1.1" || r.URL.Path != path ||
		r.URL.RawQuery != u.RawQuery || !r.Close ||
		len(r.Header) != 3 || r.ContentLength != 0 || sent.Buffered() != 0 {
		t.Fatalf("Parse(%q): the request %q is read as %+v; net/url: %+v", s, got.request, r, u)
	}
	to, err := url.Parse("http://" + r.Host)
	if err != nil {
		t.Fatalf("Parse(%q): the request's Host %q: %v", s, r.Host, err)
	}
	name, _, _ := strings.Cut(host, "%") // without the zone
	if a, err := netip.ParseAddr(name); err == nil {
		name = a.String()
	}
	if to.Hostname() != name || to.Port() != port && (to.Port() != "" || n != 80) {
		t.Fatalf("Parse(%q): the request's Host is %q", s, r.Host)
	}
}

// checkPaths: Parse accepts the URL that net/url writes for path.
func checkPaths(t *testing.T, path string) {
	t.Helper()
	web := url.URL{Scheme: "http", Host: "web", Path: path, RawQuery: url.QueryEscape(path)}
	accept(t, web.String())
	if strings.Trim(path, "/") == "" || strings.Contains(path, "\x00") {
		return
	}
	for _, scheme := range []string{"file", "unix"} {
		if scheme == "unix" && len(path) > maxSocket {
			return
		}
		u := url.URL{Scheme: scheme, Path: path}
		if got := accept(t, u.String()); got.address != path {
			t.Fatalf("Parse(%q): the path %q, not %q", u.String(), got.address, path)
		}
	}
}

// checkAddress: Parse accepts every IP address with a port.
func checkAddress(t *testing.T, bytes string) {
	t.Helper()
	if len(bytes) < 18 {
		return
	}
	port := max(uint16(bytes[16])<<8|uint16(bytes[17]), 1)
	for _, n := range []int{4, 16} {
		ip, _ := netip.AddrFromSlice([]byte(bytes[:n]))
		want := netip.AddrPortFrom(ip, port)
		for _, scheme := range []string{"tcp", "http"} {
			got := accept(t, scheme+"://"+want.String())
			if address, err := netip.ParseAddrPort(got.address); err != nil || address != want {
				t.Fatalf("Parse(%q): the address %q", got, got.address)
			}
		}
	}
}

// checkSecrecy: no error of Parse shows a password, whatever is around it.
func checkSecrecy(t *testing.T, s string) {
	t.Helper()
	a, b := len(s)/3, len(s)*2/3
	for _, head := range []string{"postgres://me:", "https://me:", "http://me:", "tcp://me:", "unix://:", "me:x"} {
		address := head + s[:a] + "hunter2" + s[a:b] + "@" + s[b:]
		if _, err := Parse(address); err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Fatalf("Parse(%q) shows the password: %v", address, err)
		}
	}
}

// FuzzAnswer: answer agrees with net/http on the status, however the bytes arrive and whatever
// follows them.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 204\n", "HTTP/1.1 301 Moved\r\n",
		"HTTP/1.1 2000\n", "SSH-2.0-x\r\n", "HTTP/1.1 200", "\n\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		in := &countingReader{r: bytes.NewReader(b)}
		err := answer(in)
		if in.read > maxAnswer {
			t.Fatalf("answer(%.80q…) has read %d bytes", b, in.read)
		}
		if err != nil && (len(err.Error()) > 500 || strings.ContainsFunc(err.Error(), isUnprintable)) {
			t.Fatalf("answer(%.80q…): the error %q is too long or not printable", b, err)
		}
		if slow := answer(iotest.OneByteReader(bytes.NewReader(b))); fmt.Sprint(slow) != fmt.Sprint(err) {
			t.Fatalf("answer(%q) = %v, and one byte after the other: %v", b, err, slow)
		}
		code, decided := 200, err == nil
		if err != nil {
			n, _ := fmt.Sscanf(err.Error(), "answered with status %d", &code)
			decided = n == 1
		}
		if want, ok := finalStatus(b); ok != decided || ok && want != code && !(err == nil && want/100 == 2) {
			t.Fatalf("answer(%q) = %v; net/http: %d, %t", b, err, want, ok)
		}
		longer := io.MultiReader(bytes.NewReader(b), strings.NewReader("HTTP/1.1 200 OK\r\n\r\n"))
		if more := answer(longer); decided && fmt.Sprint(more) != fmt.Sprint(err) {
			t.Fatalf("answer(%q) = %v, and with more after it: %v", b, err, more)
		}
	})
}

type countingReader struct {
	r    io.Reader
	read int
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.read += n
	return n, err
}

// finalStatus is the final status, as net/http reads it. Where net/http accepts more than RFC
// 9112 (a code of "+20", two blanks before it, HTTP/2.0 in this form), ok is false.
func finalStatus(answer []byte) (code int, ok bool) {
	rest := string(answer[:min(len(answer), maxAnswer)])
	for header := false; ; {
		line, after, ended := strings.Cut(rest, "\n")
		if !ended || len(line) >= maxLine {
			return 0, false
		}
		rest, line = after, strings.TrimSuffix(line, "\r")
		if header {
			header = line != ""
			continue
		}
		r, err := http.ReadResponse(bufio.NewReader(strings.NewReader(line+"\r\n\r\n")), nil)
		if err != nil || r.StatusCode < 100 ||
			!strings.HasPrefix(line+" ", fmt.Sprintf("HTTP/1.%d %03d ", r.ProtoMinor, r.StatusCode)) {
			return 0, false
		}
		if r.StatusCode >= 200 || r.StatusCode == http.StatusSwitchingProtocols {
			return r.StatusCode, true
		}
		header = true
	}
}
