package main

import (
	"errors"
	"fmt"
	"os"
	"time"
)

// How many times as much the programs may take: of the C limit's reaction, of tini's start, of the Go minimum's memory
// and size, and, because an idle program takes too little for a ratio, of one processor.
const (
	mostReaction = 2
	mostStart    = 4
	mostMemory   = 2
	mostSize     = 2.2
	mostIdle     = 0.0005
)

// A bound is how much more of something a program may use or take than another one.
type bound struct {
	what, than string
	got        ratio
	most       float64
}

func (b bound) String() string {
	interval := ""
	if b.got.low < b.got.high {
		interval = fmt.Sprintf(" (95 %% interval: %.3g to %.3g)", b.got.low, b.got.high)
	}
	return fmt.Sprintf("%s: %.3g times that of %s%s, at most %g times are allowed",
		b.what, b.got.value, b.than, interval, b.most)
}

// isExceeded reports whether the ratio is surely too large: a noisy machine widens the interval, but exceeds no bound.
func (b bound) isExceeded() bool { return b.got.low > b.most }

// checkBounds measures only ratios that have a bound, in less than a minute.
func checkBounds(o options) error {
	all, s, _, cleanUp, err := prepare(&o, true)
	if err != nil {
		return err
	}
	defer cleanUp()
	if len(all.inits) == 0 {
		return errors.New("the bounds need tini: apt-get install tini")
	}
	bounds, err := s.bounds(all)
	if err != nil {
		return err
	}
	exceeded := 0
	for _, b := range bounds {
		verdict := "ok      "
		if b.isExceeded() {
			verdict = "EXCEEDED"
			exceeded++
		}
		fmt.Println(verdict, b)
	}
	if exceeded > 0 {
		return fmt.Errorf("%d of %d ratios are too large", exceeded, len(bounds))
	}
	return nil
}

func (s *stage) bounds(all set) (bounds []bound, err error) {
	reference, ours, minimal := all.pairs[0], all.pairs[1], all.pairs[2] // as build returns them

	times, _, err := s.reactions("reaction", 80, all.pairs[:2], scene{s.temp, 1, 0})
	if err != nil {
		return nil, err
	}
	bounds = append(bounds, bound{"reaction", reference.name, ratioOf(times[1], times[0]), mostReaction})

	starts, err := s.starts(100, []wrapper{all.inits[0], ours.main, ours.sidecar}, s.temp)
	if err != nil {
		return nil, err
	}
	for _, program := range starts[1:] {
		got := ratioOf(program, starts[0])
		bounds = append(bounds, bound{"start of " + program.Name, starts[0].Name, got, mostStart})
	}

	idle, err := s.idleness(10*time.Second, set{pairs: []pair{ours, minimal}}, s.temp)
	if err != nil {
		return nil, err
	}
	for i, program := range idle[:2] {
		memory := program.Anonymous / idle[i+2].Anonymous
		bounds = append(bounds,
			bound{"anonymous memory of " + program.Name, minimal.name, exactly(memory), mostMemory},
			bound{"use by an idle " + program.Name, "one processor", exactly(program.CPU), mostIdle})
	}

	for _, program := range []wrapper{ours.main, ours.sidecar} {
		file, err := os.Stat(program.file)
		if err != nil {
			return nil, err
		}
		than, err := os.Stat(minimal.main.file)
		if err != nil {
			return nil, err
		}
		size := float64(file.Size()) / float64(than.Size())
		bounds = append(bounds, bound{"size of " + program.name, minimal.name, exactly(size), mostSize})
	}
	return bounds, nil
}

// exactly returns a ratio without an interval.
func exactly(value float64) ratio { return ratio{value, value, value} }
