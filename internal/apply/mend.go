package apply

import (
	"context"
	"fmt"
	"time"

	"github.com/freshet/freshet/internal/fence"
)

// maimed reports whether lanes are lost and may be tried now.
func (a *Applier) maimed(now time.Time) bool {
	return a.opts.Store.Closed() > 0 && !now.Before(a.mendAt)
}

// mend begins lost lanes anew after a step, which has confirmed everything that its gate's view shows and that was delivered.
// What is cached in them after that was loaded under a snapshot that sees all of it, or on a standby which has replayed it: so nothing
// need be delivered again. Readers may go on with what was before for as long as after a move of names.
func (a *Applier) mend(ctx context.Context, seen view) error {
	defer func() { a.opts.Stats.Closed.Store(int64(a.opts.Store.Closed())) }()
	if !a.maimed(time.Now()) {
		return nil
	}
	head := fence.Head{
		Generation: a.head.Generation, Term: a.head.Term, Revision: a.head.Revision, System: a.head.System, Timeline: a.head.Timeline,
		Publication: a.head.Publication, Wc: a.head.Wc, Wi: max(seen.insert, a.head.Wc), Si: seen.snapshot,
	}
	opened, err := a.opts.Store.Mend(ctx, head, a.opts.Names.Roster().Text())
	if err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	now := time.Now()
	a.mendAt = now.Add(mendEvery)
	if opened == 0 {
		return nil
	}
	a.opts.Stats.Mended.Add(uint64(opened)) //nolint:gosec // a count
	a.settleAt = now.Add(a.opts.Settle)
	a.opts.Names.Lanes(a.opts.Store.Generations())
	if a.opts.Published != nil {
		a.opts.Published(a.opts.Names.Roster())
	}
	return nil
}
