package main

import (
	"fmt"
	"path/filepath"
	"time"
)

// A wrapper is a program that runs a command.
type wrapper struct {
	name string
	file string // the program
	wrap func(volume string, sidecar int, argv []string) command
}

// A pair is a wrapper of main and one of a sidecar, which ends the sidecar when main has ended.
type pair struct {
	name          string
	main, sidecar wrapper
	polls         time.Duration // how often it looks for main's end, if it does not wait for it
	every         int           // it takes part in each round that is divisible by this, because it is slow
}

const (
	own     = "sentinel and shim"
	limit   = "C limit"
	minimum = "Go minimum"
	tini    = "tini"
)

// set is everything that is measured.
type set struct {
	pairs   []pair
	inits   []wrapper // they run a command and end with it, and do nothing else
	missing []string  // what cannot be measured, and why
}

// wrappers returns all wrappers, those of main first.
func (s set) wrappers() []wrapper {
	all := append([]wrapper(nil), s.inits...)
	for _, p := range s.pairs {
		all = append(all, p.main, p.sidecar)
	}
	return all
}

// none starts a command without a wrapper.
var none = wrapper{"no wrapper", "", func(_ string, _ int, argv []string) command { return command{argv: argv} }}

// isOwn reports whether a name is that of one of this project's programs.
func isOwn(name string) bool { return name == own || name == "sentinel" || name == "shim" }

func simple(name, file string, args ...string) wrapper {
	return wrapper{name, file, func(_ string, _ int, argv []string) command {
		return command{argv: append(append([]string{file}, args...), argv...)}
	}}
}

// inVolume is a program whose first arguments are words and then the volume.
func inVolume(name, file string, words ...string) wrapper {
	return wrapper{name, file, func(volume string, _ int, argv []string) command {
		return command{argv: append(append(append([]string{file}, words...), volume), argv...)}
	}}
}

func ownPair(bin string) pair {
	sentinel, shim := filepath.Join(bin, "sentinel"), filepath.Join(bin, "shim")
	return pair{
		name: own,
		main: wrapper{"sentinel", sentinel, func(volume string, _ int, argv []string) command {
			return command{argv: append([]string{sentinel, "--dir", volume, "--"}, argv...)}
		}},
		sidecar: wrapper{"shim", shim, func(volume string, sidecar int, argv []string) command {
			name := fmt.Sprintf("sidecar-%d", sidecar)
			return command{argv: append([]string{shim, "--dir", volume, "--name", name, "--"}, argv...)}
		}},
		every: 1,
	}
}

// sourcePair is a pair that is built from a source in this directory.
func sourcePair(name, file string) pair {
	return pair{
		name:    name,
		main:    inVolume(name+", main", file, "record"),
		sidecar: inVolume(name+", sidecar", file, "watch"),
		every:   1,
	}
}

func prowPair(bin string) pair {
	entrypoint, shim := filepath.Join(bin, "entrypoint"), filepath.Join(bin, "shim")
	return pair{
		name: "Prow",
		main: wrapper{"Prow's entrypoint", entrypoint, func(volume string, _ int, argv []string) command {
			log, marker := filepath.Join(volume, "log"), filepath.Join(volume, "main-terminated")
			flags := []string{"--process-log", log, "--marker-file", marker, "--"}
			return command{argv: append(append([]string{entrypoint}, flags...), argv...)}
		}},
		sidecar: wrapper{"Prow's WaitForMarkers", shim, func(volume string, _ int, argv []string) command {
			return command{argv: append([]string{shim, filepath.Join(volume, "main-terminated")}, argv...)}
		}},
		every: 1,
	}
}

func kubexitPair(file string) pair {
	return pair{
		name: "kubexit",
		main: wrapper{"kubexit, main", file, func(volume string, _ int, argv []string) command {
			env := []string{"KUBEXIT_NAME=main", "KUBEXIT_GRAVEYARD=" + volume}
			return command{append([]string{file}, argv...), env}
		}},
		sidecar: wrapper{"kubexit, sidecar", file, func(volume string, _ int, argv []string) command {
			env := []string{"KUBEXIT_NAME=sidecar", "KUBEXIT_DEATH_DEPS=main", "KUBEXIT_GRAVEYARD=" + volume}
			return command{append([]string{file}, argv...), env}
		}},
		every: 1,
	}
}

func loopPair(scripts string) pair {
	return pair{
		name:    "bash loop",
		main:    inVolume("bash loop, main", filepath.Join(scripts, "main.sh")),
		sidecar: inVolume("bash loop, sidecar", filepath.Join(scripts, "sidecar.sh")),
		polls:   time.Second,
		every:   4,
	}
}
