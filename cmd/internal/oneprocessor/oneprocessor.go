// Package oneprocessor makes a program that imports it run one goroutine at a time. There is little to do, and calls
// that block in the kernel do not count, except for the execve(2) of a command, until it is done. Each further
// processor would cost 0.2 MB of memory, and wake threads at every event to look for work.
//
// It is a package of its own, and imports nothing but runtime, so that it is initialized before almost everything
// else (The Go Programming Language Specification, Program initialization). To give up a processor later would cost
// the memory that it is to save: the runtime then puts all that this processor has cached into lists, with a page of
// memory for each.
package oneprocessor

import "runtime"

func init() { runtime.GOMAXPROCS(1) }
