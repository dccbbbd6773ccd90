// Package probe asks whether an address answers yet: the addresses of
// sentinel's --wait-for.
//
//	tcp://HOST:PORT         a TCP connection is accepted
//	unix:///PATH            a connection to the stream socket is accepted
//	file:///PATH            the file exists (of whatever kind; links are followed)
//	http://HOST[:PORT]/PATH a GET is answered with a 2xx status
//
// HOST is a name, an IPv4 address, or an IPv6 address in brackets; the port is
// 80 for http if left out. In a path, % begins an escape as in every URL
// (%20 is a space). An address is asked again every [Interval] until it has
// answered once, and one attempt lasts at most [Timeout].
//
// The http probe speaks just enough of HTTP/1.1 over a plain connection,
// because net/http would make up most of the program.
package probe

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// Interval is the pause between a failed attempt and the next.
	Interval = 100 * time.Millisecond
	// Timeout bounds one attempt, name resolution included.
	Timeout = 2 * time.Second

	maxLine   = 4 << 10  // bytes of one line of an HTTP answer
	maxAnswer = 64 << 10 // bytes read of an HTTP answer, interim responses included
	maxSocket = 107      // bytes of a Unix socket's path, unix(7)
)

// examples has a right address of each scheme, for the error messages.
var examples = map[string]string{
	"tcp":  "tcp://127.0.0.1:5432",
	"unix": "unix:///run/app/app.sock",
	"file": "file:///tmp/pod/ready",
	"http": "http://127.0.0.1:8080/ready",
}

// Target is one address to wait for, made by [Parse]. Targets are comparable.
type Target struct {
	text    string // as it was given
	scheme  string // a key of examples
	address string // host:port, or a path
	request string // what an http probe sends
}

// String returns the address as it was given to [Parse].
func (t Target) String() string { return t.text }

// Parse reads an address in one of the forms of the package comment. It is
// strict: what the probe would not use (credentials, a fragment, a query where
// nothing is queried) is an error, which names the address, says what is wrong
// with it and gives an example of a right one.
func Parse(s string) (Target, error) {
	wrong := func(format string, args ...any) (Target, error) {
		shown := redact(s)
		if shown != s && len(args) > 0 { // what it quotes may be a part of them
			format, args = "credentials are not sent, leave them out (an @ that is none of theirs is %%40)", nil
		}
		want := "write an address such as tcp://127.0.0.1:5432, unix:///run/app/app.sock, file:///tmp/pod/ready or http://127.0.0.1:8080/ready"
		scheme, _, _ := strings.Cut(s, ":")
		if example, ok := examples[strings.ToLower(scheme)]; ok {
			want = "write an address such as " + example
		}
		return Target{}, fmt.Errorf("address %q: %s; %s", shown, fmt.Sprintf(format, args...), want)
	}

	if s == "" {
		return wrong("it is empty")
	}
	if i := strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }); i >= 0 {
		return wrong("it contains %q: percent-encode it", s[i])
	}
	u, err := url.Parse(s)
	if err != nil {
		if e := (*url.Error)(nil); errors.As(err, &e) {
			err = e.Err // the address is named already
		}
		return wrong("it is no URL: %v (an IPv6 address goes into brackets, a literal %% is %%25)", err)
	}
	t := Target{text: s, scheme: u.Scheme}
	switch {
	case u.Scheme == "https":
		return wrong("https is not spoken here, the probe has no TLS: wait for its port with tcp://, or for a plain http endpoint")
	case examples[u.Scheme] == "":
		return wrong("the scheme is none of tcp, unix, file and http")
	case !strings.HasPrefix(s[len(u.Scheme):], "://"):
		return wrong("the scheme must be followed by ://")
	case u.User != nil:
		return wrong("credentials are not sent, leave them out")
	case strings.Contains(s, "#"):
		return wrong("a fragment (from the # on) means nothing here; a # in a path is %%23")
	case u.Scheme != "http" && (u.RawQuery != "" || u.ForceQuery):
		return wrong("a query (from the ? on) means nothing here; a ? in a path is %%3F")
	}

	if u.Scheme == "unix" || u.Scheme == "file" {
		switch {
		case u.Host != "":
			return wrong("%q stands where a host would: an absolute path follows three slashes", u.Host)
		case strings.Trim(u.Path, "/") == "":
			return wrong("the path is missing")
		case strings.Contains(u.Path, "\x00"):
			return wrong("no path contains a NUL byte")
		case u.Scheme == "unix" && len(u.Path) > maxSocket:
			return wrong("a socket's path has at most %d bytes, this one has %d", maxSocket, len(u.Path))
		}
		t.address = u.Path
		return t, nil
	}

	host, port := u.Hostname(), u.Port()
	if port == "" && u.Scheme == "http" && !strings.HasSuffix(u.Host, ":") {
		port = "80"
	}
	n, err := strconv.ParseUint(port, 10, 16)
	switch {
	case host == "":
		return wrong("the host is missing (this machine is 127.0.0.1 or [::1])")
	case strings.HasPrefix(u.Host, "[") && !isIPv6(host):
		return wrong("%q is no IPv6 address", host)
	case !strings.HasPrefix(u.Host, "[") && !isName(host):
		return wrong("%q is neither a host name nor an IPv4 address (an IPv6 address goes into brackets)", host)
	case port == "":
		return wrong("the port is missing")
	case err != nil || n == 0:
		return wrong("%q is no port: a port is a number from 1 to 65535", port)
	case u.Scheme == "tcp" && u.Path != "":
		return wrong("a TCP address ends with the port, %q is too much", u.Path)
	}
	t.address = net.JoinHostPort(host, strconv.FormatUint(n, 10))
	if u.Scheme == "http" {
		// As it was written: u.RequestURI would make the %2F of /a%2Fb^ a slash.
		uri := s[len("http://"):]
		if i := strings.IndexAny(uri, "/?"); i >= 0 {
			uri = uri[i:]
		} else {
			uri = ""
		}
		if i := strings.IndexFunc(uri, func(r rune) bool { return r > '~' }); i >= 0 {
			return wrong("it contains %q: percent-encode it", uri[i:])
		}
		if !strings.HasPrefix(uri, "/") {
			uri = "/" + uri
		}
		t.request = "GET " + uri + " HTTP/1.1\r\nHost: " + hostHeader(host, n) +
			"\r\nUser-Agent: sentinel\r\nAccept: */*\r\nConnection: close\r\n\r\n"
	}
	return t, nil
}

