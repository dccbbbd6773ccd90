package oneprocessor

import (
	"runtime"
	"testing"
)

func TestOneProcessor(t *testing.T) {
	if n := runtime.GOMAXPROCS(0); n != 1 {
		t.Errorf("the program runs on %d processors", n)
	}
}
