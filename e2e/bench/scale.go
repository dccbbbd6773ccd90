package main

import "fmt"

// sidecars is how many sidecars follow one main.
var sidecars = []int{1, 4, 16, 64, 256}

// A level is the reaction with a number of sidecars.
type level struct {
	Sidecars   int
	Times, CPU []series // of the C limit, and of this project's programs
}

// scale measures how long it takes until the last of many sidecars has its signal.
func (s *stage) scale(rounds int, pairs []pair, parent string) (levels []level, err error) {
	var compared []pair
	for _, p := range pairs {
		if p.name == own || p.name == limit {
			compared = append(compared, p)
		}
	}
	for _, n := range sidecars {
		l := level{Sidecars: n}
		what := fmt.Sprintf("%d sidecars", n)
		if l.Times, l.CPU, err = s.reactions(what, max(rounds/(4+n/4), 3), compared, scene{parent, n, 0}); err != nil {
			return nil, err
		}
		levels = append(levels, l)
	}
	return levels, nil
}

// churned is how many files are replaced on the volume during the measurement of churn.
const churned = 10_000
