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

// equivalents lists the mutants that no test can tell from the code. An entry has the name of one or
// more mutants, each on a line of its own, and below them the reason, on indented lines. Empty lines
// and lines that begin with # are comments.
//
//go:embed equivalent.txt
var equivalents []byte

// parseEquivalents returns the reason for each mutant, by the mutant's name.
func parseEquivalents(text []byte) (reasons map[string]string, err error) {
	reasons = make(map[string]string)
	var names []string // the mutants of the current entry
	explained := true  // the current entry has a reason
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		switch content := strings.TrimSpace(line); {
		case content == "" || strings.HasPrefix(line, "#"):
		case line[0] == ' ' || line[0] == '\t':
			if len(names) == 0 {
				return nil, fmt.Errorf("equivalent.txt:%d: no mutant is named above this reason", n)
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
		return nil, errors.New("equivalent.txt: the last entry has no reason")
	}
	return reasons, nil
}

// stale returns the names in reasons that are in files of the package in dir, but are not the name
// of any of its mutants.
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
