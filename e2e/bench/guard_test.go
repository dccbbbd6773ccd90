package main

import (
	"strings"
	"testing"
)

func TestBound(t *testing.T) {
	b := bound{"reaction", limit, ratio{2.2, 1.9, 2.5}, 2}
	if b.isExceeded() {
		t.Errorf("exceeded, although the true ratio may be within the bound: %s", b)
	}
	b.got.low = 2.1
	if !b.isExceeded() {
		t.Errorf("not exceeded: %s", b)
	}
	for _, want := range []string{"reaction", "2.2 times", "C limit", "2.1 to 2.5", "at most 2 times"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in %q", want, b)
		}
	}
}
