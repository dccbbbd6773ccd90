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

// equivalents is the list of the mutants that no test can tell from the code: a name in a line,
// and below it the reason, indented. Empty lines and those that begin with # are comments.
//
//go:embed equivalent.txt
var equivalents []byte

// parseEquivalents returns the reasons by name.
func parseEquivalents(text []byte) (reasons map[string]string, err error) {
	reasons = make(map[string]string)
	var name string
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		switch reason := strings.TrimSpace(line); {
		case reason == "" || strings.HasPrefix(line, "#"):
		case line[0] == ' ' || line[0] == '\t':
			if name == "" {
				return nil, fmt.Errorf("equivalent.txt:%d: a reason without a mutant", n)
			}
			reasons[name] = strings.TrimSpace(reasons[name] + " " + reason)
		default:
			if name != "" && reasons[name] == "" {
				return nil, fmt.Errorf("equivalent.txt:%d: the mutant before has no reason", n)
			}
			name = reason
			if _, twice := reasons[name]; twice {
				return nil, fmt.Errorf("equivalent.txt:%d: this mutant is listed twice", n)
			}
			reasons[name] = ""
		}
	}
	if name != "" && reasons[name] == "" {
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
