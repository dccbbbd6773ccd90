package e2e

import (
	"path/filepath"
	"testing"

	"github.com/sentinel-shim/sentinel-shim/e2e/kube"
)

// The kubelet and containerd are restarted in the middle of a run. These tests are not parallel, so no other test runs
// at the same time.

// volumeOf returns the path of the Job's volume on the node.
func volumeOf(ns *kube.Namespace) string {
	uid := ns.State().Pods(scenario)[0].UID
	return filepath.Join("/var/lib/kubelet/pods", string(uid), "volumes/kubernetes.io~empty-dir/pod")
}

// untilTold is a shell command that works through the proxy until the test creates the file "go" on the volume.
const untilTold = "echo working; until [ -e /tmp/pod/go ]; do " + query + "sleep 0.2; done; "

func TestNodeDaemonRestarts(t *testing.T) {
	for _, daemon := range []string{"kubelet", "containerd"} {
		t.Run(daemon, func(t *testing.T) {
			ns := start(t, newJob(onFailure, 0, proxy(""), worker(untilTold)))
			ns.UntilLog(t, patience, scenario, "main", "working")
			cluster.Daemon(t, "restart", daemon)
			cluster.Node(t, "touch", volumeOf(ns)+"/go")
			expect(t, ns, scenario, complete, codes{"main": {0}, "proxy": {0}})
		})
	}
}

// Main fails, and its sidecar ends with it, while the kubelet or containerd is stopped. containerd 2 reports 255 for
// every container that has ended while it was away (unknownExitCode in its internal/cri/server; 1.6 knew the code).
func TestNodeDaemonAwayWhenMainFails(t *testing.T) {
	for daemon, code := range map[string]int{"kubelet": 3, "containerd": 255} {
		t.Run(daemon, func(t *testing.T) {
			ns := start(t, newJob(onFailure, 3, proxy(""), worker(untilTold+failing("1"))))
			ns.UntilLog(t, patience, scenario, "main", "working")
			volume := volumeOf(ns)
			t.Cleanup(func() { cluster.Daemon(t, "start", daemon) }) // also if the test fails
			cluster.Daemon(t, "stop", daemon)
			cluster.Node(t, "touch", volume+"/go")
			cluster.Node(t, "timeout", "60",
				"sh", "-c", "until [ -e "+volume+"/httpd-terminated ]; do sleep 0.1; done")
			cluster.Daemon(t, "start", daemon)
			expect(t, ns, scenario, complete, codes{"main": {code, 0}, "proxy": {code, 0}})
		})
	}
}
