package fill

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/mvcc"
)

// waitable reports whether an error of a need is one that time may mend.
func waitable(err error) bool { return errors.Is(err, ErrTokenNotReached) }

// ReadUnder is Read of a value that meets a demand: the cached one when the store proves that it does, or else one that
// the database shows, which fills the cache like any other load. A transaction that the database does not show yet is
// waited for, within the load timeout of the entry; then the error is ErrTokenNotReached.
func (r *Reader) ReadUnder(ctx context.Context, entry string, key Key, load LoadFunc, d *Demand) (Value, error) {
	e := r.entries[entry]
	if e == nil {
		return Value{}, fmt.Errorf("entry %s: %w", entry, ErrUnknownEntry)
	}
	if nests(ctx, entry) {
		past := *d
		past.Past, d = true, &past
	}
	n := r.need(e, d)
	if n == nil {
		return r.plain(ctx, entry, key, load, d.Fresh)
	}
	began := time.Now()
	for pause := firstPause; ; pause = longestPause {
		v, err := r.readUnder(ctx, began, e, key, load, n)
		if err != nil {
			return Value{}, err
		}
		if v.Status != Hit {
			err = n.shown(v.server, v.coverage.Snapshot)
		}
		if err == nil {
			if n.session != nil {
				n.session.saw(v.server, v.seen())
			}
			return v, nil
		}
		if waitable(err) {
			err = r.await(ctx, began, e, n, err, pause)
		}
		if err != nil {
			return Value{}, fmt.Errorf("entry %s: %w", e.name, err)
		}
	}
}

// GetUnder is ReadUnder for canonical arguments.
func (r *Reader) GetUnder(ctx context.Context, entry string, args []keytext.Arg, load LoadFunc, d *Demand) (Value, error) {
	return r.ReadUnder(ctx, entry, canonical(args), load, d)
}

// seen is the snapshot of what a value shows.
func (v *Value) seen() mvcc.Snapshot {
	if v.coverage.Standby() {
		return v.confirmed
	}
	return v.coverage.Snapshot
}

// readUnder reads one value, from the store only if it meets the need. What comes from the database is for the caller to
// judge.
func (r *Reader) readUnder(ctx context.Context, began time.Time, e *declared, key Key, load LoadFunc, n *need) (Value, error) {
	came := time.Now() // not began: what the read has waited for since is in no load from before
	for range attempts {
		c, _ := r.names(ctx)
		live, unusable := c.live(e)
		if live == nil {
			if n.past {
				unusable = askedFor
			}
			return r.readAlone(ctx, began, e, key, load, n, unusable)
		}
		args, err := e.args(key, live.entry.Params)
		if err != nil {
			return Value{}, err
		}
		var (
			name string
			at   *place
			dead string
		)
		want := func() *want {
			return &want{
				e: e, l: live, c: c, name: name, at: at, dead: dead, args: slices.Clone(args), load: load, n: n, came: came, began: began,
			}
		}
		if n.past {
			return r.bypass(ctx, want(), askedFor)
		}
		var space [192]byte
		spelled, lane, unusable := c.spell(space[:0], live, e.template, args)
		if unusable != 0 {
			return r.bypass(ctx, want(), unusable)
		}
		name = string(spelled)
		if live.ties != nil {
			at = live.ties.place(name, c.keyFrom(live), args)
			at.e = e
		}
		if n.asksNothingOfHead() {
			v, again, err := r.miss(ctx, want())
			if again {
				continue
			}
			return v, err
		}
		if n.bounded && !n.verify {
			r.count(ctx, lane)
		}
		head, found, known, err := r.consult(ctx, c, n, e, name, lane)
		var seen peeked
		switch {
		case known != nil:
			seen = *known
		case err == nil:
			head, found, seen, err = r.peekUnder(ctx, e, name, at)
		}
		if err != nil {
			if ctx.Err() != nil {
				return Value{}, fmt.Errorf("entry %s: %w", e.name, ctx.Err())
			}
			return r.bypass(ctx, want(), r.failed(c, lane, err))
		}
		if !seen.proved && !c.agrees(lane, &head, found) {
			r.expire(c)
			r.stats.dropped.Add(1)
			continue
		}
		dead = seen.dead
		if seen.hit {
			if !r.stillConfirmed(c, lane) {
				r.stats.dropped.Add(1)
				continue
			}
			if seen.proved || r.vouched(n, lane, &head, seen.record.Coverage) {
				if known == nil {
					r.stats.hits.Add(1)
				} else {
					r.counted(known.held)
				}
				return Value{
					Found: seen.record.State == fence.Live, Payload: seen.record.Payload, Status: Hit, Name: name, record: seen.text, held: seen.held,
					coverage: seen.record.Coverage, server: pgload.Server{System: head.System, Timeline: head.Timeline}, confirmed: head.Si,
				}, nil
			}
			r.stats.unproven.Add(1)
		}
		if err := r.refuseForeign(ctx, e, n, &head); err != nil {
			return Value{}, err
		}
		v, again, err := r.miss(ctx, want())
		if again {
			continue
		}
		return v, err
	}
	return r.readAlone(ctx, began, e, key, load, n, namesMoved)
}

// refuseForeign asks the database who it is when a token is not of the cluster whose log HEAD's daemon follows: before
// anything is loaded, so that tokens of another cluster cost no more than a look that is shared.
func (r *Reader) refuseForeign(ctx context.Context, e *declared, n *need, head *fence.Head) error {
	for _, t := range n.tokens {
		if t.System == head.System {
			continue
		}
		s, err := r.look(ctx, e.LoadTimeout)
		switch {
		case err != nil:
			return fmt.Errorf("entry %s: %w", e.name, err)
		case s.err != nil:
			return fmt.Errorf("entry %s: %w", e.name, typed(s.err))
		case s.server.System != t.System:
			return fmt.Errorf("entry %s: %w: of %s, and the database is %s", e.name, ErrForeignToken, t.System, s.server.System)
		}
	}
	return nil
}
