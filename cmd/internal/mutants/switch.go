package main

// switchFile is the name of the file that each mutated package has in addition.
const switchFile = "mutant_switches.go"

// switches are what the text around a mutant calls.
const switches = `
func mutantOn(id int) bool {
	mutantReached(id)
	return id == mutantActive
}

func mutantPick[T any](id int, code, mutated func() T) T {
	if mutantOn(id) {
		return mutated()
	}
	return code()
}

// mutantChannel is nil for a mutant, so that a select never takes the case.
func mutantChannel[C any](id int, c C) C {
	if mutantOn(id) {
		var none C
		return none
	}
	return c
}

// mutantWithout is the tag of a switch; for a mutant, one that no case has instead of some.
func mutantWithout[T comparable](id int, tag T, values ...T) T {
	for _, value := range values {
		if tag == value && mutantOn(id) {
			return mutantNone[T]()
		}
	}
	return tag
}
`

// switchState goes with the switches; for the type checker, a declaration of its names will do.
// $MUTANT is the id of the mutant that is on. $MUTANT_REACHED is a file that gets the id of each
// mutant that could have made a difference, if it had been on.
const switchState = `
import (
	"fmt"
	"os"
	"reflect"
	"strconv"
	"sync"
)

var (
	mutantActive, _ = strconv.Atoi(os.Getenv("MUTANT"))
	mutantFile      = os.Getenv("MUTANT_REACHED")
	mutantsReached  sync.Map
)

func mutantReached(id int) {
	if mutantFile == "" {
		return
	}
	if _, known := mutantsReached.LoadOrStore(id, true); known {
		return
	}
	if f, err := os.OpenFile(mutantFile, os.O_WRONLY|os.O_APPEND, 0); err == nil {
		fmt.Fprintln(f, id)
		f.Close()
	}
}

func mutantNone[T any]() (none T) {
	switch v := reflect.ValueOf(&none).Elem(); {
	case v.CanInt():
		v.SetInt(1 << 6)
	case v.CanUint():
		v.SetUint(1 << 6)
	case v.Kind() == reflect.String:
		v.SetString("no such thing")
	}
	return none
}
`

// switchStub declares what switches need of switchState.
const switchStub = `
var mutantActive int

func mutantReached(int) {}

func mutantNone[T any]() (none T) { return none }
`
