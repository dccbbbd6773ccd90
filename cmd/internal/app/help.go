package app

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// The groups of the flags that both programs have.
const (
	loggingGroup = "Logging"
	other        = "Other"
)

const (
	width       = 80 // of a terminal
	indent      = 2
	usageColumn = 28 // where the usage of a flag begins
)

// helpFlag and versionFlag have the short names -h and -v.
func helpFlag(dst *bool) *Flag {
	f := Switch(About{"help", "", "show this help, and exit", other}, dst)
	f.short, f.noVariable = "h", true
	return f
}

func versionFlag(dst *bool) *Flag {
	f := Switch(About{"version", "", "show the version, and exit", other}, dst)
	f.short, f.noVariable = "v", true
	return f
}

// showHelp writes the help text to stdout. urfave/cli would print it through text/template. That calls methods by
// their names, so the linker would have to keep every exported method of the whole program: 1.2 MB.
func (p Program) showHelp(flags []*Flag) {
	var text strings.Builder
	fmt.Fprintf(&text, "%s - %s\n\nUsage: %s [flags] -- %s [ARG...]\n", p.Name, p.Usage, p.Name, p.CommandName)
	var groups []string
	for _, f := range flags {
		if !slices.Contains(groups, f.Group) {
			groups = append(groups, f.Group)
		}
	}
	for _, group := range groups {
		fmt.Fprintf(&text, "\n%s:\n", group)
		for _, f := range flags {
			if f.Group == group {
				names, usage := f.help(p.Name)
				fmt.Fprintf(&text, "%*s%-*s%s\n", indent, "", usageColumn-indent, names, wrap(usage, usageColumn))
			}
		}
	}
	for _, part := range []struct{ title, text string }{
		{"Exit code", p.ExitCodes}, {"States of --status", statusStates}, {"Examples", p.Examples},
	} {
		fmt.Fprintf(&text, "\n%s:\n%*s%s\n", part.title, indent, "", wrap(part.text, indent))
	}
	_, _ = os.Stdout.WriteString(text.String()) // nobody is left to read an error
}

// wrap breaks the lines of a text that begins in a column of the terminal, between words.
func wrap(text string, column int) string {
	margin := "\n" + strings.Repeat(" ", column)
	var lines []string
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		for len(line) > width-column {
			end := strings.LastIndexByte(line[:width-column+1], ' ')
			if end < 0 {
				break // one long word
			}
			lines, line = append(lines, line[:end]), line[end+1:]
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, margin)
}

// help returns what the help text says about a flag.
func (f *Flag) help(program string) (names, usage string) {
	names, usage = "--"+f.Name, f.Usage
	if f.short != "" {
		names += ", -" + f.short
	}
	switch {
	case f.Type == "":
	case f.bare != "":
		names += "[=" + f.Type + "]"
	default:
		names += " " + f.Type
	}
	if f.defaultText != "" {
		usage += " (default: " + f.defaultText + ")"
	}
	if variable := f.variable(program); variable != "" {
		usage += " [$" + variable + "]"
	}
	return names, usage
}
