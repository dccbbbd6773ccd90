package lifetime

import (
	"time"

	"golang.org/x/time/rate"
)

// A volume may change as fast as its users like: one rewrites a marker in a loop, another unpacks an
// archive of 50,000 files. Reading one event of such a storm takes about 3 µs of processor time, and a
// look some ten times as much. A token bucket bounds both together. Normally it is full, and every
// hint is followed at once; only a storm empties it. Then the kernel is asked to send no events for a
// pause, and the look after the pause sees what they would have reported.
const (
	eventCost = 1
	lookCost  = 10 // for each run that is looked at
	// burst is what can be spent at once: two thousand looks.
	burst = 20_000
	// perSecond allows 250 looks or 2,500 events: about 1 % of a processor.
	perSecond = 2_500
	// pause is how late a look may be in a storm. A shorter one would wake a thread more often, for
	// fewer events.
	pause = 50 * time.Millisecond
)

func newLimiter() *rate.Limiter { return rate.NewLimiter(perSecond, burst) }

// spend takes cost tokens, into debt if there are too few. It reports whether there were enough.
func spend(l *rate.Limiter, cost int, now time.Time) bool {
	return l.ReserveN(now, cost).DelayFrom(now) == 0
}
