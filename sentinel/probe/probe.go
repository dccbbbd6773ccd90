// Package probe waits until addresses answer: those of sentinel's --wait-for.
//
//	tcp://HOST:PORT         a TCP connection is accepted
//	unix:///PATH            a connection to the stream socket is accepted
//	file:///PATH            the file exists (of any type; links are followed)
//	http://HOST[:PORT]/PATH a GET is answered with a 2xx status
//
// HOST is a name, an IPv4 address, or an IPv6 address in brackets. The default
// port of http is 80. In a path, % begins an escape as in every URL (%20 is a
// space).
//
// An address is asked every [Interval] until it has answered once. One attempt
// lasts at most [Timeout]. That does not include the resolution of a name, which
// each attempt repeats: Go gives each nameserver 5 s, twice (resolv.conf(5),
// timeout and attempts). If a name has several IP addresses, one answer is enough.
//
// The http probe implements what it needs of HTTP/1.1 by itself, because
// net/http would add 3.8 MB to the program (design, 7).
package probe

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// Interval is the pause between a failed attempt and the next.
	Interval = 100 * time.Millisecond
	// Timeout bounds one attempt: the connection and the answer, but not the
	// name resolution before it.
	Timeout = 2 * time.Second
	// ReportInterval is the time between two reports of what has not answered.
	ReportInterval = 10 * time.Second

	// attemptDelay is the time after which the next IP address of a name is asked, too
	// (RFC 8305, 5: Connection Attempt Delay).
	attemptDelay = 250 * time.Millisecond

	maxLine   = 4 << 10  // bytes of one line of an HTTP answer
	maxAnswer = 64 << 10 // bytes read of an HTTP answer, interim responses included
	maxSocket = 107      // bytes of a Unix socket's path (unix(7))
)

// examples has a valid address of each scheme, for error messages.
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

// Parse reads an address in one of the forms of the package comment. What the
// probe would not use (credentials, a fragment, a query other than http's) is an
// error. The error shows the address without credentials, says what is wrong with
// it and gives a valid example.
func Parse(s string) (Target, error) {
	wrong := func(format string, args ...any) (Target, error) {
		shown := redact(s)
		if shown != s && len(args) > 0 { // args may quote a part of the credentials
			format, args = "credentials are not sent, leave them out (write any other @ as %%40)", nil
		}
		want := "write an address such as tcp://127.0.0.1:5432, unix:///run/app/app.sock, " +
			"file:///tmp/pod/ready or http://127.0.0.1:8080/ready"
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
		return wrong("%s", malformed(s, err))
	}
	t := Target{text: s, scheme: u.Scheme}
	switch {
	case u.Scheme == "https":
		return wrong("https is not supported, the probe has no TLS: " +
			"wait for its port with tcp://, or for a plain http endpoint")
	case examples[u.Scheme] == "", !strings.HasPrefix(s[len(u.Scheme):], "://"):
		return wrong(noScheme)
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
			return wrong("%s", misplaced(u.Host))
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
		// The URI as it was given: u.RequestURI would turn the %2F of /a%2Fb^ into a slash.
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

const noScheme = "it does not begin with tcp://, unix://, file:// or http://"

// malformed says what is wrong with an address that net/url refuses with err.
func malformed(s string, err error) string {
	scheme, host, _ := strings.Cut(s, "://")
	scheme = strings.ToLower(scheme)
	if i := strings.IndexAny(host, "/?#"); i >= 0 {
		host = host[:i]
	}
	var escape url.EscapeError
	switch {
	case examples[scheme] == "":
		return noScheme
	case errors.As(err, &escape) && !strings.Contains(host, "%"):
		return fmt.Sprintf("%q is no percent escape (a literal %% is %%25)", string(escape))
	case scheme == "unix" || scheme == "file":
		return misplaced(host)
	}
	return fmt.Sprintf("%q is no HOST:PORT (a port is a number; "+
		"an IPv6 address and nothing else goes into brackets, the %% of its zone as %%25)", host)
}

// misplaced says that an address has a host before its path, or instead of it.
func misplaced(host string) string {
	return fmt.Sprintf("%q stands where a host would: an absolute path follows three slashes", host)
}

// redact returns s with its credentials replaced by xxxxx, because errors end up in logs: a
// user may have given a database's URL by mistake. Credentials reach up to the last @,
// because an @ in them may not be escaped.
func redact(s string) string {
	at := strings.LastIndexByte(s, '@')
	if at < 0 {
		return s
	}
	from := 0 // the first // follows a scheme, or is part of the password
	if scheme, _, ok := strings.Cut(s[:at], "//"); ok && !strings.Contains(strings.TrimSuffix(scheme, ":"), ":") {
		from = len(scheme) + len("//")
	}
	hidden := s[from:at]
	if strings.HasPrefix(hidden, "/") || strings.Contains(hidden, "/") && !strings.Contains(hidden, ":") {
		return s // the @ is part of a path
	}
	return s[:from] + "xxxxx" + s[at:]
}

// isName reports whether s may be a host name or an IPv4 address. Host names have no
// underscore, but names of containers do.
func isName(s string) bool {
	return len(s) <= 254 && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '.' && r != '_'
	})
}