// redact is s as an error may show it, for errors end up in logs: without the
// credentials, which reach up to the last @ where they are not escaped as they should
// be. Whoever gives a database's URL by mistake does not find its password there.
func redact(s string) string {
	at := strings.LastIndexByte(s, '@')
	if at < 0 {
		return s
	}
	from := 0 // the first // follows a scheme, or is of the password
	if scheme, _, ok := strings.Cut(s[:at], "//"); ok && !strings.Contains(strings.TrimSuffix(scheme, ":"), ":") {
		from = len(scheme) + len("//")
	}
	hidden := s[from:at]
	if strings.HasPrefix(hidden, "/") || strings.Contains(hidden, "/") && !strings.Contains(hidden, ":") {
		return s // the @ is one of a path
	}
	return s[:from] + "xxxxx" + s[at:]
}

// isIPv6 tells whether s is an IPv6 address, with or without a zone.
func isIPv6(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Is6()
}

// isName tells whether s may be a host name or an IPv4 address. The underscore
// is in no host name, but in many a container's.
func isName(s string) bool {
	return len(s) <= 254 && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '.' && r != '_'
	})
}

// hostHeader is the value of the Host header (RFC 9110, 7.2): an IPv6 address
// in brackets and without its zone (RFC 6874, 4), no default port.
func hostHeader(host string, port uint64) string {
	if a, err := netip.ParseAddr(host); err == nil && a.Is6() {
		host = "[" + a.WithZone("").String() + "]"
	}
	if port != 80 {
		host += ":" + strconv.FormatUint(port, 10)
	}
	return host
}

