package near

import (
	"sync/atomic"
	"time"
)

// gaugeFor is for how long a comparison of the counter with the clock counts.
const gaugeFor = time.Second

// Gauge compares Ticks with a clock, so that so many ticks can be taken for as many nanoseconds at most. A counter that is slower than
// that, that stops when the processor idles, or begins anew when the machine was suspended, is found out.
type Gauge struct{ from atomic.Pointer[mark] }

type mark struct {
	ticks uint64
	clock time.Duration
}

// Holds reports whether there was a tick in each nanosecond since they were last compared. ticks were read before clock.
func (g *Gauge) Holds(ticks uint64, clock time.Duration) bool {
	from := g.from.Load()
	passed := time.Duration(0)
	if from != nil {
		passed = clock - from.clock
	}
	holds := from != nil && passed >= 0 && int64(ticks-from.ticks) >= int64(passed) //nolint:gosec // a difference, below 0 where it began anew
	if !holds || passed > gaugeFor {
		g.from.CompareAndSwap(from, &mark{ticks: ticks, clock: clock})
	}
	return holds
}
