package main

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestQuantile(t *testing.T) {
	for _, test := range []struct {
		sorted []float64
		q      float64
		want   float64
	}{
		{[]float64{7}, 0.99, 7},
		{[]float64{1, 2, 3}, 0.5, 2},
		{[]float64{1, 2, 3, 4}, 0.5, 2.5},
		{[]float64{0, 10}, 0.9, 9},
		{[]float64{1, 2, 3}, 0, 1},
		{[]float64{1, 2, 3}, 1, 3},
	} {
		if got := quantile(test.sorted, test.q); got != test.want {
			t.Errorf("quantile(%v, %v) is %v, want %v", test.sorted, test.q, got, test.want)
		}
	}
	if got := quantile(nil, 0.5); !math.IsNaN(got) {
		t.Errorf("the median of nothing is %v", got)
	}
}

// TestRatioOfRounds: a machine that changes its speed during the run does not widen the interval of a ratio.
func TestRatioOfRounds(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	var slow, fast series
	for range 200 {
		speed := 1 + 9*random.Float64()
		fast.Values = append(fast.Values, speed)
		slow.Values = append(slow.Values, 2*speed)
	}
	if got := ratioOf(slow, fast); got != (ratio{2, 2, 2}) {
		t.Errorf("the ratio is %v, want 2 without an interval", got)
	}
}

// TestIntervalCovers: the interval has the true ratio of the medians in 95 of 100 cases, or nearly.
func TestIntervalCovers(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	const cases, rounds, truth = 100, 50, 1.5
	covered := 0
	for range cases {
		var a, b series
		for range rounds {
			a.Values = append(a.Values, truth*math.Exp(random.NormFloat64()/4))
			b.Values = append(b.Values, math.Exp(random.NormFloat64()/4))
		}
		got := ratioOf(a, b)
		if got.low > got.value || got.value > got.high {
			t.Fatalf("the ratio is outside of its interval: %v", got)
		}
		if got.low <= truth && truth <= got.high {
			covered++
		}
	}
	if covered < 88 {
		t.Errorf("the interval has the true ratio in %d of %d cases", covered, cases)
	}
}

// TestRatioSkipsRounds: rounds in which one of the two has no value do not count.
func TestRatioSkipsRounds(t *testing.T) {
	none := math.NaN()
	got := ratioOf(series{Values: []float64{none, 6, none, 6}}, series{Values: []float64{1, 2, 1, none}})
	if got != (ratio{3, 3, 3}) {
		t.Errorf("the ratio is %v, want 3", got)
	}
	if got := ratioOf(series{Values: []float64{none}}, series{Values: []float64{1}}); !math.IsNaN(got.value) {
		t.Errorf("the ratio without a common round is %v", got)
	}
}
