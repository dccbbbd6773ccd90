package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// debian is a package of Debian with one program, and the arguments of that.
type debian struct {
	name string
	args []string
}

// packages are the inits that people use most.
var packages = []debian{
	{tini, []string{"-s", "--"}}, // as a subreaper, because it is not process 1 here
	{"dumb-init", []string{"--"}},
	{"catatonit", []string{"--"}},
}

// build builds and installs the probe and everything that is compared. into is the directory for what is built. With
// few, these are only the programs that the bounds are about.
func build(o options, into string, few bool) (all set, probe string, err error) {
	for _, name := range []string{"sentinel", "shim"} {
		if _, err := os.Stat(filepath.Join(o.bin, name)); err != nil {
			return all, "", fmt.Errorf("%w: run make build first", err)
		}
	}
	probe = filepath.Join(into, "probe")
	if err := compile(probe, filepath.Join(o.source, "probe/probe.c")); err != nil {
		return all, "", fmt.Errorf("the probe needs a C compiler: %w", err)
	}
	limitFile := filepath.Join(into, "limit")
	if err := compile(limitFile, filepath.Join(o.source, "limit/limit.c"), "-pthread"); err != nil {
		return all, "", err
	}
	inits := packages
	if few {
		inits = packages[:1]
	}
	all.inits, all.missing = installed(inits)
	all.pairs = append(all.pairs, sourcePair(limit, limitFile), ownPair(o.bin))
	add := func(p pair, err error) {
		if err != nil {
			reason, _, _ := strings.Cut(err.Error(), "\n")
			all.missing = append(all.missing, p.name+": "+reason)
			return
		}
		all.pairs = append(all.pairs, p)
	}

	file := filepath.Join(into, "minimum")
	add(sourcePair(minimum, file), goBuild(o.source, file, "./minimum"))
	if few {
		return all, probe, nil
	}
	prow := filepath.Join(into, "prow")
	add(prowPair(prow), goBuild(filepath.Join(o.source, "prow"), prow+"/", "sigs.k8s.io/prow/cmd/entrypoint", "./shim"))
	if _, err := os.Stat(o.kubexit); o.kubexit == "" {
		add(kubexitPair(""), errors.New("name its program: KUBEXIT=path make bench"))
	} else {
		add(kubexitPair(o.kubexit), err)
	}
	_, err = exec.LookPath("bash")
	add(loopPair(filepath.Join(o.source, "loop")), err)
	return all, probe, nil
}

// compile compiles a C program, statically where the compiler can.
func compile(into, file string, flags ...string) error {
	compiler := os.Getenv("CC")
	if compiler == "" {
		compiler = "cc"
	}
	flags = append(flags, "-O2", "-o", into, file)
	if exec.Command(compiler, append([]string{"-static"}, flags...)...).Run() == nil {
		return nil
	}
	return run(exec.Command(compiler, flags...))
}

// goBuild builds Go programs as those of this project are built.
func goBuild(dir, into string, names ...string) error {
	args := []string{"build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", into}
	cmd := exec.Command("go", append(args, names...)...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0")
	return run(cmd)
}

// installed returns the inits that are there, and installs those that are not, as root on Debian.
func installed(packages []debian) (inits []wrapper, missing []string) {
	var names []string
	for _, p := range packages {
		if _, err := exec.LookPath(p.name); err != nil {
			names = append(names, p.name)
		}
	}
	if _, err := exec.LookPath("apt-get"); err == nil && len(names) > 0 && os.Geteuid() == 0 {
		fmt.Fprintf(os.Stderr, "installing %s\n", strings.Join(names, ", "))
		args := append([]string{"install", "-qy", "--no-install-recommends"}, names...)
		cmd := exec.Command("apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if err := run(cmd); err != nil {
			fmt.Fprintln(os.Stderr, err) // each package is looked for below
		}
	}
	for _, p := range packages {
		file, err := exec.LookPath(p.name)
		if err != nil {
			missing = append(missing, fmt.Sprintf("%s: not installed: apt-get install %s", p.name, p.name))
			continue
		}
		inits = append(inits, simple(p.name, file, p.args...))
	}
	return inits, missing
}

// run runs a command. Its error has what the command has written.
func run(cmd *exec.Cmd) error {
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
