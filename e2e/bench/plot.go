package main

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// The pictures have a white background of their own, to be readable on a dark page and on a light one.

const (
	width                    = 760.0
	left, right, top, bottom = 64.0, 24.0, 62.0, 54.0 // the margins of a diagram
)

// looks are the colors and dashes of the pairs. The colors are from the palette of Okabe and Ito, for color-blind
// people, but darker, because they are also those of text.
var looks = map[string]struct{ color, dashes string }{
	own:         {"#0060a8", ""},
	limit:       {"#24292f", "7 4"},
	minimum:     {"#2f86b8", "2 3"},
	"Prow":      {"#b84a00", "10 3 2 3"},
	"kubexit":   {"#9a4d7e", "4 3"},
	"bash loop": {"#00795a", "12 5"},
}

const style = `<style>
text { fill: #24292f }
.small { font-size: 12px; fill: #57606a }
.grid { stroke: #d8dee4 }
.curve { fill: none }
.halo { paint-order: stroke; stroke: #fff; stroke-width: 5px; stroke-linejoin: round }
</style>
`

// A picture is an SVG image.
type picture struct {
	svg strings.Builder
}

func newPicture(height float64, title, subtitle string) *picture {
	p := &picture{}
	fmt.Fprintf(&p.svg, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" role="img" `+
		`font-family="Helvetica, Arial, sans-serif" font-size="14">`+"\n", width, height)
	fmt.Fprintf(&p.svg, "<title>%s</title>\n", html.EscapeString(title))
	p.svg.WriteString(style)
	fmt.Fprintf(&p.svg, `<rect x="1" y="1" width="%.0f" height="%.0f" rx="12" fill="#fff" stroke="#8c959f"/>`+"\n",
		width-2, height-2)
	p.text(20, 26, `font-weight="bold"`, title)
	p.text(20, 45, `class="small"`, subtitle)
	return p
}

func (p *picture) text(x, y float64, attributes, text string) {
	fmt.Fprintf(&p.svg, `<text x="%.1f" y="%.1f" %s>%s</text>`+"\n", x, y, attributes, html.EscapeString(text))
}

func (p *picture) line(x1, y1, x2, y2 float64) {
	fmt.Fprintf(&p.svg, `<line class="grid" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/>`+"\n", x1, y1, x2, y2)
}

// curve draws a line through points of a pair.
func (p *picture) curve(name string, points [][2]float64) {
	look := looks[name]
	strokeWidth := 2.0
	if name == own {
		strokeWidth = 3.5
	}
	var path strings.Builder
	for _, point := range points {
		fmt.Fprintf(&path, "%.1f,%.1f ", point[0], point[1])
	}
	fmt.Fprintf(&p.svg, `<polyline class="curve" stroke="%s" stroke-width="%.1f" stroke-dasharray="%s" `+
		`points="%s"/>`+"\n", look.color, strokeWidth, look.dashes, strings.TrimSpace(path.String()))
}

// label writes the name of a pair in its color.
func (p *picture) label(name string, x, y float64, anchor string) {
	weight := "normal"
	if name == own {
		weight = "bold"
	}
	p.text(x, y, fmt.Sprintf(`class="halo" style="fill:%s" font-weight="%s" text-anchor="%s"`,
		looks[name].color, weight, anchor), name)
}

func (p *picture) end() string {
	p.svg.WriteString("</svg>\n")
	return p.svg.String()
}

// A logAxis maps values to coordinates by their logarithm. It begins and ends at a power of ten.
type logAxis struct {
	first, last float64 // exponents
	from, to    float64 // coordinates
}

// newLogAxis returns an axis on which all values have room.
func newLogAxis(lowest, highest, from, to float64) logAxis {
	first, last := math.Floor(math.Log10(lowest)), math.Ceil(math.Log10(highest))
	return logAxis{first, max(last, first+1), from, to}
}

func (a logAxis) at(value float64) float64 {
	return a.from + (math.Log10(value)-a.first)/(a.last-a.first)*(a.to-a.from)
}

