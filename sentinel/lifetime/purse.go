package lifetime

import (
	"sync"
	"time"
)

// A volume may change as fast as its users like: one rewrites a marker in an endless
// loop, another unpacks an archive of 50,000 files. Each event of such a storm costs
// something to read, about 3 µs of a processor's time, and each look some ten times as
// much. So both are paid for from one purse. After any quiet time there is more in it
// than a hundred runs on end ask for, and a hint is followed at once: only what does not
// end empties it. Then the kernel is asked to tell nothing for a pause, and after it is
// a look, which sees what could have been told.
const (
	eventCost = 1
	lookCost  = 10 // for each run that is looked at
	// purseSize is what can be spent at once: two thousand looks.
	purseSize = 20_000
	// income is for each second: 250 looks, or 2,500 events, or 1 % of a processor.
	income = 2_500
	// pause is how late a look may be in a storm. The shorter, the more often a
	// thread has to be woken for a few events.
	pause = 50 * time.Millisecond
)

// purse is what may be spent on watching. Its methods may be called from any goroutine.
type purse struct {
	mu   sync.Mutex
	left float64 // below 0: a debt
	at   time.Time
}

func newPurse(now time.Time) *purse { return &purse{left: purseSize, at: now} }

// spend takes a cost from the purse. It tells whether nothing is owed then.
func (p *purse) spend(cost float64, now time.Time) (solvent bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = min(purseSize, p.left+income*now.Sub(p.at).Seconds()) - cost
	p.at = now
	return p.left >= 0
}
