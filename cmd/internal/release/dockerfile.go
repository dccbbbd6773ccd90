package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
)

// stage is the last stage of the Dockerfile: what the image consists of.
type stage struct {
	labels     map[string]string
	user       string
	entrypoint []string
	files      []string // paths in the image; the base name is a program's
}

// readDockerfile reads the last stage of a Dockerfile. It knows the instructions that are used there, and fails at
// every other, so the image of a release cannot differ from that of make image.
func readDockerfile(name string, args map[string]string) (stage, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return stage{}, err
	}
	s, err := parseDockerfile(string(data), args)
	if err != nil {
		return stage{}, fmt.Errorf("%s: %w", name, err)
	}
	return s, nil
}

func parseDockerfile(text string, args map[string]string) (s stage, err error) {
	const from = "\nFROM scratch\n"
	last := strings.LastIndex(text, "\nFROM ")
	if last < 0 || !strings.HasPrefix(text[last:], from) {
		return s, fmt.Errorf("the last stage does not begin with %q", strings.TrimSpace(from))
	}
	s.labels = make(map[string]string)
	for _, line := range instructions(text[last+len(from):]) {
		if err := s.apply(line, args); err != nil {
			return s, fmt.Errorf("%s: %w", line, err)
		}
	}
	return s, nil
}

// instructions splits a part of a Dockerfile into instructions, without comments.
func instructions(text string) (lines []string) {
	for _, line := range strings.Split(strings.ReplaceAll(text, "\\\n", " "), "\n") {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			lines = append(lines, line)
		}
	}
	return lines
}

// apply changes the stage by an instruction.
func (s *stage) apply(line string, args map[string]string) error {
	instruction, rest, _ := strings.Cut(line, " ")
	switch instruction {
	case "ARG":
		if key, _, _ := strings.Cut(rest, "="); args[key] == "" {
			return fmt.Errorf("no value for %s", key)
		}
	case "LABEL":
		return s.addLabels(rest, args)
	case "COPY":
		return s.copy(strings.Fields(rest))
	case "USER":
		s.user = rest
	case "ENTRYPOINT":
		return json.Unmarshal([]byte(rest), &s.entrypoint)
	default:
		return errors.New("the release does not know this instruction")
	}
	return nil
}

// addLabels adds labels of the form KEY="VALUE" KEY="VALUE".
func (s *stage) addLabels(text string, args map[string]string) error {
	for text = strings.TrimSpace(text); text != ""; text = strings.TrimSpace(text) {
		key, rest, _ := strings.Cut(text, "=")
		quoted, err := strconv.QuotedPrefix(rest)
		if err != nil {
			return fmt.Errorf("the value of %s: %w", key, err)
		}
		value, err := strconv.Unquote(quoted)
		if err != nil {
			return fmt.Errorf("the value of %s: %w", key, err)
		}
		s.labels[key] = os.Expand(value, func(name string) string { return args[name] })
		text = rest[len(quoted):]
	}
	return nil
}

// copy adds files that are copied from another stage into a directory.
func (s *stage) copy(words []string) error {
	unknown := errors.New("the release knows only COPY --from=STAGE PROGRAM... DIRECTORY/")
	last := len(words) - 1
	if last < 2 || !strings.HasPrefix(words[0], "--from=") || !strings.HasSuffix(words[last], "/") {
		return unknown
	}
	for _, from := range words[1:last] {
		program := path.Base(from)
		if !slices.Contains(programs, program) {
			return unknown
		}
		s.files = append(s.files, path.Join(words[last], program))
	}
	return nil
}
