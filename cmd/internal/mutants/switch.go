package main

// switchFile is the name of the file with the switches that each mutated package has in addition.
const switchFile = "mutant_switches.go"

// switches are the functions that the text around a mutant calls.
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

// mutantChannel returns nil if the mutant is on, so that a select never takes the case.
func mutantChannel[C any](id int, c C) C {
	if mutantOn(id) {
		var none C
		return none
	}
	return c
}

// mutantWithout returns the tag of a switch. If the mutant is on and the tag is one of values, it
// returns a tag that no case has.
func mutantWithout[T comparable](id int, tag T, values ...T) T {
	for _, value := range values {
		if tag == value && mutantOn(id) {
			return mutantNone[T]()
		}
	}
	return tag
}
`

// switchState is what the switches use. For the type checker, switchStub is enough.
//
// $MUTANT is the ID of the mutant that is on. $MUTANT_REACHED is a file to which the programs append
// the ID of each mutant whose switch was evaluated, because only these can make a difference.
const switchState = `
import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strconv"
	"sync"
)

var (
	mutantActive, _ = strconv.Atoi(os.Getenv("MUTANT"))
	// The file is opened early: a test may leave a process without descriptors.
	mutantFile, mutantNoFile = os.OpenFile(os.Getenv("MUTANT_REACHED"), os.O_WRONLY|os.O_APPEND, 0)
	mutantsReached           sync.Map
)

func mutantReached(id int) {
	if mutantNoFile != nil {
		return
	}
	if _, known := mutantsReached.LoadOrStore(id, true); !known {
		fmt.Fprintln(mutantFile, id)
	}
}

func mutantNone[T any]() (none T) {
	if err, isError := any(&none).(*error); isError {
		*err = errors.New("no such thing")
	}
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

// switchStub declares the names of switchState that the switches use.
const switchStub = `
var mutantActive int

func mutantReached(int) {}

func mutantNone[T any]() (none T) { return none }
`
