package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// killers stores which test has killed each mutant. The next time, that test is run first. This only
// saves time: if the test passes, all layers are run.
type killers struct {
	mu     sync.Mutex
	file   *os.File // one killer per line, in JSON; if a mutant has several, the last one counts
	latest map[string]killer
}

type killer struct{ Mutant, Layer, Test string }

// openKillers reads a file of killers, and creates it if it is missing.
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
			return nil, fmt.Errorf("%s is not a file of killers: %w: remove it", path, err)
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

// add stores a killer. It does nothing if test is empty.
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
