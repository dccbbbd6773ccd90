package main

import (
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"maps"
	"slices"
	"strings"
	"testing"
)

// mutantsOf returns the mutants of a file of package p that compile, and for each the content of the file with it.
func mutantsOf(t *testing.T, code string) (names []string, contents []string) {
	t.Helper()
	s := &source{
		path: "p", dir: "p", fset: token.NewFileSet(),
		names: []string{"p/a.go"}, content: [][]byte{[]byte(code)},
	}
	file, err := parser.ParseFile(s.fset, "p/a.go", code, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	s.files = []*ast.File{file}
	s.config = types.Config{Importer: texts{}}
	all, err := s.mutants(1)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		names = append(names, strings.TrimPrefix(m.String(), "p/a.go:"))
		m.id = 7
		contents = append(contents, string(s.switched(0, []mutant{m})))
	}
	return names, contents
}

// texts is an importer: its package fmt has one function, and its package time has one constant.
type texts struct{}

func (texts) Import(path string) (*types.Package, error) {
	p := types.NewPackage(path, path)
	switch path {
	case "fmt":
		text := types.NewVar(token.NoPos, p, "", types.Typ[types.String])
		err := types.NewVar(token.NoPos, p, "", types.Universe.Lookup("error").Type())
		signature := types.NewSignatureType(nil, nil, nil, types.NewTuple(text), types.NewTuple(err), false)
		p.Scope().Insert(types.NewFunc(token.NoPos, p, "Errorf", signature))
	case "time":
		name := types.NewTypeName(token.NoPos, p, "Duration", nil)
		duration := types.NewNamed(name, types.Typ[types.Int64], nil)
		p.Scope().Insert(name)
		p.Scope().Insert(types.NewConst(token.NoPos, p, "Second", duration, constant.MakeInt64(1e9)))
	}
	p.MarkComplete()
	return p, nil
}

