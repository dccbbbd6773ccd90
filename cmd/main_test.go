// Package cmd_test drives the two built programs together.
package cmd_test

import (
	"testing"

	"github.com/sentinel-shim/sentinel-shim/cmd/internal/drive"
)

func TestMain(m *testing.M) {
	drive.Main(m, drive.Modes{
		"confined":  confined,
		"clock":     wallClock,
		"signals":   countSignals,
		"stuckdisk": stuckDisk,
	})
}
