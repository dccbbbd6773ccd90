package shim

import (
	"reflect"
	"testing"
)

// TestKeysAreWhole: every field is part of the key. Without it, two different situations would count as one.
func TestKeysAreWhole(t *testing.T) {
	for whole, key := range map[reflect.Type]reflect.Type{
		reflect.TypeFor[procedure](): reflect.TypeFor[procedureKey](),
		reflect.TypeFor[state]():     reflect.TypeFor[stateKey](),
		reflect.TypeFor[exit]():      reflect.TypeFor[exitKey](),
	} {
		for i := range whole.NumField() {
			if name := whole.Field(i).Name; name != "run" {
				if _, ok := key.FieldByName(name); !ok {
					t.Errorf("%s has no field %s, as %s has", key, name, whole)
				}
			}
		}
	}
}
