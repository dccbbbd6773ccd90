package probe

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
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