// hostHeader returns the value of the Host header (RFC 9110, 7.2): an IPv6 address in
// brackets and without its zone (RFC 6874, 4), and no port if it is the default.
func hostHeader(host string, port uint64) string {
	if a, _ := netip.ParseAddr(host); a.Is6() {
		host = "[" + a.WithZone("").String() + "]"
	}
	if port != 80 {
		host += ":" + strconv.FormatUint(port, 10)
	}
	return host
}

// Wait returns nil as soon as each of the targets has answered once. It asks them
// concurrently. If ctx ends before, the error names every address that has not
// answered, with its last failure, in the order of targets, and wraps the cause of
// ctx's end.
//
// Wait calls answered once for each target that has answered, and waiting every
// [ReportInterval] with the error that it would return if ctx ended now. It makes
// these calls one at a time, before it returns.
func Wait(ctx context.Context, targets []Target, answered func(Target), waiting func(error)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		target int
		err    error
	}
	results := make(chan result)
	last := make([]error, len(targets)) // nil: has answered
	for i, t := range targets {
		last[i] = errNoAnswer
		// Wait does not wait for this goroutine: on a dead network file system,
		// stat(2) never returns, whatever ctx says.
		go t.askUntilAnswered(ctx, func(err error) {
			select {
			case results <- result{i, err}:
			case <-ctx.Done():
			}
		})
	}
	failures := func() *waitError {
		e := &waitError{cause: context.Cause(ctx)}
		for i, err := range last {
			if err != nil {
				e.failures = append(e.failures, fmt.Sprintf("%s: %v", targets[i], err))
			}
		}
		return e
	}
	report := time.NewTicker(ReportInterval)
	defer report.Stop()
	for slices.ContainsFunc(last, func(err error) bool { return err != nil }) {
		select {
		case r := <-results:
			if last[r.target] = r.err; r.err == nil {
				answered(targets[r.target])
			}
		case <-report.C:
			waiting(failures())
		case <-ctx.Done():
			return failures()
		}
	}
	return nil
}

// waitError says in one line which addresses have not answered, and why.
type waitError struct {
	failures []string
	cause    error
}

func (e *waitError) Error() string { return strings.Join(e.failures, "; ") }
func (e *waitError) Unwrap() error { return e.cause }

var errNoAnswer = errors.New("no answer")

// askUntilAnswered asks with pauses of Interval, and calls report with the result of each
// attempt. The first attempt may last long, so it also reports its progress.
// askUntilAnswered returns after it has reported nil, or when ctx is done.
func (t Target) askUntilAnswered(ctx context.Context, report func(error)) {
	progress := report
	for {
		err := t.try(ctx, progress)
		// The deadline has cut this attempt off: the last failure says more. A dialer
		// may notice the deadline before ctx does.
		if deadline, ok := ctx.Deadline(); err != nil && (ctx.Err() != nil || ok && !time.Now().Before(deadline)) {
			return
		}
		report(err)
		if err == nil {
			return
		}
		select {
		case <-time.After(Interval):
		case <-ctx.Done():
			return
		}
		progress = func(error) {} // the last failure says more
	}
}

