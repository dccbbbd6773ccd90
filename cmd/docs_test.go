package cmd_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
	"github.com/sentinel-shim/sentinel-shim/sentinel/exitcode"
	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
	"github.com/sentinel-shim/sentinel-shim/sentinel/testenv"
)

// The documents say what the programs do: their flags, defaults, exit codes and file names.

// document returns a document of the repository.
func document(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile("../" + path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// section returns the part of a document below a heading, up to the next heading of any kind.
func section(t testing.TB, text, heading string) string {
	t.Helper()
	_, rest, found := strings.Cut(text, "\n"+heading+"\n")
	if !found {
		t.Fatalf("there is no heading %q", heading)
	}
	rest, _, _ = strings.Cut(rest, "\n#")
	return rest
}

// documented is a flag as a table of the README or --help has it.
type documented struct{ variable, value string }

var (
	tableRow = regexp.MustCompile("(?m)^\\| `--([a-z-]+)` \\| `?([A-Z_–]+)`? \\| ([^|]*) \\|")
	helpLine = regexp.MustCompile(`^  --([a-z-]+)`)
	ofHelp   = regexp.MustCompile(`\(default: ([^)]*)\)`)
	variable = regexp.MustCompile(`\[\$([A-Z_]+)\]`)
)

// TestFlagsInREADME: the tables have every flag that --help has, its variable and its default, and no
// other flag.
func TestFlagsInREADME(t *testing.T) {
	t.Parallel()
	for program, heading := range map[string]string{
		"sentinel": "### sentinel [flags] -- COMMAND [ARG...]",
		"shim":     "### shim [flags] -- SIDECAR [ARG...]",
	} {
		help, err := exec.Command(drive.Program(program), "--help").Output()
		if err != nil {
			t.Fatal(err)
		}
		want := make(map[string]documented)
		for _, paragraph := range strings.Split(strings.ReplaceAll(string(help), "\n   ", " "), "\n") {
			if name := helpLine.FindStringSubmatch(paragraph); name != nil {
				paragraph = strings.Join(strings.Fields(paragraph), " ")
				var d documented
				if found := ofHelp.FindStringSubmatch(paragraph); found != nil {
					d.value = found[1]
				}
				if found := variable.FindStringSubmatch(paragraph); found != nil {
					d.variable = found[1]
				}
				want[name[1]] = d
			}
		}
		if len(want) < 9 {
			t.Fatalf("%s --help has only these flags: %v", program, want)
		}
		delete(want, "help") // these two share a row
		delete(want, "version")
		for _, row := range tableRow.FindAllStringSubmatch(section(t, document(t, "README.md"), heading), -1) {
			name, d := row[1], want[row[1]]
			if _, known := want[name]; !known {
				t.Errorf("README: %s has no flag --%s", program, name)
				continue
			}
			delete(want, name)
			if got := strings.Trim(row[2], "–"); got != d.variable {
				t.Errorf("README: the variable of %s --%s is %q, not %q", program, name, d.variable, got)
			}
			// What the README says in words, --help says in other words.
			value, _, _ := strings.Cut(strings.Trim(row[3], "`"), "`")
			// A switch is off.
			if value == "false" {
				value = ""
			}
			if words := value == "–" || strings.Contains(value, " "); !words && value != d.value {
				t.Errorf("README: the default of %s --%s is %q, not %q", program, name, d.value, value)
			}
		}
		for name := range want {
			t.Errorf("README: the flag --%s of %s is missing", name, program)
		}
	}
}

// TestJobInREADME: the first manifest in the README is manifests/job.yaml, and the init container that is quoted alone
// is that manifest's.
func TestJobInREADME(t *testing.T) {
	t.Parallel()
	readme, job := document(t, "README.md"), document(t, "manifests/job.yaml")
	if !strings.Contains(readme, "\n```yaml\n"+job+"```\n") {
		t.Error("README: the manifest in it is not manifests/job.yaml as it is")
	}
	_, rest, _ := strings.Cut(job, "      initContainers:\n")
	init, _, found := strings.Cut(rest, "      containers:\n")
	if !found || !strings.Contains(readme, "\n```yaml\n      initContainers:\n"+init+"```\n") {
		t.Errorf("README: no block has exactly the init containers of manifests/job.yaml:\n%s", init)
	}
}

// TestExitCodesInDocuments: the tables have the codes that are in package exitcode.
func TestExitCodesInDocuments(t *testing.T) {
	t.Parallel()
	want := []string{
		strconv.Itoa(exitcode.Lost), strconv.Itoa(exitcode.NotFound), strconv.Itoa(exitcode.NotExecutable),
		strconv.Itoa(exitcode.Wrapper), strconv.Itoa(exitcode.TimedOut),
	}
	row := regexp.MustCompile(`(?m)^\| (\d+) \|`)
	for path, heading := range map[string]string{"README.md": "## Exit codes", "docs/design.md": "### 5.4 Exit codes"} {
		var got []string
		for _, found := range row.FindAllStringSubmatch(section(t, document(t, path), heading), -1) {
			got = append(got, found[1])
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s has the exit codes %q, the programs have %q", path, got, want)
		}
	}
}

// TestFileNamesInDesign: the design names the files that a run really has.
func TestFileNamesInDesign(t *testing.T) {
	t.Parallel()
	dir := testenv.FastVolume(t)
	run := begin(t, dir)
	names := []string{onlyFile(t, dir)}
	end(t, run, 3)
	names = append(names, onlyFile(t, dir))
	if terminated := lifetime.TerminatedPath(dir, "main"); terminated != dir+"/"+names[1] {
		t.Errorf("the end is %s, not %s", names[1], terminated)
	}
	contract := section(t, document(t, "docs/design.md"), "### 2.1 A run is one file")
	for _, name := range names {
		row := fmt.Sprintf("\n| `%s` |", strings.Replace(name, "main", "NAME", 1))
		if !strings.Contains(contract, row) {
			t.Errorf("docs/design.md, 2.1, has no row %q", row)
		}
	}
}

// onlyFile returns the name of the only file in a directory.
func onlyFile(t testing.TB, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("the volume holds %v, %v", entries, err)
	}
	return entries[0].Name()
}

// TestLinks: no link of a document to a file of the repository points nowhere, and the tests that the
// track record names exist in the files that it names.
func TestLinks(t *testing.T) {
	t.Parallel()
	documents, err := filepath.Glob("../*.md")
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	link := regexp.MustCompile(`\]\(([^):#]+)(?:#[^)]*)?\)`)
	test := regexp.MustCompile("`((?:Test|Fuzz)\\w+)` in \\[[^]]*\\]\\(([^)]+)\\)")
	for _, path := range append(documents, more...) {
		text := document(t, strings.TrimPrefix(path, "../"))
		for _, found := range link.FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), found[1])); err != nil {
				t.Errorf("%s: the link to %s points nowhere: %v", path, found[1], err)
			}
		}
		for _, found := range test.FindAllStringSubmatch(text, -1) {
			code, err := os.ReadFile(filepath.Join(filepath.Dir(path), found[2]))
			if err != nil || !strings.Contains(string(code), "func "+found[1]+"(") {
				t.Errorf("%s: there is no test %s in %s", path, found[1], found[2])
			}
		}
	}
}
