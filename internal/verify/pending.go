package verify

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/freshet/freshet/internal/fence"
)

// candidate is a value that differed from its truth, and may just be in flight.
type candidate struct {
	*one
	like     likeness
	needs    needs
	round    int
	found    time.Time // when it was first seen to differ
	deadline time.Time // of this round
}

// keep has values that differ wait until they can be judged: another round of theirs begins.
func (v *verifier) keep(ctx context.Context, differing []*candidate) error {
	if len(differing) == 0 {
		return nil
	}
	// One position for all: it only has to be read after each of the snapshots was taken.
	_, position, err := v.Truth.Position(ctx)
	if err != nil {
		return err
	}
	for _, c := range differing {
		c.needs = needs{snapshot: c.truth.Coverage.Snapshot, position: position}
		if coverage := c.record.Coverage; coverage.Standby() {
			c.needs.replay = coverage.Replay
		}
		c.round++
		c.deadline = time.Now().Add(v.Wait)
	}
	v.pending = append(v.pending, differing...)
	return nil
}

// settle looks again and again until no more than so many values wait.
func (v *verifier) settle(ctx context.Context, most int) error {
	for len(v.pending) > most {
		if err := v.reconsider(ctx); err != nil {
			return err
		}
		v.meter.progress(v.report)
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
	return nil
}

// reconsider looks once more at every value that waits, unless it has just done so.
func (v *verifier) reconsider(ctx context.Context) error {
	if len(v.pending) == 0 || time.Since(v.looked) < pause {
		return nil
	}
	v.looked = time.Now()
	before, inForce, err := v.look(ctx)
	if err != nil {
		return err
	}
	known := v.names
	same, err := v.unchanged(ctx)
	if err != nil {
		return err
	}
	_, still, err := v.look(ctx)
	if err != nil {
		return err
	}
	moving := !inForce || !still || v.names != known
	now := time.Now()
	var waiting, once []*candidate
	for i, c := range v.pending {
		l, _ := v.names.find(c.name)
		switch judge(second{
			round: c.round, same: same[i], live: l != nil, moving: moving, met: c.needs.met(&before), expired: now.After(c.deadline),
		}) {
		case wait:
			waiting = append(waiting, c)
		case again:
			once = append(once, c)
		case inFlight:
			v.report.inFlight(c, now)
		case undecided:
			v.undecided(c, fmt.Sprintf("the store did not vouch for the change within %v: no daemon runs, it is behind, or a commit waits for a standby", v.Wait))
		case stale:
			v.report.stale(c, now)
		}
	}
	v.pending = waiting
	return v.again(ctx, once, &before)
}

// unchanged reads the records of all values that wait, and reports which of the values are still there.
func (v *verifier) unchanged(ctx context.Context) ([]bool, error) {
	same := make([]bool, 0, len(v.pending))
	for some := range slices.Chunk(v.pending, together) {
		held, err := v.Store.Read(ctx, namesOf(some))
		if err != nil {
			return nil, err
		}
		ones := make([]*one, len(some))
		for i, c := range some {
			ones[i] = c.one
		}
		holds, err := v.holding(ctx, ones)
		if err != nil {
			return nil, err
		}
		for i, c := range some {
			same = append(same, held[i].Found && sameValue(&c.record, held[i].Text) && holds[i])
		}
	}
	return same, nil
}

// again loads the truth of values anew. Those that still differ go through another round.
func (v *verifier) again(ctx context.Context, once []*candidate, head *fence.Head) error {
	all := make([]*one, len(once))
	for i, c := range once {
		all[i] = c.one
	}
	if err := v.load(ctx, all, head); err != nil {
		v.pending = append(v.pending, once...) // not decided
		return err
	}
	var differing []*candidate
	for _, c := range once {
		if c.err != nil {
			v.undecided(c, c.err.Error())
		} else if c.like = c.compare(); c.like == equal {
			v.report.count(c.entry.Name).Fresh++
		} else {
			differing = append(differing, c)
		}
	}
	return v.keep(ctx, differing)
}

func (v *verifier) undecided(c *candidate, why string) {
	v.report.count(c.entry.Name).Undecided++
	v.report.Reasons[why]++
}
