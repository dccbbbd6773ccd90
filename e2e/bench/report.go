package main

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"text/template"
	"time"

	"golang.org/x/sys/unix"
)

// results is all that was measured, for results.md.tmpl.
type results struct {
	Date, Machine, Instances        string
	Rounds, ChurnRounds             int
	Copies, Churned                 int
	Idle, Notice                    time.Duration
	Missing                         []string
	Memory, Disk, CPU, Death, Churn []series // of pairs
	Start, Forward                  []series // of wrappers
	Scale                           []level
	Idleness                        []idleness
	Sizes                           []size
	Image                           int64 // bytes
}

//go:embed results.md.tmpl
var text string

// write writes results.md and the pictures.
func (r results) write(out string) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	var b bytes.Buffer
	if err := template.Must(template.New("results.md").Funcs(functions).Parse(text)).Execute(&b, r); err != nil {
		return err
	}
	files := r.pictures()
	files["results.md"] = b.String()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(out, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	fmt.Fprintln(os.Stderr, "written to", out)
	return nil
}

var functions = template.FuncMap{
	"table":     table,
	"name":      emphasized,
	"seconds":   seconds,
	"middle":    func(s series) string { return seconds(s.median()) },
	"ratio":     ratioOf,
	"perMinute": func(perSecond float64) float64 { return 60 * perSecond },
	"mebibytes": mebibytes,
	"fileSize":  fileSize,
}

// table returns the distribution of each series, and the ratio to one of them. If that is missing, so are the ratios.
func table(all []series, reference string) string {
	to := find(all, reference)
	var b strings.Builder
	fmt.Fprintf(&b, "| | median | p90 | p99 | ratio to %s |\n|---|--:|--:|--:|--:|\n", reference)
	for _, s := range all {
		values := s.present()
		fmt.Fprintf(&b, "| %s", emphasized(s.Name))
		if s.Missed > 0 && len(values) > 0 {
			fmt.Fprintf(&b, " (no signal in %d rounds)", s.Missed)
		}
		b.WriteString(" |")
		for _, q := range []float64{0.5, 0.9, 0.99} {
			fmt.Fprintf(&b, " %s |", seconds(quantile(values, q)))
		}
		if s.Name == reference {
			b.WriteString(" 1 |\n")
		} else {
			fmt.Fprintf(&b, " %s |\n", ratioOf(s, to))
		}
	}
	return b.String()
}

// emphasized shows which of the names are this project's.
func emphasized(name string) string {
	if isOwn(name) {
		return "**" + name + "**"
	}
	return name
}

func (r ratio) String() string {
	if math.IsNaN(r.value) {
		return "–"
	}
	digits := 2
	if r.value >= 100 {
		digits = 0
	}
	return fmt.Sprintf("%.*f (%.*f to %.*f)", digits, r.value, digits, r.low, digits, r.high)
}

// seconds returns a time with three digits.
func seconds(s float64) string {
	switch {
	case math.IsNaN(s):
		return "–"
	case s == 0:
		return "0"
	case s < 999.5e-6:
		return significant(s*1e6) + " µs"
	case s < 999.5e-3:
		return significant(s*1e3) + " ms"
	default:
		return significant(s) + " s"
	}
}

// significant returns a number below 1,000 with three digits.
func significant(x float64) string {
	switch {
	case x < 9.995:
		return fmt.Sprintf("%.2f", x)
	case x < 99.95:
		return fmt.Sprintf("%.1f", x)
	default:
		return fmt.Sprintf("%.0f", x)
	}
}

func mebibytes(bytes float64) string { return fmt.Sprintf("%.1f", bytes/(1<<20)) }

func fileSize(bytes int64) string {
	if bytes < 1000 {
		return fmt.Sprintf("%d bytes", bytes)
	}
	if bytes < 100_000 {
		return significant(float64(bytes)/1e3) + " kB"
	}
	return significant(float64(bytes)/1e6) + " MB"
}

// A size is that of a program's file.
type size struct {
	Name  string
	Bytes int64
}

// sizes returns the sizes of all programs, and of what the last stage of the Dockerfile copies.
func sizes(all set, dockerfile, bin string) (list []size, image int64, err error) {
	add := func(name, file string) error {
		info, err := os.Stat(file)
		if err == nil {
			list = append(list, size{name, info.Size()})
		}
		return err
	}
	for _, w := range all.inits {
		err = errors.Join(err, add(w.name, w.file))
	}
	for _, p := range all.pairs {
		if p.main.file == p.sidecar.file {
			err = errors.Join(err, add(p.name, p.main.file))
			continue
		}
		err = errors.Join(err, add(p.main.name, p.main.file), add(p.sidecar.name, p.sidecar.file))
	}
	if err != nil {
		return nil, 0, err
	}

	text, err := os.ReadFile(dockerfile)
	if err != nil {
		return nil, 0, err
	}
	_, last, _ := strings.Cut(string(text), "\nFROM scratch\n")
	for line := range strings.Lines(last) {
		words := strings.Fields(line)
		if len(words) < 4 || words[0] != "COPY" {
			continue
		}
		for _, file := range words[2 : len(words)-1] { // after --from, before the destination
			info, err := os.Stat(filepath.Join(bin, filepath.Base(file)))
			if err != nil {
				return nil, 0, err
			}
			image += info.Size()
		}
	}
	if image == 0 {
		return nil, 0, fmt.Errorf("%s: its last stage copies nothing", dockerfile)
	}
	return list, image, nil
}

// machine says what the figures depend on.
func machine(disk string) string {
	var name unix.Utsname
	release := "of an unknown version"
	if unix.Uname(&name) == nil {
		release = unix.ByteSliceToString(name.Release[:])
	}
	return fmt.Sprintf("%d processors (%s), Linux %s, %s, and a disk with %s",
		runtime.NumCPU(), runtime.GOARCH, release, runtime.Version(), fileSystem(disk))
}

func fileSystem(path string) string {
	var statfs unix.Statfs_t
	if err := unix.Statfs(path, &statfs); err != nil {
		return err.Error()
	}
	switch statfs.Type {
	case unix.BTRFS_SUPER_MAGIC:
		return "Btrfs"
	case unix.EXT4_SUPER_MAGIC:
		return "ext4"
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "OverlayFS"
	case unix.TMPFS_MAGIC:
		return "tmpfs"
	case unix.XFS_SUPER_MAGIC:
		return "XFS"
	}
	return fmt.Sprintf("file system type %#x", statfs.Type)
}

// inotifyInstances returns how many inotify instances a user may have.
func inotifyInstances() string {
	text, err := os.ReadFile("/proc/sys/fs/inotify/max_user_instances")
	if err != nil {
		return "an unknown number of"
	}
	return strings.TrimSpace(string(text))
}
