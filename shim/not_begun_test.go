package shim

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/sentinel-shim/sentinel-shim/sentinel/lifetime"
)

// TestWarnNotBegun: only the first warning needs another run on the volume.
func TestWarnNotBegun(t *testing.T) {
	for _, c := range []struct {
		name   string
		warned int // with this warning
		other  bool
		want   string
	}{
		{"the first, alone", 1, false, ""},
		{"the first, beside another run", 1, true, "the other runs on the volume are haproxy"},
		{"the second, alone", 2, false, "no other run is on the volume"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if c.other {
				if err := os.WriteFile(lifetime.TerminatedPath(dir, "haproxy"), []byte("0\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			var log bytes.Buffer
			l := &loop{
				Config: Config{Dir: dir, Name: "proxy", Mains: []string{"etl"}, Log: zerolog.New(&log)},
				state:  newState(1),
			}
			if err := l.do(warnNotBegun, state{}, state{warned: c.warned}); err != nil {
				t.Fatal(err)
			}
			if got := log.String(); !strings.Contains(got, c.want) || c.want == "" && got != "" {
				t.Errorf("it warns %q, want %q", got, c.want)
			}
		})
	}
}