func TestMutate(t *testing.T) {
	for _, c := range []struct {
		name, code string
		want       []string // line: function: before → after
	}{{
		name: "a condition",
		code: "func f(a int) int {\n\tif a == a {\n\t\treturn a\n\t}\n\treturn -a\n}",
		want: []string{"2: f: a == a → true", "2: f: a == a → false"},
	}, {
		name: "a condition of several parts",
		code: "func f(a, b, c bool) int { if a && b && !c { return len(``) }; return -len(``) }",
		want: []string{
			"1: f: a && b && !c → true", "1: f: a && b && !c → false",
			"1: f: a && b → b", "1: f: a && b → a", "1: f: a && b && !c → a && b",
		},
	}, {
		name: "a loop that would never end",
		code: "func f(a bool) { for a || a { } }",
		want: []string{"1: f: a || a → false", "1: f: a || a → a", "1: f: a || a → a #2"},
	}, {
		name: "boolean values",
		code: "func f(a int) (b bool) { b = true; g(a < a); return b }\nfunc g(bool) {}",
		want: []string{
			"1: f: b = true → no statement", "1: f: b = true → b = false",
			"1: f: g(a < a) → no statement", "1: f: a < a → true", "1: f: a < a → false", "1: f: a < a → a <= a",
			"1: f: b → true", "1: f: b → false",
		},
	}, {
		name: "calculation",
		code: "func f(a, b int, s string) (int, string) { a += max(b, a*b); return a - b, s + s }",
		want: []string{
			"1: f: a += max(b, a*b) → no statement", "1: f: a += max(b, a*b) → a -= max(b, a*b)",
			"1: f: max(b, a*b) → min(b, a*b)", "1: f: a*b → a/b", "1: f: a - b → a + b",
		},
	}, {
		name: "flags",
		code: "func f(a, b int) int { return a | b }",
		want: []string{"1: f: a | b → a", "1: f: a | b → b"},
	}, {
		name: "numbers and times",
		code: "import `time`\nvar a, b, c, d = 0, 1, 7, 1000\nvar e = 5 * time.Second\nvar f = [3]int{}\nconst g = 5",
		want: []string{
			"2: a: a, b, c, d = 0, 1, 7, 1000 → a, b, c, d = 1, 1, 7, 1000",
			"2: a: a, b, c, d = 0, 1, 7, 1000 → a, b, c, d = 0, 0, 7, 1000",
			"2: a: a, b, c, d = 0, 1, 7, 1000 → a, b, c, d = 0, 1, 8, 1000",
			"2: a: a, b, c, d = 0, 1, 7, 1000 → a, b, c, d = 0, 1, 7, 0",
			"3: e: 5 * time.Second → 0 * time.Second",
			"5: g: g = 5 → g = 6",
		},
	}, {
		name: "statements",
		code: `type T struct{ n, m chan int }
func (t *T) f(list []func()) {
	for _, f := range list {
		if f == nil {
			f()
			continue
		}
		defer f()
		go f()
	}
	t.n = t.m
	<-t.n
	t.n <- len(list)
}`,
		want: []string{
			"3: T.f: for _, f := range list { if f == nil { f() continue } defer f() go f() } → no statement",
			"4: T.f: f == nil → true", "4: T.f: f == nil → false",
			"5: T.f: f() → no statement", "6: T.f: continue → no statement",
			"8: T.f: defer f() → no statement", "9: T.f: go f() → no statement",
			"11: T.f: t.n = t.m → no statement", "12: T.f: <-t.n → no statement",
			"13: T.f: t.n <- len(list) → no statement",
		},
	}, {
		name: "the cases of a switch",
		code: "func f(a int) {\n\tswitch a {\n\tcase a, -a:\n\t\tf(a)\n\tdefault:\n\t\tf(a)\n\t}\n" +
			"\tswitch {\n\tcase a == a:\n\t\tf(a)\n\t}\n}",
		want: []string{
			"3: f: case a, -a: f(a) → no case", "3: f: case a → no value", "3: f: case -a → no value",
			"4: f: f(a) → no statement", "6: f: f(a) → no statement #2", "6: f: default: f(a) → no case",
			"9: f: a == a → true", "9: f: a == a → false", "10: f: f(a) → no statement #3",
		},
	}, {
		name: "the cases of a select",
		code: "func f(a chan int) {\n\tselect {\n\tcase <-a:\n\tdefault:\n\t}\n}",
		want: []string{"3: f: case <-a: → no case"},
	}, {
		name: "an error, but not its text",
		code: "import `fmt`\nfunc f(a bool) (int, error) { return len(``), fmt.Errorf(`a` + `b`) }\n" +
			"func g() error { return nil }",
		want: []string{"2: f: return len(``), fmt.Errorf(`a` + `b`) → return len(``), nil"},
	}, {
		name: "what is returned beside an error",
		code: "func f(e error) (int, bool, error) { return 5, false, e }",
		want: []string{"1: f: return 5, false, e → return 5, false, nil"},
	}, {
		name: "an error",
		code: "func f(e error) (int, error) { return len(``), e }",
		want: []string{"1: f: return len(``), e → return len(``), nil"},
	}, {
		name: "panics, and conditions of them",
		code: "func f(a bool) { if a { panic(1) } }",
		want: []string{},
	}} {
		t.Run(c.name, func(t *testing.T) {
			got, _ := mutantsOf(t, "package p; "+c.code)
			if !slices.Equal(got, c.want) {
				t.Errorf("the mutants are\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(c.want, "\n\t"))
			}
		})
	}
}

// TestSwitched: a mutant changes only its own part of a file.
func TestSwitched(t *testing.T) {
	const head, tail = "package p\n\nfunc f(a, b bool, c chan int, n int) (e error) {\n\t", "\n\treturn e\n}\n"
	for statement, want := range map[string][]string{
		"if a && b { g() }": {
			"if ((a && b) || mutantOn(7)) { g() }", "if ((a && b) && !mutantOn(7)) { g() }",
			"if ((a) || mutantOn(7)) && b { g() }", "if a && ((b) || mutantOn(7)) { g() }",
			"if a && b { if !mutantOn(7) { g() } }",
		},
		"for a || b { break }": {
			"for ((a || b) && !mutantOn(7)) { break }", "for ((a) && !mutantOn(7)) || b { break }",
			"for a || ((b) && !mutantOn(7)) { break }", "for a || b { if !mutantOn(7) { break } }",
		},
		"switch n {\ncase n, -n: g()\n}": {
			"switch mutantWithout[int](7, n, n, -n) {\ncase n, -n: g()\n}",
			"switch mutantWithout[int](7, n, n) {\ncase n, -n: g()\n}",
			"switch mutantWithout[int](7, n, -n) {\ncase n, -n: g()\n}",
			"switch n {\ncase n, -n: if !mutantOn(7) { g() }\n}",
		},
		"select {\ncase n = <-c:\n}": {"select {\ncase n = <-mutantChannel(7, c):\n}"},
		"n += n":                     {"if !mutantOn(7) { n += n }", "if mutantOn(7) { n -= n } else { n += n }"},
		"g(n < n)": {
			"if !mutantOn(7) { g(n < n) }", "g(((n < n) || mutantOn(7)))", "g(((n < n) && !mutantOn(7)))",
			"g(mutantPick(7, func() bool { return n < n }, func() bool { return n <= n }))",
		},
	} {
		_, contents := mutantsOf(t, head+statement+tail+"func g(...bool) {}\n")
		var got []string
		for _, content := range contents {
			line, begins := strings.CutPrefix(content, head)
			line, _, ends := strings.Cut(line, tail)
			if !begins || !ends {
				continue // a mutant of the return
			}
			got = append(got, line)
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s becomes\n\t%s\nwant\n\t%s", statement, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
		}
	}
}

// TestNamesAreStable: an edit elsewhere in the file changes no names.
func TestNamesAreStable(t *testing.T) {
	const function = "func f(a bool) {\n\tif a {\n\t\tf(a)\n\t}\n\tif a {\n\t\tf(a)\n\t}\n}\n"
	names := func(code string) (names []string) {
		lines, _ := mutantsOf(t, code)
		for _, line := range lines {
			if _, name, _ := strings.Cut(line, ": "); strings.HasPrefix(name, "f: ") {
				names = append(names, name)
			}
		}
		return names
	}
	before := names("package p\n" + function)
	after := names("package p\nfunc g(a bool) {\n\tif a {\n\t\tg(a)\n\t}\n}\n" + function)
	if !slices.Equal(before, after) {
		t.Errorf("an edit of another function changed the names from %q to %q", before, after)
	}
	slices.Sort(before)
	if len(slices.Compact(slices.Clone(before))) != len(before) {
		t.Errorf("two mutants have the same name: %q", before)
	}
}

func TestParseEquivalents(t *testing.T) {
	got, err := parseEquivalents([]byte("# comment\n\na.go: f: x → y\n    because\n    of z\n" +
		"b.go: g: x → y\nb.go: g: x → y #2\n\tsince\n"))
	want := map[string]string{
		"a.go: f: x → y": "because of z",
		"b.go: g: x → y": "since", "b.go: g: x → y #2": "since",
	}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("the entries are %q, %v, want %q", got, err, want)
	}
	for _, text := range []string{
		"    a reason of nothing\n", "a\nb\n", "a\n", "a\n    b\na\n    b\n", "a\na\n    b\n",
	} {
		if got, err := parseEquivalents([]byte(text)); err == nil {
			t.Errorf("parseEquivalents(%q) = %q, want an error", text, got)
		}
	}
}

