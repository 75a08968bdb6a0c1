package fill

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/freshet/freshet/internal/rule"
)

// refreshAttempts is how often Refresh begins anew because an invalidation took its lease, as that of the very
// transaction that is the reason for the refresh may.
const refreshAttempts = 3

var errRefresh = errors.New("not refreshed")

// Refresh loads one value and stores it under the same rules as a miss does, also over a live one: for a writer that
// knows what it has just changed. The load begins after the call. An error means that the value was not stored, and
// nothing else: what was cached before is invalidated as ever.
func (r *Reader) Refresh(ctx context.Context, entry string, key Key, load LoadFunc) error {
	e := r.entries[entry]
	if e == nil {
		return fmt.Errorf("entry %s: %w", entry, ErrUnknownEntry)
	}
	r.stats.refreshes.Add(1)
	ctx, cancel := context.WithTimeout(ctx, e.LoadTimeout)
	defer cancel()
	err := r.refreshNow(ctx, e, key, load)
	if err != nil {
		return fmt.Errorf("entry %s: %w: %w", entry, errRefresh, err)
	}
	r.stats.refreshed.Add(1)
	return nil
}

func (r *Reader) refreshNow(ctx context.Context, e *declared, key Key, load LoadFunc) error {
	if load == nil && e.Declared.Query == "" {
		return ErrNoLoader
	}
	var lost error
	for range refreshAttempts {
		c, _ := r.names(ctx)
		l, why := c.live(e)
		if l == nil {
			return fmt.Errorf("the cache cannot be used: %s", why)
		}
		made, err := e.args(key, l.entry.Params)
		if err != nil {
			return err
		}
		args := slices.Clone(made)
		spelled, _, unusable := c.spell(nil, l, e.template, args)
		if unusable != 0 {
			return fmt.Errorf("the cache cannot be used: %s", unusable)
		}
		name := string(spelled)
		w := &want{e: e, l: l, c: c, name: name, args: args, load: load, n: &need{}}
		if l.ties != nil {
			w.at = l.ties.place(name, c.keyFrom(l), args)
			if _, err := r.glance(ctx, w, nil); err != nil { // a value that is dead is not to be taken for one that is newer
				return err
			}
		}
		token := newToken()
		reply, err := r.lease(ctx, w, token)
		for err == nil && !reply.Granted {
			// Whoever is loading may have begun before the change.
			var f *flight
			if _, f, err = r.poll(ctx, w, &reply); f != nil {
				err = f.over(ctx)
			}
			if err == nil {
				token = newToken()
				reply, err = r.lease(ctx, w, token)
			}
		}
		if err != nil {
			return err
		}
		f, err := r.take(ctx, w, token, &reply) // from the primary, which has just committed
		if err != nil {
			return err
		}
		if err := f.over(ctx); err != nil {
			return err
		}
		switch {
		case f.err != nil:
			return f.err
		case f.reason != 0:
			return errors.New(f.reason.String())
		case f.unstored == 0, f.unstored == refusedNotNewer: // somebody stored one that is as new
			return nil
		case f.unstored != refusedNoLease:
			return errors.New(f.unstored.String())
		}
		lost = errors.New(f.unstored.String())
	}
	return lost
}

// Known are an entry's parameters with their types, as this process last learned of them from a roster or from the
// database; nil when it never did. It asks nobody.
func (r *Reader) Known(entry string) []rule.Param {
	e := r.entries[entry]
	if e == nil {
		return nil
	}
	if r.confirmed.Load() == nil {
		r.refresh() // so that the next one knows
	}
	for _, known := range []*[]rule.Param{e.seen.Load(), e.types.Load()} {
		if known != nil {
			return *known
		}
	}
	return nil
}
