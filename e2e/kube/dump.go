package kube

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubectl/pkg/describe"
)

// dump logs what helps to explain a failure: every Job and pod as kubectl describe shows it, every run, the
// logs of every container, and the last listing of every pod's volumes.
func (ns *Namespace) dump(t testing.TB) {
	state := ns.State()
	settings := describe.DescriberSettings{ShowEvents: true}
	for _, job := range state.Jobs() {
		text, err := (&describe.JobDescriber{Interface: ns.cluster.client}).Describe(ns.Name, job.Name, settings)
		section(t, "Job "+job.Name, text, err)
	}
	for uid, pod := range state.pods {
		text, err := (&describe.PodDescriber{Interface: ns.cluster.client}).Describe(ns.Name, pod.Name, settings)
		section(t, "pod "+pod.Name, text, err)
		for _, run := range state.Runs(pod.Name, "") {
			t.Log(run)
		}
		for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for _, container := range containers {
				last, ran := state.Last(pod.Name, container.Name)
				if !ran {
					continue
				}
				if last.Attempt > 0 {
					text, err := ns.log(pod.Name, container.Name, true)
					section(t, "log of the previous run of "+container.Name+" in "+pod.Name, text, err)
				}
				text, err := ns.log(pod.Name, container.Name, false)
				section(t, "log of "+container.Name+" in "+pod.Name, text, err)
			}
		}
		ns.mu.Lock()
		volumes := ns.volumes[uid]
		ns.mu.Unlock()
		section(t, "volumes of "+pod.Name+" when last seen", volumes, nil)
	}
}

func section(t testing.TB, title, text string, err error) {
	if err != nil {
		text += err.Error()
	}
	t.Logf("--- %s\n%s", title, strings.TrimRight(text, "\n"))
}

// listVolumes stores a listing of the pod's emptyDirs. The kubelet removes them as soon as all containers
// have ended, so they are gone when the test fails. It does nothing if the cluster is not the one of
// e2e/cluster.
func (ns *Namespace) listVolumes(pod *corev1.Pod) {
	if ns.cluster.scripts == "" {
		return
	}
	root := filepath.Join(ns.cluster.root(),
		"var/lib/kubelet/pods", string(pod.UID), "volumes/kubernetes.io~empty-dir")
	var listing strings.Builder
	_ = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil { // it has just been removed
			return nil
		}
		info, err := entry.Info()
		if err != nil || path == root {
			return nil
		}
		name, _ := filepath.Rel(root, path)
		modified := info.ModTime().UTC().Format("15:04:05.000")
		fmt.Fprintf(&listing, "%s %8d %s %s", info.Mode(), info.Size(), modified, name)
		if info.Mode().IsRegular() && info.Size() <= 64 {
			content, _ := os.ReadFile(path)
			fmt.Fprintf(&listing, " %q", content)
		}
		listing.WriteByte('\n')
		return nil
	})
	if listing.Len() > 0 {
		ns.mu.Lock()
		defer ns.mu.Unlock()
		ns.volumes[pod.UID] = listing.String()
	}
}
