package main

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// results is all that was measured.
type results struct {
	machine string
	rounds  int
	idle    time.Duration
	missing []string

	memory, disk, cpu, death, start, forward, churn []series
	scale                                           []level
	idleness                                        []idleness
	sizes                                           []size
	image                                           int64
}

// A size is that of a program's file in bytes.
type size struct {
	name  string
	bytes int64
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
	last := text[bytes.LastIndex(text, []byte("\nFROM ")):]
	for line := range strings.Lines(string(last)) {
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
	var statfs unix.Statfs_t
	release, filesystem := "unknown", "unknown"
	if unix.Uname(&name) == nil {
		release = unix.ByteSliceToString(name.Release[:])
	}
	if unix.Statfs(disk, &statfs) == nil {
		filesystem = map[int64]string{
			unix.BTRFS_SUPER_MAGIC: "btrfs", unix.EXT4_SUPER_MAGIC: "ext4", unix.OVERLAYFS_SUPER_MAGIC: "overlayfs",
			unix.TMPFS_MAGIC: "tmpfs", unix.XFS_SUPER_MAGIC: "XFS",
		}[int64(statfs.Type)]
	}
	return fmt.Sprintf("%d processors (%s), Linux %s, %s, the disk with %s", runtime.NumCPU(), runtime.GOARCH, release,
		runtime.Version(), filesystem)
}

func (r results) write(out string) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	for name, content := range map[string]string{"results.md": r.markdown(time.Now())} {
		if err := os.WriteFile(filepath.Join(out, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	fmt.Fprintln(os.Stderr, "written:", out)
	return nil
}

// markdown returns results.md.
func (r results) markdown(date time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, `# Beside what people use

Written by %s on %s, with %s. %d rounds; in each of them all programs are measured one after the other. Ratios are
those of the medians, with their 95 %% interval. Times depend on the machine; ratios much less so.

`, "`make bench`", date.UTC().Format(time.DateOnly), r.machine, r.rounds)
	b.WriteString(introduction)
	for _, text := range r.missing {
		fmt.Fprintf(&b, "\nNot measured: %s.\n", strings.Join(strings.Fields(text), " "))
	}

	b.WriteString("\n## Reaction\n\nFrom main's last instruction to SIGTERM in the sidecar.\n")
	fmt.Fprintf(&b, "\nThe volume in memory:\n\n%s", table(r.memory, limit))
	fmt.Fprintf(&b, "\nThe volume on disk:\n\n%s", table(r.disk, limit))
	fmt.Fprintf(&b, "\nProcessor time that the sidecar's wrapper takes for it, its own end included:\n\n%s", table(r.cpu, limit))
	fmt.Fprintf(&b, "\nWhile another process replaces some thousand of %d files a second on the volume:\n\n%s",
		churned, table(r.churn, limit))
	fmt.Fprintf(&b, "\n## Death notice\n\nFrom SIGKILL of main's wrapper to SIGTERM in the sidecar; –: none within %s.\n\n%s",
		notice, table(r.death, limit))
	fmt.Fprintf(&b, "\n## Start\n\nFrom a wrapper's exec to the first instruction of its command.\n\n%s", table(r.start, tini))
	fmt.Fprintf(&b, "\n## Signals\n\nFrom SIGTERM at a wrapper to SIGTERM at its command.\n\n%s", table(r.forward, tini))
	b.WriteString(r.idleTable())
	b.WriteString(r.sizeTable())
	b.WriteString(r.scaleTable())
	return b.String()
}

const introduction = `The C limit is about the least that a program can do on Linux for the same: inotify, a lock, and kill, without checks and
messages. The Go minimum is the same in Go, without the lock. Prow is its ` + "`entrypoint`" + ` around main, and around the
sidecar ten lines on its ` + "`wrapper.WaitForMarkers`" + `. The bash loop looks once a second; it takes part in each fourth
round. The sources are in [e2e/bench](../../e2e/bench). For many pods at once, see [docs/programs.md](../programs.md).
`

// table returns the distribution of series, and the ratio of each to the one of a name.
func table(all []series, reference string) string {
	var to series
	for _, s := range all {
		if s.name == reference {
			to = s
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "| | median | p90 | p99 | ratio to %s |\n|---|--:|--:|--:|--:|\n", the(reference))
	for _, s := range all {
		values := s.present()
		fmt.Fprintf(&b, "| %s |", emphasized(s.name))
		for _, q := range []float64{0.5, 0.9, 0.99} {
			fmt.Fprintf(&b, " %s |", seconds(quantile(values, q)))
		}
		if s.name == reference {
			b.WriteString(" 1 |\n")
			continue
		}
		fmt.Fprintf(&b, " %s |\n", ratioOf(s, to))
	}
	return b.String()
}

func (r results) idleTable() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n## Idle\n\nOver %s in which nothing happens. A loop's memory includes that of its `sleep`, its wake-ups do not include those of it.\n\n", r.idle)
	b.WriteString("| | processor time per minute | wake-ups per minute | memory | of that, its own | threads |\n")
	b.WriteString("|---|--:|--:|--:|--:|--:|\n")
	for _, i := range r.idleness {
		fmt.Fprintf(&b, "| %s | %s | %.0f | %s | %s | %.0f |\n", emphasized(i.name), seconds(60*i.cpu), 60*i.wakeups,
			mebibytes(i.resident), mebibytes(i.anonymous), i.threads)
	}
	return b.String()
}

func (r results) sizeTable() string {
	var b strings.Builder
	b.WriteString("\n## Size\n\n| | bytes | MB |\n|---|--:|--:|\n")
	for _, s := range r.sizes {
		fmt.Fprintf(&b, "| %s | %d | %.2f |\n", emphasized(s.name), s.bytes, float64(s.bytes)/1e6)
	}
	fmt.Fprintf(&b, "| **the image of sentinel and shim** | %d | %.2f |\n", r.image, float64(r.image)/1e6)
	return b.String()
}

func (r results) scaleTable() string {
	var b strings.Builder
	b.WriteString("\n## Many sidecars\n\nFrom main's last instruction until the last sidecar of one volume has SIGTERM.\n\n")
	b.WriteString("| sidecars | rounds | C limit | sentinel and shim | ratio | processor time per sidecar | ratio to the C limit |\n")
	b.WriteString("|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, l := range r.scale {
		reference, ours := l.times[0], l.times[1]
		fmt.Fprintf(&b, "| %d | %d | %s | %s | %s | %s | %s |\n", l.sidecars, len(ours.values),
			seconds(quantile(reference.present(), 0.5)), seconds(quantile(ours.present(), 0.5)), ratioOf(ours, reference),
			seconds(quantile(l.cpu[1].present(), 0.5)), ratioOf(l.cpu[1], l.cpu[0]))
	}
	return b.String()
}

// emphasized shows which of the names are this project's.
func emphasized(name string) string {
	if name == own || name == "sentinel" || name == "shim" {
		return "**" + name + "**"
	}
	return name
}

func the(name string) string {
	if name == limit {
		return "the " + name
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
	case s < 999.5e-6:
		return fmt.Sprintf("%.3g µs", s*1e6)
	case s < 999.5e-3:
		return fmt.Sprintf("%.3g ms", s*1e3)
	default:
		return fmt.Sprintf("%.3g s", s)
	}
}

func mebibytes(bytes float64) string { return fmt.Sprintf("%.1f MiB", bytes/(1<<20)) }
