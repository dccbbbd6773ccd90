package app

import (
	"os"
	"slices"

	"github.com/urfave/cli/v2"
)

// The groups of the flags that both programs have.
const (
	loggingGroup = "Logging"
	other        = "Other"
)

// helpTemplate fits a terminal of 80 columns: two for the indent, 26 for a flag and its type.
const helpTemplate = `{{.Name}} - {{.Usage}}

Usage: {{.Name}} [flags] -- {{.CommandName}} [ARG...]
{{range .Groups}}
{{.Name}}:
{{range .Flags}}  {{printf "%-26s" .Names}}{{wrap .Usage 28}}
{{end}}{{end}}
Exit code:
  {{wrap .ExitCodes 2}}

Examples:
  {{wrap .Examples 2}}
`

type (
	helpGroup struct {
		Name  string
		Flags []helpLine
	}
	helpLine struct{ Names, Usage string }
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

// showHelp writes the help text to stdout.
func (p Program) showHelp(flags []*Flag) {
	var groups []helpGroup
	for _, f := range flags {
		i := slices.IndexFunc(groups, func(g helpGroup) bool { return g.Name == f.Group })
		if i < 0 {
			i, groups = len(groups), append(groups, helpGroup{Name: f.Group})
		}
		groups[i].Flags = append(groups[i].Flags, f.help(p.Name))
	}
	data := map[string]any{
		"Name": p.Name, "Usage": p.Usage, "CommandName": p.CommandName, "Groups": groups,
		"ExitCodes": p.ExitCodes, "Examples": p.Examples,
	}
	cli.HelpPrinterCustom(os.Stdout, helpTemplate, data, map[string]any{"wrapAt": func() int { return 80 }})
}

func (f *Flag) help(program string) helpLine {
	line := helpLine{"--" + f.Name, f.Usage}
	if f.short != "" {
		line.Names += ", -" + f.short
	}
	if f.Type != "" {
		line.Names += " " + f.Type
	}
	if f.defaultText != "" {
		line.Usage += " (default: " + f.defaultText + ")"
	}
	if variable := f.variable(program); variable != "" {
		line.Usage += " [$" + variable + "]"
	}
	return line
}
