package apply

import (
	"time"

	"github.com/freshet/freshet/mvcc"
)

// When a step is made: at once where somebody waits for it, and later where it would only cost those who produce what it waits for.

// pace decides how long the part that is being filled is left alone: not at all, unless the log goes on far behind the
// last one, so that more is coming. Each step costs three round trips however little it carries, at the expense of those
// who produce what it waits for.
func (a *Applier) pace(insert mvcc.LSN) {
	a.linger = 0
	if insert > a.newest+farBehind {
		a.linger = lastLinger
		if behind := insert - a.newest; behind < lastLingerBytes {
			a.linger = time.Duration(behind) * lastLinger / lastLingerBytes
		}
	}
	a.takeAt = time.Now().Add(a.linger)
}

// ready reports whether the next part is to be taken.
func (a *Applier) ready(now time.Time) bool {
	return a.linger == 0 || !now.Before(a.takeAt) || a.opts.Queue.wait()
}

// due reports whether there is something to do although nothing new came.
func (a *Applier) due(now time.Time) bool {
	if a.maimed(now) || a.ripe() {
		return true
	}
	if len(a.pending) > 0 {
		if a.onlyIdle() {
			return !now.Before(a.idleAt)
		}
		return !now.Before(a.gateAt)
	}
	if now.Before(a.settleAt) || a.unseen() {
		return a.opts.Names.restless(now)
	}
	return a.prefix.End() > a.head.Wc || a.asked(now) || a.opts.Names.restless(now)
}

func (a *Applier) next(now time.Time) time.Duration {
	wait := tick
	if len(a.pending) > 0 {
		at := a.gateAt
		if a.onlyIdle() {
			at = a.idleAt
		}
		wait = min(wait, at.Sub(now))
	} else if a.prefix.End() > a.head.Wc && !a.unseen() {
		wait = min(wait, a.settleAt.Sub(now))
	}
	if a.opts.Store.Closed() > 0 {
		wait = min(wait, a.mendAt.Sub(now))
	}
	if a.linger > 0 && now.Before(a.takeAt) {
		wait = min(wait, a.takeAt.Sub(now))
	}
	wait = min(wait, a.asking.lookAt.Sub(now))
	return max(wait, 50*time.Microsecond)
}

// onlyIdle reports that what is pending are positions without transactions, which can wait a little.
func (a *Applier) onlyIdle() bool {
	for _, p := range a.pending {
		if !p.part.Keys.Empty() {
			return false
		}
		for i := range p.part.items {
			if p.part.items[i].xid != 0 {
				return false
			}
		}
	}
	return true
}

// crowded has a part whose keys are fenced wait a little for others when there was a step just now: three round trips are
// then made for several transactions, and the next one's keys are fenced the sooner.
func (a *Applier) crowded(now time.Time) bool {
	until := a.stepped.Add(crowd)
	if a.pending[len(a.pending)-1].fenced.IsZero() || !now.Before(until) {
		return false
	}
	a.gateAt = until
	return true
}