// TestStale: an entry is stale if its package is mutated and has no such mutant. Entries of other packages are not.
func TestStale(t *testing.T) {
	reasons := map[string]string{"p/a.go: f: x → y": "r", "p/a.go: f: x → z": "r", "p/q/a.go: f: x → y": "r"}
	all := []mutant{{file: "p/a.go", function: "f", before: "x", after: "y"}}
	if got := stale(reasons, "p", all); !slices.Equal(got, []string{"p/a.go: f: x → z"}) {
		t.Errorf("the stale entries are %q, want only that of x → z", got)
	}
}

// TestOutputReader: the reader finds the results in the output of a test binary, and ignores those of children.
func TestOutputReader(t *testing.T) {
	failed := 0
	o := &outputReader{failed: func() { failed++ }}
	for _, piece := range []string{
		"\x16=== RUN   TestA\nwrong\n\x16--- PA", "SS: TestA (0.00s)\n    \x16--- PASS: TestA/x (0.00s)\n",
		"a line of a child \x16--- FAIL: TestB/y (0.01s)\n\x16--- FAIL: TestC (0.00s)\n",
	} {
		if n, err := o.Write([]byte(piece)); n != len(piece) || err != nil {
			t.Fatal(n, err)
		}
	}
	if o.test != "TestB" || failed != 1 ||
		!slices.Equal(o.passed, []string{"TestA"}) || !slices.Contains(o.last, "wrong") {
		t.Errorf("failed %d times: %+v", failed, o)
	}
}
