package main

import (
	"math"
	"math/rand/v2"
	"slices"
)

// A series has one value for each round. NaN stands for a round without a value.
type series struct {
	Name   string
	Values []float64
	Missed int // in how many rounds nothing happened that could be measured
}

// find returns the series of a name, one without values if there is none.
func find(all []series, name string) series {
	for _, s := range all {
		if s.Name == name {
			return s
		}
	}
	return series{Name: name}
}

func (s series) median() float64 { return quantile(s.present(), 0.5) }

// present returns the values, sorted, without the rounds that have none.
func (s series) present() []float64 {
	sorted := slices.DeleteFunc(slices.Clone(s.Values), math.IsNaN)
	slices.Sort(sorted)
	return sorted
}

// quantile returns a quantile of sorted values, between the two nearest ones where it falls between them. It is NaN
// without values.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	at := q * float64(len(sorted)-1)
	below := int(at)
	above := min(below+1, len(sorted)-1)
	return sorted[below] + (at-float64(below))*(sorted[above]-sorted[below])
}

// A ratio is that of two medians, with its 95 % confidence interval.
type ratio struct{ value, low, high float64 }

// resamples is how many times the bootstrap draws. The ends of a 95 % interval are then each the 50th value.
const resamples = 2000

// ratioOf compares the medians of two series, by the rounds in which both have a value. The interval is that of the
// percentile bootstrap. It draws rounds, not values: what slows the machine down slows down all of a round.
func ratioOf(of, to series) ratio {
	var a, b []float64
	for round := range min(len(of.Values), len(to.Values)) {
		if x, y := of.Values[round], to.Values[round]; !math.IsNaN(x) && !math.IsNaN(y) {
			a, b = append(a, x), append(b, y)
		}
	}
	if len(a) == 0 {
		return ratio{math.NaN(), math.NaN(), math.NaN()}
	}
	random := rand.New(rand.NewPCG(1, 2)) // always the same: the same values have the same interval
	drawnA, drawnB := make([]float64, len(a)), make([]float64, len(a))
	ratios := make([]float64, resamples)
	for i := range ratios {
		for j := range drawnA {
			round := random.IntN(len(a))
			drawnA[j], drawnB[j] = a[round], b[round]
		}
		ratios[i] = median(drawnA) / median(drawnB)
	}
	slices.Sort(ratios)
	return ratio{median(a) / median(b), quantile(ratios, 0.025), quantile(ratios, 0.975)}
}

// median sorts the values and returns their median.
func median(values []float64) float64 {
	slices.Sort(values)
	return quantile(values, 0.5)
}