// Wait returns nil as soon as each of the targets has answered once. They are
// asked side by side, so slow ones do not add up. If ctx ends before, the error
// names every address that has not answered, with its last failure, in the
// order of targets, and wraps the cause of ctx's end.
func Wait(ctx context.Context, targets []Target) error {
	type attempt struct {
		target int
		err    error
	}
	attempts := make(chan attempt)
	last := make([]error, len(targets)) // nil: has answered
	for i, t := range targets {
		last[i] = errNoAnswer
		// Not waited for: stat on a dead network file system returns to
		// nobody, whatever the context says.
		go func() {
			for {
				err := t.try(ctx)
				if err != nil && ctx.Err() != nil {
					return // cut off: the failure before it says more
				}
				select {
				case attempts <- attempt{i, err}:
				case <-ctx.Done():
					return
				}
				if err == nil {
					return
				}
				select {
				case <-time.After(Interval):
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	for slices.ContainsFunc(last, func(err error) bool { return err != nil }) {
		select {
		case a := <-attempts:
			last[a.target] = a.err
		case <-ctx.Done():
			e := &waitError{cause: context.Cause(ctx)}
			for i, err := range last {
				if err != nil {
					e.failures = append(e.failures, fmt.Sprintf("%s: %v", targets[i], err))
				}
			}
			return e
		}
	}
	return nil
}

// waitError says in one line what has not answered, and why.
type waitError struct {
	failures []string
	cause    error
}

func (e *waitError) Error() string { return strings.Join(e.failures, "; ") }
func (e *waitError) Unwrap() error { return e.cause }

var errNoAnswer = errors.New("no answer")

// try asks once, for at most Timeout. Its error says what failed and leaves the
// address to the caller.
func (t Target) try(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	var err error
	switch t.scheme {
	case "file":
		_, err = os.Stat(t.address)
	case "unix":
		err = t.connect(ctx, "unix")
	default:
		err = t.connect(ctx, "tcp")
	}
	if e := (net.Error)(nil); ctx.Err() != nil || errors.As(err, &e) && e.Timeout() {
		return errNoAnswer
	}
	if e := (*net.OpError)(nil); errors.As(err, &e) {
		return e.Err
	}
	if e := (*fs.PathError)(nil); errors.As(err, &e) {
		return e.Err
	}
	return err
}

// connect connects, and has an http target's request answered.
func (t Target) connect(ctx context.Context, network string) error {
	conn, err := new(net.Dialer).DialContext(ctx, network, t.address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if t.request == "" {
		return nil
	}
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	if _, err := io.WriteString(conn, t.request); err != nil {
		return err
	}
	return answer(conn)
}

// answer reads an HTTP answer up to the status line that decides: nil for 2xx.
// It reads at most maxAnswer bytes.
func answer(r io.Reader) error {
	lines := bufio.NewReaderSize(io.LimitReader(r, maxAnswer), maxLine)
	for {
		line, err := readLine(lines)
		if err != nil {
			return err
		}
		code, ok := status(line)
		switch {
		case !ok:
			return fmt.Errorf("not an HTTP answer: %q", line[:min(len(line), 80)])
		case code >= 200 && code <= 299:
			return nil
		case code >= 300 && code <= 399:
			return fmt.Errorf("answered with status %d (redirects are not followed)", code)
		case code >= 200 || code == 101: // after 101 it is HTTP no more
			return fmt.Errorf("answered with status %d", code)
		}
		// An interim response (RFC 9110, 15.2): skip its header, the final one follows.
		for len(line) > 0 {
			if line, err = readLine(lines); err != nil {
				return err
			}
		}
	}
}

// readLine returns the next line without its end, which is CR LF or LF
// (RFC 9112, 2.2). The line is valid until the next read.
func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	switch {
	case errors.Is(err, io.EOF) && len(line) == 0:
		return nil, errors.New("the connection was closed without an HTTP answer")
	case errors.Is(err, io.EOF):
		return nil, fmt.Errorf("an HTTP answer that breaks off: %q", line[:min(len(line), 80)])
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, fmt.Errorf("not an HTTP answer: a line of more than %d bytes", maxLine)
	case err != nil:
		return nil, err
	}
	return bytes.TrimSuffix(line[:len(line)-1], []byte("\r")), nil
}

// status reads a status line (RFC 9112, 4) of HTTP/1.0 or later 1.x: the code,
// from 100 to 999, and whether it is one. A missing reason is common, with or
// without the blank before it.
func status(line []byte) (code int, ok bool) {
	const head = "HTTP/1.x NNN"
	if len(line) < len(head) || string(line[:7]) != "HTTP/1." || !isDigit(line[7]) || line[8] != ' ' ||
		len(line) > len(head) && line[len(head)] != ' ' {
		return 0, false
	}
	for _, c := range line[9:len(head)] {
		if !isDigit(c) {
			return 0, false
		}
		code = 10*code + int(c-'0')
	}
	return code, code >= 100
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