// powers returns the powers of ten on the axis.
func (a logAxis) powers() (values []float64) {
	for exponent := a.first; exponent <= a.last; exponent++ {
		values = append(values, math.Pow(10, exponent))
	}
	return values
}

// round writes a power of ten of a second.
func round(s float64) string {
	switch exponent := math.Round(math.Log10(s)); {
	case exponent < -3:
		return fmt.Sprintf("%.0f µs", s*1e6)
	case exponent < 0:
		return fmt.Sprintf("%.0f ms", s*1e3)
	default:
		return fmt.Sprintf("%.0f s", s)
	}
}

// points is how many points a curve has.
const points = 120

// distribution draws which part of the values is at most how large.
func distribution(title, subtitle string, all []series) string {
	const height = 400
	p := newPicture(height, title, subtitle)
	all = slices.DeleteFunc(slices.Clone(all), func(s series) bool { return len(s.present()) == 0 })
	slices.SortFunc(all, func(a, b series) int { return int(math.Copysign(1, a.median()-b.median())) })
	lowest, highest := math.Inf(1), 0.0
	for _, s := range all {
		values := s.present()
		lowest, highest = min(lowest, values[0]), max(highest, values[len(values)-1])
	}
	x := newLogAxis(lowest, highest, left, width-right)
	y := func(part float64) float64 { return height - bottom - part*(height-bottom-top) }
	for _, value := range x.powers() {
		p.line(x.at(value), y(0), x.at(value), y(1))
		p.text(x.at(value), y(0)+18, `class="small" text-anchor="middle"`, round(value))
	}
	p.text((left+width-right)/2, height-14, `class="small" text-anchor="middle"`,
		"time since main's last instruction (log scale)")
	for _, part := range []float64{0, 0.25, 0.5, 0.75, 1} {
		p.line(x.from, y(part), x.to, y(part))
		p.text(left-8, y(part)+4, `class="small" text-anchor="end"`, fmt.Sprintf("%.0f %%", 100*part))
	}
	curves := make([][][2]float64, len(all))
	for i, s := range all {
		values := s.present()
		for j := range points {
			part := float64(j) / (points - 1)
			curves[i] = append(curves[i], [2]float64{x.at(quantile(values, part)), y(part)})
		}
		p.curve(s.Name, curves[i])
	}
	var taken []float64
	for i, s := range all {
		at, anchor := labelPlace(curves, i, left, width-right, taken)
		taken = append(taken, at[1])
		p.label(s.Name, at[0], at[1]+5, anchor)
	}
	return p.end()
}

// labelPlace returns the place beside a curve from which it is furthest to the next curve or to the edge, but not at
// the height of a label that is there already. All curves have their points at the same heights.
func labelPlace(curves [][][2]float64, of int, from, to float64, taken []float64) (at [2]float64, anchor string) {
	const gap, lineHeight = 8, 20
	most := -1.0
	for j := points / 12; j < points*11/12; j++ {
		x, y := curves[of][j][0], curves[of][j][1]
		if slices.ContainsFunc(taken, func(other float64) bool { return math.Abs(other-y) < lineHeight }) {
			continue
		}
		before, after := from, to
		for i, curve := range curves {
			if other := curve[j][0]; i < of {
				before = max(before, min(other, x))
			} else if i > of {
				after = min(after, max(other, x))
			}
		}
		if x-before > most {
			most, at, anchor = x-before, [2]float64{x - gap, y}, "end"
		}
		if after-x > most {
			most, at, anchor = after-x, [2]float64{x + gap, y}, "start"
		}
	}
	return at, anchor
}

// A bar has a part in a full color and the rest in a light one.
type bar struct {
	name       string
	full, rest float64
	text       string
}

