//go:build !linux

package main

// The compiler prints this name: go install on a Mac says in one line why it fails.
func main() { shim_runs_on_Linux_only__build_it_with_GOOS_linux() }