// try asks once. Its error says what failed, but does not name the address. Meanwhile it
// calls progress, possibly from several goroutines, with the error that it would return if
// nothing more happened.
func (t Target) try(ctx context.Context, progress func(error)) error {
	switch t.scheme {
	case "file":
		_, err := os.Stat(t.address)
		return plain(err)
	case "unix":
		return t.ask(ctx, "unix", t.address)
	}
	addresses, err := resolve(ctx, t.address, progress)
	if err != nil {
		return err
	}
	progress(errNoAnswer)
	return t.ask(ctx, "tcp", addresses...)
}

// resolve returns the IP addresses of an address HOST:PORT, each with the port. It calls
// progress, as try does, whenever it asks a nameserver.
func resolve(ctx context.Context, address string, progress func(error)) (addresses []string, err error) {
	host, port, _ := net.SplitHostPort(address) // Parse has joined them
	dial := func(ctx context.Context, network, server string) (net.Conn, error) {
		progress(unresolved(host, server, "has not answered"))
		return new(net.Dialer).DialContext(ctx, network, server)
	}
	resolver := net.Resolver{PreferGo: true, Dial: dial}
	found, err := resolver.LookupIPAddr(ctx, host)
	for _, ip := range found {
		addresses = append(addresses, net.JoinHostPort(ip.String(), port))
	}
	if e := (*net.DNSError)(nil); errors.As(err, &e) {
		switch {
		case e.IsNotFound:
			err = fmt.Errorf("cannot resolve %s: no such host", host)
		case e.IsTimeout:
			err = unresolved(host, e.Server, "did not answer")
		default: // "read udp 127.0.0.1:40000->127.0.0.1:53: read: connection refused"
			words := strings.Split(e.Err, ": ")
			err = unresolved(host, e.Server, "failed: "+words[len(words)-1])
		}
	}
	return addresses, err
}

// unresolved is the error of a nameserver, IP:PORT, that did not resolve host.
func unresolved(host, server, what string) error {
	return fmt.Errorf("cannot resolve %s: the nameserver %s %s (see /etc/resolv.conf)",
		host, strings.TrimSuffix(server, ":53"), what)
}

// ask connects to the addresses and, for an http target, sends the request and reads the
// answer, within Timeout. It asks the next address when one has failed or attemptDelay is
// over. It returns nil when one has answered; if all fail, the error of the first that failed.
func (t Target) ask(ctx context.Context, network string, addresses ...string) (failure error) {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	results := make(chan error, len(addresses))
	for asked, failed := 0, 0; failed < len(addresses); {
		var next <-chan time.Time
		if asked < len(addresses) {
			go func(address string) {
				err := t.connect(ctx, network, address)
				if e := (net.Error)(nil); err != nil && (ctx.Err() != nil || errors.As(err, &e) && e.Timeout()) {
					err = errNoAnswer
				}
				results <- plain(err)
			}(addresses[asked])
			asked++
			next = time.After(attemptDelay)
		}
		select {
		case err := <-results:
			if err == nil {
				return nil
			}
			failed++
			if failure == nil {
				failure = err
			}
		case <-next:
		}
	}
	return failure
}

// plain returns the errno in err, without the call's name and arguments, or err if there is
// none.
func plain(err error) error {
	var e syscall.Errno
	if errors.As(err, &e) {
		return e
	}
	return err
}

// connect connects to one address and, for an http target, sends the request and reads the
// answer.
func (t Target) connect(ctx context.Context, network, address string) error {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if t.request == "" {
		return nil
	}
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	if _, err := io.WriteString(conn, t.request); err != nil {
		return err
	}
	return answer(conn)
}

// answer reads an HTTP answer up to its final status line, at most maxAnswer bytes. The error
// is nil if the status is 2xx.
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
		case code >= 200 || code == 101: // what follows a 101 is not HTTP
			return fmt.Errorf("answered with status %d", code)
		}
		// An interim response (RFC 9110, 15.2): skip its header. The final one follows.
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
		return nil, fmt.Errorf("an incomplete HTTP answer: %q", line[:min(len(line), 80)])
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, fmt.Errorf("not an HTTP answer: a line of more than %d bytes", maxLine)
	case err != nil:
		return nil, err
	}
	return bytes.TrimSuffix(line[:len(line)-1], []byte("\r")), nil
}

// status parses a status line (RFC 9112, 4) of HTTP/1.x. It returns the code, from 100 to
// 999, and whether line is a status line. Many servers leave out the reason, with or without
// the blank before it.
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
