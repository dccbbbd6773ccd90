package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// killers remembers which test killed each mutant. In the next run that test comes first. This
// only saves time: a mutant that survives it goes through all layers.
type killers struct {
	mu     sync.Mutex
	file   *os.File // a killer in JSON per line; of several for one mutant, the last counts
	latest map[string]killer
}

type killer struct{ Mutant, Layer, Test string }

// openKillers reads a file of killers, which may be missing, to add more to it.
func openKillers(path string) (k *killers, err error) {
	k = &killers{latest: make(map[string]killer)}
	if k.file, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o666); err != nil {
		return nil, err
	}
	for decoder := json.NewDecoder(k.file); ; {
		var one killer
		switch err := decoder.Decode(&one); {
		case errors.Is(err, io.EOF):
			return k, nil
		case err != nil:
			k.file.Close()
			return nil, fmt.Errorf("%s: %w: remove it", path, err)
		}
		k.latest[one.Mutant] = one
	}
}

// of returns the layer and the test that killed a mutant, or a zero killer.
func (k *killers) of(m mutant) killer {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.latest[m.name()]
}

// add remembers one.
func (k *killers) add(m mutant, layer *layer, test string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	one := killer{m.name(), layer.name, test}
	if test == "" || k.latest[one.Mutant] == one {
		return nil
	}
	k.latest[one.Mutant] = one
	return json.NewEncoder(k.file).Encode(one)
}
