package app

import "runtime/debug"

// version is set by the linker (-X): see cmd/build.
var version string

// Version returns the version set by the linker, else that of the Go module, else "(unknown)".
func Version() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(unknown)"
}
