package programs

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"time"
)

// figures are what was measured of all pods of a Job together.
type figures struct {
	start  time.Duration // from the Job's creation to the start of the last main
	memory memory
	disk   int64 // bytes in the emptyDirs
}

func (f figures) String() string {
	return fmt.Sprintf("%d pods: %.1f s to start, %.2f MiB of memory per pod (%.2f anonymous, %.2f page cache), "+
		"%.2f MiB of disk per pod", pods, f.start.Seconds(),
		perPod(f.memory.all), perPod(f.memory.anonymous), perPod(f.memory.cache), perPod(f.disk))
}

// perPod returns a pod's share of so many bytes, in MiB.
func perPod(bytes int64) float64 { return float64(bytes) / (1 << 20) / pods }

// memory is in bytes. What is neither anonymous nor cache is the kernel's own.
type memory struct{ all, anonymous, cache int64 }

func (m memory) minus(other memory) memory {
	return memory{m.all - other.all, m.anonymous - other.anonymous, m.cache - other.cache}
}

// markdown returns docs/programs.md.
func markdown(got map[string][]figures, version string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `# An init container or an image volume?

Written by %s, which runs a Job with %d pods at once on one node, with the programs brought in by an init
container (%s) and by an image volume, in turns, %d times each; here on Kubernetes %s with %d
processors. The Job is [manifests/restricted.yaml](../manifests/restricted.yaml) with busybox as main and as its
sidecar. The images are on the node already. Each figure is the median, with the lowest and the highest in parentheses.
If the two ranges in a row overlap, the difference may be the noise of the machine.

| |`, "`make programs`", pods, "`--copy-to`", rounds, version, runtime.NumCPU())
	for _, w := range ways {
		fmt.Fprintf(&b, " %s |", w.name)
	}
	fmt.Fprintf(&b, "\n|---|%s\n", strings.Repeat("---|", len(ways)))
	for _, row := range []struct {
		text  string
		value func(figures) float64
	}{
		{"seconds from the Job's creation to the start of the last main",
			func(f figures) float64 { return f.start.Seconds() }},
		{"memory of the pods, MiB per pod", func(f figures) float64 { return perPod(f.memory.all) }},
		{"of that, the processes' own (anonymous)", func(f figures) float64 { return perPod(f.memory.anonymous) }},
		{"of that, page cache", func(f figures) float64 { return perPod(f.memory.cache) }},
		{"disk used by the pods' emptyDirs, MiB per pod", func(f figures) float64 { return perPod(f.disk) }},
	} {
		fmt.Fprintf(&b, "| %s |", row.text)
		for _, w := range ways {
			var values []float64
			for _, f := range got[w.name] {
				values = append(values, row.value(f))
			}
			fmt.Fprintf(&b, " %s |", spread(values))
		}
		b.WriteByte('\n')
	}
	b.WriteString(`
Memory is what the control group of all pods uses more than before the Job. The rest of it is the kernel's own. With an
init container each pod has its own copy of both programs, on the disk and in the page cache; the kernel can reclaim
page cache when memory is short. With an image volume all pods of the node share one copy. It has been used before the
first measurement, so it is not in these figures.
`)
	return b.String()
}

// spread returns the median, the lowest and the highest of an odd number of values.
func spread(values []float64) string {
	for i, value := range values {
		values[i] = math.Round(value*10)/10 + 0 // -0 + 0 is 0, which prints without a sign
	}
	slices.Sort(values)
	return fmt.Sprintf("%.1f (%.1f to %.1f)", values[len(values)/2], values[0], values[len(values)-1])
}