func bars(title, subtitle string, all []bar) string {
	const step, names = 26.0, 190.0
	p := newPicture(top+step*float64(len(all))+16, title, subtitle)
	longest := 0.0
	for _, b := range all {
		longest = max(longest, b.full+b.rest)
	}
	scale := (width - names - 190) / longest
	for i, b := range all {
		y := top + step*float64(i)
		color, weight := "#57606a", "normal"
		if isOwn(b.name) {
			color, weight = looks[own].color, "bold"
		}
		p.text(names-10, y+15, fmt.Sprintf(`text-anchor="end" font-weight="%s"`, weight), b.name)
		fmt.Fprintf(&p.svg, `<rect x="%.1f" y="%.1f" width="%.1f" height="18" fill="%s"/>`+"\n",
			names, y+1, max(b.full*scale, 0.5), color)
		fmt.Fprintf(&p.svg, `<rect x="%.1f" y="%.1f" width="%.1f" height="18" fill="%s" fill-opacity="0.3"/>`+"\n",
			names+b.full*scale, y+1, b.rest*scale, color)
		p.text(names+(b.full+b.rest)*scale+8, y+15, `class="small"`, b.text)
	}
	return p.end()
}

// scaling draws the medians by the number of sidecars.
func scaling(title, subtitle string, levels []level) string {
	const height = 380
	p := newPicture(height, title, subtitle)
	lowest, highest := math.Inf(1), 0.0
	for _, l := range levels {
		for _, s := range l.Times {
			if m := s.median(); !math.IsNaN(m) {
				lowest, highest = min(lowest, m), max(highest, m)
			}
		}
	}
	y := newLogAxis(lowest, highest, height-bottom, top)
	first, last := math.Log(float64(levels[0].Sidecars)), math.Log(float64(levels[len(levels)-1].Sidecars))
	const end = width - 170 // the rest is for the labels
	x := func(sidecars int) float64 { return left + (math.Log(float64(sidecars))-first)/(last-first)*(end-left) }
	for _, value := range y.powers() {
		p.line(left, y.at(value), end, y.at(value))
		p.text(left-8, y.at(value)+4, `class="small" text-anchor="end"`, round(value))
	}
	for _, l := range levels {
		p.line(x(l.Sidecars), y.from, x(l.Sidecars), y.to)
		p.text(x(l.Sidecars), y.from+18, `class="small" text-anchor="middle"`, fmt.Sprint(l.Sidecars))
	}
	p.text((left+end)/2, height-14, `class="small" text-anchor="middle"`, "sidecars on one volume (log scale)")
	for i := range levels[0].Times {
		var line [][2]float64
		for _, l := range levels {
			if m := l.Times[i].median(); !math.IsNaN(m) {
				line = append(line, [2]float64{x(l.Sidecars), y.at(m)})
			}
		}
		if len(line) == 0 {
			continue
		}
		p.curve(levels[0].Times[i].Name, line)
		p.label(levels[0].Times[i].Name, line[len(line)-1][0]+8, line[len(line)-1][1]+5, "start")
	}
	return p.end()
}

// pictures returns all pictures by their file names.
func (r results) pictures() map[string]string {
	var memory, files []bar
	for _, i := range r.Idleness {
		text := fmt.Sprintf("%s MiB, %s anonymous", mebibytes(i.Resident), mebibytes(i.Anonymous))
		memory = append(memory, bar{i.Name, i.Anonymous, i.Resident - i.Anonymous, text})
	}
	for _, s := range r.Sizes {
		files = append(files, bar{s.Name, float64(s.Bytes), 0, fileSize(s.Bytes)})
	}
	return map[string]string{
		"reaction.svg": distribution("From main's end to SIGTERM in the sidecar, the volume in memory",
			"The part of all rounds in which the sidecar had its signal by then", r.Memory),
		"reaction-disk.svg": distribution("From main's end to SIGTERM in the sidecar, the volume on disk",
			"The part of all rounds in which the sidecar had its signal by then", r.Disk),
		"memory.svg": bars("Memory of an idle wrapper",
			"Dark: its own (anonymous). Light: pages of files, which the wrappers of one file on a node share", memory),
		"size.svg": bars("Size of the programs", "The loop's scripts also need bash and sleep", files),
		"scale.svg": scaling("From main's end until the last of many sidecars has SIGTERM",
			"The medians of all rounds (log scale)", r.Scale),
	}
}
