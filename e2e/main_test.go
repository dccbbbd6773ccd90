// Package e2e runs the manifests of this repository, and all scenarios for which the programs are made, as
// real Jobs on a real cluster. Run it with e2e/run.
package e2e

import (
	"fmt"
	"os"
	"testing"

	"github.com/sentinel-shim/sentinel-shim/e2e/kube"
)

var cluster *kube.Cluster

func TestMain(m *testing.M) {
	var err error
	if cluster, err = kube.Connect(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}
