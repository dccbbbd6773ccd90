package main

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"time"
)

func TestSeconds(t *testing.T) {
	for value, want := range map[float64]string{
		0: "0", 1.234e-6: "1.23 µs", 98.76e-6: "98.8 µs", 0.9996e-3: "1.00 ms", 0.0123: "12.3 ms", 0.4567: "457 ms",
		2: "2.00 s", math.NaN(): "–",
	} {
		if got := seconds(value); got != want {
			t.Errorf("seconds(%v) is %q, want %q", value, got, want)
		}
	}
}

// TestWithoutPeers: the document and the pictures are complete where nothing but this project's programs could be
// measured.
func TestWithoutPeers(t *testing.T) {
	none := []series{{Name: own, Values: []float64{1e-3, math.NaN(), 2e-3}}}
	beside := []series{{Name: limit}, none[0]}
	dir := t.TempDir()
	r := results{
		Memory: none, Disk: none, CPU: none, Death: none, Churn: none, Start: none, Forward: none,
		Scale:    []level{{1, beside, beside}, {4, beside, beside}},
		Idleness: []idleness{{Name: "shim", Resident: 5 << 20, Anonymous: 1 << 20, Threads: 5}},
		Sizes:    []size{{"shim", 4_500_000}},
		Missing:  []string{"kubexit: not here"}, Idle: time.Minute,
	}
	if err := r.write(dir); err != nil {
		t.Fatal(err)
	}
	for name, picture := range r.pictures() {
		for decoder := xml.NewDecoder(strings.NewReader(picture)); ; {
			if _, err := decoder.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v\n%s", name, err, picture)
			}
		}
		if strings.Contains(picture, "NaN") || strings.Contains(picture, "Inf") {
			t.Errorf("%s has a point that is no number:\n%s", name, picture)
		}
	}
}

// TestLabelPlace: a label stands where there is most room.
func TestLabelPlace(t *testing.T) {
	var steep, slanted [][2]float64
	for i := range points {
		y := 300 - 2*float64(i)
		steep = append(steep, [2]float64{500, y})
		slanted = append(slanted, [2]float64{510 + float64(i), y})
	}
	curves := [][][2]float64{steep, slanted}
	if at, anchor := labelPlace(curves, 0, 0, 800, nil); anchor != "end" || at[0] > 500 {
		t.Errorf("the left curve has its label at %v, %s", at, anchor)
	}
	at, anchor := labelPlace(curves, 1, 0, 800, nil)
	if anchor != "start" || at[1] < 250 {
		t.Errorf("the right curve has its label at %v, %s", at, anchor)
	}
	if next, _ := labelPlace(curves, 1, 0, 800, []float64{at[1]}); math.Abs(next[1]-at[1]) < 20 {
		t.Errorf("two labels stand at %v and %v", at, next)
	}
}
