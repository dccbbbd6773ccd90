package app

import "runtime/debug"

// version is set by the linker (-X); see the Makefile and the Dockerfile.
var version string

// Version is the version of the program: what the build has stamped, else that of
// the Go module.
func Version() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(unknown)"
}
