package lifetime

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

func TestParseCode(t *testing.T) {
	for code := range 256 {
		for _, content := range []string{formatCode(code), strconv.Itoa(code), fmt.Sprintf("%03d\n", code)} {
			if got, ok := parseCode(content); !ok || got != code {
				t.Errorf("parseCode(%q) = %d, %t; want %d", content, got, ok, code)
			}
		}
	}
	for _, content := range []string{
		"", "\n", " ", "\x00", " 3", "3 ", "3\n\n", "\n3", "3\r\n", "\t3", "3\x00",
		"256", "999", "0003", "1000", "-1", "-0", "+3", "3.0", "1e1", "0x3", "0b1", "3_0", "٣", "３",
		"three", "running\n", "stopping\n", "3\nnning\n", "0\nnning\n",
		strings.Repeat("0", maxContent), strings.Repeat("\x00", maxContent),
	} {
		if got, ok := parseCode(content); ok {
			t.Errorf("parseCode(%.20q) = %d; want no code", content, got)
		}
	}
}

// FuzzParseCode: parseCode accepts exactly the content from which strconv reads a number below 256 with at
// most three digits, and it reads what formatCode writes.
func FuzzParseCode(f *testing.F) {
	for _, content := range []string{
		"", "0", "3\n", "255\n", "256\n", "-1\n", "007\n", "running\n", "3\nnning\n", "\x003",
	} {
		f.Add(content)
	}
	f.Fuzz(func(t *testing.T, content string) {
		code, ok := parseCode(content)
		digits := strings.TrimSuffix(content, "\n")
		want, err := strconv.ParseUint(digits, 10, 8)
		if valid := err == nil && len(digits) <= 3; ok != valid || ok && uint64(code) != want {
			t.Fatalf("parseCode(%q) = %d, %t; strconv: %d, %v", content, code, ok, want, err)
		}
		if again, ok2 := parseCode(formatCode(code)); ok && (again != code || !ok2) {
			t.Fatalf("parseCode(%q) = %d, written as %q and then read as %d, %t",
				content, code, formatCode(code), again, ok2)
		}
	})
}

func TestCheckName(t *testing.T) {
	for _, name := range []string{
		"main", "m", "cloud-sql-proxy", "main_2", "a.b", "A", "-x", "~", "ü", "主",
		"main-running", "main-terminated", "a,b", `a\b`, strings.Repeat("n", maxName),
	} {
		if err := CheckName(name); err != nil {
			t.Errorf("CheckName(%q): %v", name, err)
		}
	}
	for _, c := range []struct{ name, want string }{
		{"", "empty"},
		{".", "dot"},
		{"..", "dot"},
		{".main", "dot"},
		{"/", "not a path"},
		{"a/b", "not a path"},
		{"../etc/passwd", "dot"},
		{"a b", "plain word"},
		{"a\tb", "plain word"},
		{"a\n", "plain word"},
		{"a\x00b", "plain word"},
		{"a\u00a0b", "plain word"},
		{"a\x1b[31m", "plain word"},
		{"\xff", "plain word"},
		{strings.Repeat("n", maxName+1), "bytes"},
	} {
		if err := CheckName(c.name); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("CheckName(%q): %v; want an error that contains %q", c.name, err, c.want)
		}
	}
}

// A run can have the longest name, although its private file has a longer one.
func TestLongestName(t *testing.T) {
	dir, name := testenv.Volume(t), strings.Repeat("n", maxName)
	mustEnd(t, mustBegin(t, dir, name), 3)
	testenv.WantListing(t, dir, name+`-terminated="3\n"`)
}

func TestCheckVolume(t *testing.T) {
	dir := testenv.Volume(t)
	if err := CheckVolume(dir); err != nil {
		t.Errorf("a directory: %v", err)
	}
	testenv.Plant(t, dir+"/file", "")
	for _, c := range []struct{ dir, want string }{
		{dir + "/none", "does not exist"},
		{dir + "/file", "is not a directory"},
		{dir + "/file/below", "not a directory"},
	} {
		err := CheckVolume(c.dir)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.dir) ||
			!strings.Contains(err.Error(), "--dir") {
			t.Errorf("%s: %v; want an error that names it and --dir, and contains %q", c.dir, err, c.want)
		}
	}
}
