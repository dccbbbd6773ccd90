// Release builds a release into a new directory:
//
//   - for each platform an archive with both programs, the license and the README
//   - an OCI image layout (image) with the image that the Dockerfile describes, for all platforms
//   - for each archive and for the image, what is in it, in the format SPDX 2.3 (*.spdx.json)
//   - the digest of the image, and the SHA-256 of each file
//
// It needs no network but for Go modules, no container engine and no root.
//
//	release [-platforms LIST] VERSION DIRECTORY
//
// It is run in the root of the repository. The same sources, version and SOURCE_DATE_EPOCH (the time of all files, in
// seconds since 1970) give the same bytes with the same version of Go, wherever the repository is.
package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
)

const (
	project    = "sentinel-shim"
	module     = "github.com/sentinel-shim/sentinel-shim"
	repository = "https://" + module
	image      = "ghcr.io/sentinel-shim/sentinel-shim"

	checksums = "checksums.txt"
	layoutDir = "image"
)

// programs are the names of the built files.
var programs = []string{"sentinel", "shim"}

// documents are the other files of an archive.
var documents = []string{"LICENSE", "README.md"}

// release is what every part of a release needs to know.
type release struct {
	version string
	time    time.Time // of all files
	root    string    // of the repository
	dir     string    // where the release is written
}

// program is a built program.
type program struct {
	name    string
	on      platform
	data    []byte
	modules []debug.Module // that are linked into it
}

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	flags := flag.NewFlagSet("release", flag.ContinueOnError)
	list := flags.String("platforms", strings.Join(platformNames(), ","), "which platforms")
	if flags.Parse(args) != nil || flags.NArg() != 2 {
		fmt.Fprintln(os.Stderr, "usage: release [-platforms LIST] VERSION DIRECTORY")
		return 2
	}
	r := release{version: flags.Arg(0), root: ".", dir: flags.Arg(1)}
	if err := r.build(*list); err != nil {
		fmt.Fprintf(os.Stderr, "release: %v\n", err)
		return 1
	}
	fmt.Printf("%s has %s for %s\n", r.dir, r.version, *list)
	return 0
}

// A version is also the tag of an image, which cannot have a plus sign.
var versionPattern = regexp.MustCompile(`^v\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$`)

func (r release) build(list string) error {
	if !versionPattern.MatchString(r.version) {
		return fmt.Errorf("%q is no version: use one like v0.1.0 or v0.1.0-rc.1", r.version)
	}
	seconds, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	if err != nil {
		return fmt.Errorf("SOURCE_DATE_EPOCH: %w: set it to the time of the commit, in seconds since 1970", err)
	}
	r.time = time.Unix(seconds, 0).UTC()
	platforms, err := parsePlatforms(list)
	if err != nil {
		return err
	}
	stage, err := readDockerfile(filepath.Join(r.root, "Dockerfile"), map[string]string{"VERSION": r.version})
	if err != nil {
		return err
	}
	if err := os.Mkdir(r.dir, 0o755); err != nil {
		return err
	}
	built := make(map[platform][]program)
	for _, p := range platforms {
		if built[p], err = r.compile(p); err != nil {
			return err
		}
	}
	return r.write(platforms, built, stage)
}

// compile builds both programs for a platform.
func (r release) compile(p platform) (built []program, err error) {
	into, err := os.MkdirTemp("", "release-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(into)
	cmd := exec.Command("cmd/build", into)
	cmd.Dir = r.root
	// These replace what a user has set for Go, so that it does not change what is built.
	cmd.Env = append(os.Environ(), "VERSION="+r.version, "GOFLAGS=-trimpath", "GOEXPERIMENT=",
		"GOOS=linux", "GOARCH="+p.arch, p.level)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cmd/build for %s: %w\n%s", p, err, out)
	}
	for _, name := range programs {
		data, err := os.ReadFile(filepath.Join(into, name))
		if err != nil {
			return nil, err
		}
		info, err := buildinfo.Read(bytes.NewReader(data))
		if err != nil {
			return nil, fmt.Errorf("%s for %s: %w", name, p, err)
		}
		built = append(built, program{name, p, data, linked(info)})
	}
	return built, nil
}

// write writes all files of the release. The checksums are the last of them.
func (r release) write(platforms []platform, built map[platform][]program, stage stage) error {
	var sums []string
	write := func(name string, data []byte) error {
		sums = append(sums, fmt.Sprintf("%s  %s\n", sha256Hex(data), name))
		return os.WriteFile(filepath.Join(r.dir, name), data, 0o644)
	}
	var all []program
	for _, p := range platforms {
		archive, err := r.archive(p, built[p])
		if err != nil {
			return err
		}
		name := r.archiveName(p) + ".tar.gz"
		bill, err := r.bill(r.asset(name, archive), built[p])
		if err != nil {
			return err
		}
		if err := errors.Join(write(name, archive), write(name+".spdx.json", bill)); err != nil {
			return err
		}
		all = append(all, built[p]...)
	}
	digest, err := r.image(platforms, built, stage)
	if err != nil {
		return err
	}
	bill, err := r.bill(r.imageAsset(digest), all)
	if err != nil {
		return err
	}
	reference := fmt.Sprintf("%s:%s@%s\n", image, r.version, digest)
	err = errors.Join(
		write(fmt.Sprintf("%s_%s_image.spdx.json", project, r.version), bill),
		write(fmt.Sprintf("%s_%s_image.txt", project, r.version), []byte(reference)),
	)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.dir, checksums), []byte(strings.Join(sums, "")), 0o644)
}

// linked returns the modules that are linked into a program, as the linker has recorded them in it. One is Go's
// standard library.
func linked(info *debug.BuildInfo) (modules []debug.Module) {
	modules = append(modules, debug.Module{Path: "stdlib", Version: strings.TrimPrefix(info.GoVersion, "go")})
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		modules = append(modules, *m)
	}
	return modules
}

func sha256Hex(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
