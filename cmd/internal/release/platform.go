package main

import (
	"fmt"
	"strings"
)

// platform is a kind of machine, in Go's words.
type platform struct {
	arch    string // GOARCH
	variant string // of arm, in the words of an image: v7
	level   string // the oldest processor that is supported, as a variable for Go
}

var platforms = []platform{
	{"amd64", "", "GOAMD64=v1"},
	{"arm64", "", "GOARM64=v8.0"},
	{"arm", "v7", "GOARM=7"},
	{"ppc64le", "", "GOPPC64=power8"},
	{"s390x", "", "GOARCH=s390x"}, // there is one level: z13
	{"riscv64", "", "GORISCV64=rva20u64"},
}

// String returns the platform in the words of docker build --platform.
func (p platform) String() string {
	if p.variant == "" {
		return "linux/" + p.arch
	}
	return "linux/" + p.arch + "/" + p.variant
}

// slug is for file names: linux_armv7.
func (p platform) slug() string { return "linux_" + p.arch + p.variant }

func platformNames() (names []string) {
	for _, p := range platforms {
		names = append(names, p.String())
	}
	return names
}

// parsePlatforms parses a list like linux/amd64,linux/arm/v7.
func parsePlatforms(list string) (parsed []platform, err error) {
	for _, name := range strings.Split(list, ",") {
		p, err := parsePlatform(name)
		if err != nil {
			return nil, err
		}
		parsed = append(parsed, p)
	}
	return parsed, nil
}

func parsePlatform(name string) (platform, error) {
	for _, p := range platforms {
		if p.String() == name {
			return p, nil
		}
	}
	return platform{}, fmt.Errorf("no release for platform %q: there are %s", name, strings.Join(platformNames(), ", "))
}
