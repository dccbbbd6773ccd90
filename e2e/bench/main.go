// Bench measures this project's programs beside those that people use, on this machine, and writes tables and pictures:
// make bench. With -guard it only checks that some ratios are within bounds: make bench-guard.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

type options struct {
	source, bin, out, kubexit string
	rounds                    int
	idle                      time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.source, "source", "e2e/bench", "the directory of bench's source")
	flag.StringVar(&o.bin, "bin", "bin", "the directory of this project's programs; bench builds the others below it")
	flag.StringVar(&o.out, "out", "docs/bench", "the directory for the tables and pictures")
	flag.StringVar(&o.kubexit, "kubexit", "", "the program kubexit")
	flag.IntVar(&o.rounds, "rounds", 200, "how many rounds each measurement has")
	flag.DurationVar(&o.idle, "idle", time.Minute, "how long the programs are watched while they are idle")
	guard := flag.Bool("guard", false, "only check that ratios are within their bounds")
	flag.Parse()

	do := bench
	if *guard {
		do = checkBounds
	}
	if err := do(o); err != nil {
		fmt.Fprintln(os.Stderr, "\nbench:", err)
		os.Exit(1)
	}
}

// prepare builds everything, or only few programs: see build. disk is a directory on the disk. cleanUp ends and removes
// what is left in the end.
func prepare(o *options, few bool) (all set, s *stage, disk string, cleanUp func(), err error) {
	for _, path := range []*string{&o.source, &o.bin, &o.out, &o.kubexit} {
		if *path == "" {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return set{}, nil, "", nil, err
		}
	}
	into := filepath.Join(o.bin, "bench")
	if err := os.MkdirAll(into, 0o755); err != nil {
		return set{}, nil, "", nil, err
	}
	fmt.Fprintln(os.Stderr, "building the programs that are compared")
	all, probe, err := build(*o, into, few)
	if err != nil {
		return set{}, nil, "", nil, err
	}
	if disk, err = os.MkdirTemp(into, "disk-"); err != nil {
		return set{}, nil, "", nil, err
	}
	if s, err = newStage(probe); err != nil {
		os.RemoveAll(disk)
		return set{}, nil, "", nil, err
	}
	return all, s, disk, func() {
		s.close()
		os.RemoveAll(disk)
	}, nil
}

func bench(o options) error {
	all, s, disk, cleanUp, err := prepare(&o, false)
	if err != nil {
		return err
	}
	defer cleanUp()
	r := results{
		Date: time.Now().UTC().Format(time.DateOnly), Machine: machine(disk), Instances: inotifyInstances(),
		Rounds: o.rounds, ChurnRounds: max(o.rounds/4, 1), Copies: copies, Churned: churned,
		Idle: o.idle, Notice: notice, Missing: all.missing,
	}
	if r.Sizes, r.Image, err = sizes(all, filepath.Join(o.source, "../../Dockerfile"), o.bin); err != nil {
		return err
	}
	memory := s.temp
	if r.Memory, r.CPU, err = s.reactions("reaction, memory", o.rounds, all.pairs, scene{memory, 1, 0}); err != nil {
		return err
	}
	if r.Disk, _, err = s.reactions("reaction, disk", o.rounds, all.pairs, scene{disk, 1, 0}); err != nil {
		return err
	}
	if r.Churn, _, err = s.reactions("churn", r.ChurnRounds, all.pairs, scene{memory, 1, churned}); err != nil {
		return err
	}
	if r.Death, err = s.deaths(o.rounds, all.pairs, memory); err != nil {
		return err
	}
	if r.Start, err = s.starts(o.rounds, append([]wrapper{none}, all.wrappers()...), memory); err != nil {
		return err
	}
	if r.Forward, err = s.forwards(o.rounds, all.wrappers(), memory); err != nil {
		return err
	}
	if r.Scale, err = s.scale(o.rounds, all.pairs, memory); err != nil {
		return err
	}
	if r.Idleness, err = s.idleness(o.idle, all, memory); err != nil {
		return err
	}
	return r.write(o.out)
}
