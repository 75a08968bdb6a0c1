package fill

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/mvcc"
)

// ErrNotFenced is the error of keys that could not be fenced: the store is away, or does not agree on what they are.
var ErrNotFenced = errors.New("the keys could not be fenced")

// Written is a key that a transaction changes.
type Written struct {
	Entry string
	Key   Key
}

const (
	// fencePatience bounds how long a writer waits for the store, before its COMMIT and once more after it.
	fencePatience = time.Second
	// forgetMargin is for clocks of different rates, and for what has been asked of one when it was last looked at.
	forgetMargin = 20 * time.Millisecond
	// fencing is how many keys are fenced at a time.
	fencing = 64
	// unknownEnd is for a transaction of which nobody knows yet where its commit will end.
	unknownEnd = ^mvcc.LSN(0)
)

// Fence removes what is cached of the keys and keeps everybody from storing anything that does not contain transaction x,
// for as long as the fences live. x has written and not committed; should it be rolled back, whoever loads on the primary
// after that may store again. Where nothing is live there is nothing to fence.
func (r *Reader) Fence(ctx context.Context, x mvcc.XID, keys []Written) error {
	ctx, cancel := context.WithTimeout(ctx, fencePatience)
	defer cancel()
	c, err := r.settled(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("%w: their names are on the move: %w", ErrNotFenced, err)
	case c.names == nil && (c.why == storeDown || c.why == callerGone):
		return fmt.Errorf("%w: %s", ErrNotFenced, c.why)
	}
	names := make([][]string, len(keys)) // all of them, before any is fenced
	for i, k := range keys {
		e := r.entries[k.Entry]
		if e == nil {
			return fmt.Errorf("entry %s: %w", k.Entry, ErrUnknownEntry)
		}
		if names[i], err = e.spelled(c, k.Key); err != nil {
			return err
		}
	}
	var group errgroup.Group
	group.SetLimit(fencing)
	for i, k := range keys {
		for _, name := range names[i] {
			group.Go(func() error {
				stamp := fence.Stamp{XID: x, End: unknownEnd}
				if err := r.store.Early(ctx, store.Stamped{Name: name, Stamps: []fence.Stamp{stamp}}); err != nil {
					r.failed(c, r.laneOf(name), err) // readers are to know
					return fmt.Errorf("entry %s: %w: %w", k.Entry, ErrNotFenced, err)
				}
				r.dropOwn(name)
				return nil
			})
		}
	}
	return group.Wait()
}

// Forgotten waits until no process can hold in memory what a strict commit's fences have removed, which was before the call. A
// process that holds a value has heard from the store within T_r, or does not use it; one that has, has heard of this. Of keys whose entry
// says l1: off nobody holds anything; whether others do otherwise is not known here, where this process may hold nothing at all. An error
// is that of ctx.
func (r *Reader) Forgotten(ctx context.Context, keys []Written) error {
	if r.tells == nil || !slices.ContainsFunc(keys, func(k Written) bool { e := r.entries[k.Entry]; return e != nil && e.Near }) {
		return nil
	}
	return r.pause(ctx, trust+forgetMargin)
}

// spelled are the names of a key in all live versions of its entry: other processes may read other versions than this one.
// A version whose key has other parameters cannot be spelled from here.
func (e *declared) spelled(c *confirmation, key Key) (names []string, err error) {
	if c.names == nil {
		return nil, nil
	}
	for _, l := range c.names.versions[e.name] {
		if l.entry.Suspended != "" {
			continue
		}
		template, err := rule.ParseTemplate(l.entry.Key)
		if err != nil || !slices.Equal(template.Params(), e.template.Params()) || len(l.entry.Params) != len(template.Params()) {
			return nil, fmt.Errorf("entry %s: %w: another version of it has the key %s", e.name, ErrNotFenced, l.entry.Key)
		}
		args, err := e.args(key, l.entry.Params)
		if err != nil {
			return nil, err
		}
		name, _, unusable := c.spell(nil, l, template, args)
		switch unusable {
		case 0:
			names = append(names, string(name))
		case storeDown, storeRefuses:
			return nil, fmt.Errorf("entry %s: %w: %s", e.name, ErrNotFenced, unusable)
		default: // nobody reads it
		}
	}
	return names, nil
}

// FenceAgain is for after the commit. Fences may be gone by then: they end, other transactions' invalidations in bulk take
// them along, and names move. Where one was missing somebody may have stored the old row. After this it is gone, and whoever
// has read it before cannot store it any more.
func (r *Reader) FenceAgain(ctx context.Context, x mvcc.XID, keys []Written) error {
	ctx, cancel := context.WithTimeout(ctx, fencePatience)
	defer cancel()
	now := r.confirmed.Load()
	if now != nil && now.names != nil {
		for lane, h := range r.store.Heads(ctx) {
			switch {
			case now.parts != nil && (h.Err != nil || now.parts.prefixes[lane] == ""):
				// A key of this lane has Fence fail.
			case h.Err != nil:
				return fmt.Errorf("%w: %w", ErrNotFenced, h.Err)
			case !now.agrees(lane, &h.Head, h.Found):
				r.expire(now)
			}
		}
	}
	return r.Fence(ctx, x, keys)
}
