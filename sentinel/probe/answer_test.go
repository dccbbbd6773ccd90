package probe

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
)

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
