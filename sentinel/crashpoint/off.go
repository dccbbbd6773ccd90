//go:build !crashpoints

// Package crashpoint names the steps at which a program may be killed, for the tests that
// do so. Built without the tag crashpoints, as programs are released, it is nothing.
package crashpoint

// At is called where a step is done.
func At(string) {}
