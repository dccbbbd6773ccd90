package main

import (
	"bufio"
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"path"
	"strings"
)

// equivalents is the list of the mutants that no test can tell from the code: the names of one
// or several, a line for each, and below them the reason, indented. Empty lines and those that
// begin with # are comments.
//
//go:embed equivalent.txt
var equivalents []byte

// parseEquivalents returns the reasons by name.
func parseEquivalents(text []byte) (reasons map[string]string, err error) {
	reasons = make(map[string]string)
	var names []string // those that the next reason is for
	explained := true  // they have one
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		switch content := strings.TrimSpace(line); {
		case content == "" || strings.HasPrefix(line, "#"):
		case line[0] == ' ' || line[0] == '\t':
			if len(names) == 0 {
				return nil, fmt.Errorf("equivalent.txt:%d: a reason without a mutant", n)
			}
			for _, name := range names {
				reasons[name] = strings.TrimSpace(reasons[name] + " " + content)
			}
			explained = true
		default:
			if explained {
				names, explained = nil, false
			}
			if _, twice := reasons[content]; twice {
				return nil, fmt.Errorf("equivalent.txt:%d: this mutant is listed twice", n)
			}
			reasons[content] = ""
			names = append(names, content)
		}
	}
	if !explained {
		return nil, errors.New("equivalent.txt: the last mutant has no reason")
	}
	return reasons, nil
}

// stale returns those of the names that are of a package's files, but of no mutant.
func stale(reasons map[string]string, dir string, all []mutant) (names []string) {
	known := make(map[string]bool)
	for _, m := range all {
		known[m.name()] = true
	}
	for name := range reasons {
		file, _, _ := strings.Cut(name, ":")
		if path.Dir(file) == dir && !known[name] {
			names = append(names, name)
		}
	}
	return names
}
