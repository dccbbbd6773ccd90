package probe

import (
	"bufio"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

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
