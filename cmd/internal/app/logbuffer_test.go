package app

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// reader is where a log goes. It takes a line when the test does.
type reader chan string

func (r reader) Write(line []byte) (int, error) {
	r <- string(line)
	return len(line), nil
}

// TestLogBuffer: nothing blocks, the oldest lines are dropped, and exactly those are counted.
func TestLogBuffer(t *testing.T) {
	t.Parallel()
	for _, dropped := range []int{1, 500} {
		testDropped(t, dropped)
	}
}

func testDropped(t *testing.T, dropped int) {
	out, told := make(reader), make(chan int, 1)
	b := newLogBuffer(out, func(n int) { told <- n })
	write := func(i int) {
		line := fmt.Appendf(nil, "%d", i)
		if n, err := b.Write(line); n != len(line) || err != nil {
			t.Fatalf("wrote %d, %v", n, err)
		}
		clear(line) // the logger uses its memory again
	}
	write(0)
	for len(b.lines) > 0 { // until out has it, which blocks
		time.Sleep(time.Millisecond)
	}
	for i := range maxLines + dropped {
		write(1 + i)
	}
	want := []string{"0"}
	for i := range maxLines {
		want = append(want, fmt.Sprint(1+dropped+i))
	}
	var got []string
	for range want {
		got = append(got, <-out)
		if len(got) == 2 && <-told != dropped { // before it is written
			t.Error("another number was told")
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("the lines are %.200q", got)
	}
	b.flush()
	write(0) // too late, and harmless
	select {
	case n := <-told:
		t.Errorf("again it was told that %d lines were dropped", n)
	case <-b.written:
	}
}

// TestFlush: what is in the buffer at the end is written if somebody reads, and given up
// after a second if not.
func TestFlush(t *testing.T) {
	t.Parallel()
	read, blocked := make(reader, 10), make(reader)
	b := newLogBuffer(read, nil)
	for i := range 10 {
		fmt.Fprint(b, i)
	}
	b.flush()
	if len(read) != 10 {
		t.Errorf("only %d lines of 10 were written", len(read))
	}
	b = newLogBuffer(blocked, nil)
	fmt.Fprint(b, "x")
	start := time.Now()
	b.flush()
	if took := time.Since(start); took < flushWait {
		t.Errorf("the line was given up after %s", took)
	}
}
