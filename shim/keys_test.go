package shim

import (
	"bytes"
	"reflect"
	"testing"
)

// TestKeysAreWhole: every field is part of a key. Without it, two different situations would count as one.
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

	s := newSim(pod{sentinels: maxMains, shims: make([]follower, maxActors-maxMains)})
	var w situation
	for i := range w.volume.files {
		w.volume.files[i].open = 1 // a file without a name that nobody has open makes no difference
	}
	before := s.appendKey(nil, &w)
	notInKey := map[string]bool{
		"situation.volume.coarse":      true, // the same in all situations of a pod
		"situation.volume.files.names": true, // follows from situation.volume.names
	}
	changeEach(t, reflect.ValueOf(&w).Elem(), "situation", func(field string) {
		if !notInKey[field] && bytes.Equal(s.appendKey(nil, &w), before) {
			t.Errorf("the key of a situation does not depend on %s", field)
		}
	})
}

// changeEach changes each number and each truth value in v, one at a time, calls changed with its name, and changes it
// back.
func changeEach(t *testing.T, v reflect.Value, name string, changed func(name string)) {
	t.Helper()
	if v.Kind() == reflect.Struct {
		for i := range v.NumField() {
			changeEach(t, v.Field(i), name+"."+v.Type().Field(i).Name, changed)
		}
		return
	}
	if v.Kind() == reflect.Array {
		for i := range v.Len() {
			changeEach(t, v.Index(i), name, changed)
		}
		return
	}
	old := reflect.New(v.Type()).Elem()
	v = reflect.NewAt(v.Type(), v.Addr().UnsafePointer()).Elem() // the field is not exported, so v cannot be set
	old.Set(v)
	switch {
	case v.Kind() == reflect.Bool:
		v.SetBool(!v.Bool())
	case v.CanUint():
		v.SetUint(v.Uint() + 1)
	default:
		v.SetInt(v.Int() + 1)
	}
	changed(name)
	v.Set(old)
}
