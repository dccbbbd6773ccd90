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

// reference is the document that has the flags and the exit codes for users.
const reference = "docs/reference.md"

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

// documented is a flag as a table of the reference or --help has it.
type documented struct{ variable, value string }

var (
	tableRow = regexp.MustCompile("(?m)^\\| `--([a-z-]+)` \\| `?([A-Z_–]+)`? \\| ([^|]*) \\|")
	helpLine = regexp.MustCompile(`^  --([a-z-]+)`)
	ofHelp   = regexp.MustCompile(`\(default: ([^)]*)\)`)
	variable = regexp.MustCompile(`\[\$([A-Z_]+)\]`)
)

// TestFlagsInReference: the tables have every flag that --help has, its variable and its default, and no
// other flag.
func TestFlagsInReference(t *testing.T) {
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
		for _, row := range tableRow.FindAllStringSubmatch(section(t, document(t, reference), heading), -1) {
			name, d := row[1], want[row[1]]
			if _, known := want[name]; !known {
				t.Errorf("%s: %s has no flag --%s", reference, program, name)
				continue
			}
			delete(want, name)
			if got := strings.Trim(row[2], "–"); got != d.variable {
				t.Errorf("%s: the variable of %s --%s is %q, not %q", reference, program, name, d.variable, got)
			}
			// What the reference says in words, --help says in other words.
			value, _, _ := strings.Cut(strings.Trim(row[3], "`"), "`")
			// A switch is off.
			if value == "false" {
				value = ""
			}
			if words := value == "–" || strings.Contains(value, " "); !words && value != d.value {
				t.Errorf("%s: the default of %s --%s is %q, not %q", reference, program, name, d.value, value)
			}
		}
		for name := range want {
			t.Errorf("%s: the flag --%s of %s is missing", reference, name, program)
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
	for path, heading := range map[string]string{reference: "## Exit codes", "docs/design.md": "### 5.4 Exit codes"} {
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

// documentPaths returns the paths of all documents, in the repository.
func documentPaths(t testing.TB) (paths []string) {
	t.Helper()
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/*/*.md", "manifests/compare/*.md"} {
		found, err := filepath.Glob("../" + pattern)
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %q, %v", pattern, found, err)
		}
		for _, path := range found {
			paths = append(paths, strings.TrimPrefix(path, "../"))
		}
	}
	return paths
}

// TestLinks: no link of a document to a file of the repository, or to a heading of a document, points nowhere, and the
// tests that the track record names exist in the files that it names.
func TestLinks(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`\]\(([^)#:]*)(?:#([^)]*))?\)`)
	test := regexp.MustCompile("`((?:Test|Fuzz)\\w+)` in \\[[^]]*\\]\\(([^)]+)\\)")
	for _, path := range documentPaths(t) {
		text := document(t, path)
		for _, found := range link.FindAllStringSubmatch(text, -1) {
			target := path
			if found[1] != "" {
				target = filepath.Join(filepath.Dir(path), found[1])
			}
			if _, err := os.Stat("../" + target); err != nil {
				t.Errorf("%s: the link to %s points nowhere: %v", path, found[1], err)
			} else if found[2] != "" && !slices.Contains(anchors(document(t, target)), found[2]) {
				t.Errorf("%s: %s has no heading #%s", path, target, found[2])
			}
		}
		for _, found := range test.FindAllStringSubmatch(text, -1) {
			code, err := os.ReadFile(filepath.Join("..", filepath.Dir(path), found[2]))
			if err != nil || !strings.Contains(string(code), "func "+found[1]+"(") {
				t.Errorf("%s: there is no test %s in %s", path, found[1], found[2])
			}
		}
	}
}

// anchors returns the anchors that GitHub gives to a document's headings.
func anchors(text string) (anchors []string) {
	dropped := regexp.MustCompile(`[^\pL\pN _-]`)
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(text, -1) {
		anchor := dropped.ReplaceAllString(strings.ToLower(heading[1]), "")
		anchors = append(anchors, strings.ReplaceAll(anchor, " ", "-"))
	}
	return anchors
}

// notRunHere has the commands of the documents that no test can run, and why. kubectl's are those that read, and those
// whose effect the end-to-end tests bring about by the same API calls.
var notRunHere = map[string]string{
	"cosign":           "needs a published release",
	"crane":            "needs a registry",
	"docker":           "needs a daemon and a registry",
	"gh":               "needs a published release",
	"git checkout":     "changes the tree",
	"go version":       "reads a published release",
	"kubectl annotate": "TestOneLabel/NewEntry runs it",
	"kubectl describe": "the end-to-end tests read the same by the API",
	"kubectl exec":     "needs the reader's own pod",
	"kubectl logs":     "the end-to-end tests read the same by the API",
	"sha256sum":        "needs a published release",
	"skopeo":           "needs a registry",
}

// TestCommandsInDocuments: each command in a document's block of shell commands is a target of make, a test of a
// package, or kubectl with files that exist; or it is listed above. make's targets exist, also where the text names
// them.
func TestCommandsInDocuments(t *testing.T) {
	t.Parallel()
	makefile := document(t, "Makefile")
	isTarget := func(name string) bool {
		return regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + `:.*##`).MatchString(makefile)
	}
	used := make(map[string]bool)
	block := regexp.MustCompile("(?ms)^ *```sh\n(.*?)^ *```$")
	inText := regexp.MustCompile("`make ([a-z0-9-]+)")
	for _, path := range documentPaths(t) {
		text := document(t, path)
		for _, found := range inText.FindAllStringSubmatch(text, -1) {
			if !isTarget(found[1]) {
				t.Errorf("%s: there is no target %s of make", path, found[1])
			}
		}
		for _, found := range block.FindAllStringSubmatch(text, -1) {
			for _, line := range commandLines(found[1]) {
				words := strings.Fields(line)
				for strings.Contains(words[0], "=") { // a variable for the command
					words = words[1:]
				}
				two := strings.Join(words[:min(2, len(words))], " ")
				if _, ok := notRunHere[words[0]]; ok {
					used[words[0]] = true
				} else if _, ok := notRunHere[two]; ok {
					used[two] = true
				} else if err := runnable(words, isTarget); err != nil {
					t.Errorf("%s: %s: %v", path, line, err)
				}
			}
		}
	}
	for command := range notRunHere {
		if !used[command] {
			t.Errorf("no document has the command %s, which is listed as one that is not run", command)
		}
	}
}

// commandLines returns the commands of a block: without comments, continued lines as one, and without the lines in a
// quoted word after the first one.
func commandLines(block string) (lines []string) {
	block = regexp.MustCompile(`(?s)='[^']*'`).ReplaceAllString(block, "=''")
	block = regexp.MustCompile(`(?m) +#.*$`).ReplaceAllString(strings.ReplaceAll(block, "\\\n", " "), "")
	for _, line := range strings.Split(block, "\n") {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// runnable returns why a command cannot be run in this repository.
func runnable(words []string, isTarget func(string) bool) error {
	switch words[0] {
	case "make":
		for _, word := range words[1:] {
			if !strings.Contains(word, "=") && !isTarget(word) {
				return fmt.Errorf("there is no target %s", word)
			}
		}
		return nil
	case "kubectl":
		for i, word := range words[:len(words)-1] {
			if word == "-f" || word == "-k" {
				_, err := os.Stat("../" + words[i+1])
				return err
			}
		}
	case "go":
		if words[1] == "test" {
			_, err := os.Stat("../" + words[2])
			return err
		}
	}
	return fmt.Errorf("no test runs %s, and it is not listed in notRunHere", words[0])
}
