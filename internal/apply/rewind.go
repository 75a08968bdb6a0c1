package apply

import (
	"time"

	"github.com/freshet/freshet/mvcc"
)

// Rewind says how far the slot's confirmation stays behind what was applied: Time or WAL bytes, whichever is less. A
// store that fails over to a replica which missed writes is brought up to date from the log within this depth; beyond
// it a new generation has to be started.
type Rewind struct {
	Time time.Duration
	WAL  int64 // bytes
}

// rewind remembers when which position was applied, about once a second.
type rewind struct {
	Rewind
	samples []sample
	last    mvcc.LSN
	old     mvcc.LSN // the newest position that is older than Time
}

type sample struct {
	at       time.Time
	position mvcc.LSN
}

func (r *rewind) add(now time.Time, p mvcc.LSN) {
	r.last = p
	if n := len(r.samples); n > 0 && now.Sub(r.samples[n-1].at) < max(r.Time/64, time.Millisecond) {
		// The sample keeps its position: a later one may not be confirmed as if it were as old.
		return
	}
	r.samples = append(r.samples, sample{now, p})
}

// position is what may be confirmed now, 0 when nothing may.
func (r *rewind) position(now time.Time) mvcc.LSN {
	aged := 0
	for _, s := range r.samples {
		if now.Sub(s.at) < r.Time {
			break
		}
		r.old = s.position
		aged++
	}
	r.samples = r.samples[aged:]
	if len(r.samples) == 0 && aged > 0 && r.last > r.old {
		r.samples = append(r.samples, sample{now, r.last})
	}
	p := r.old
	if r.WAL > 0 && uint64(r.last) > uint64(r.WAL) {
		p = max(p, r.last-mvcc.LSN(r.WAL))
	}
	return p
}
