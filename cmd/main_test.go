// Package cmd_test drives the two built programs together.
package cmd_test

import (
	"flag"
	"testing"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
)

func TestMain(m *testing.M) {
	// Most of the tests wait most of the time: more at once than there are processors.
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	drive.Main(m, nil)
}
