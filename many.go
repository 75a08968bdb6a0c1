package freshet

import (
	"context"
	"errors"
	"fmt"

	"github.com/freshet/freshet/internal/fill"
)

// Result is what GetMany has for one key: what Get would have returned for it.
type Result[V any] struct {
	Value V
	// Err is nil for a value, ErrNotFound where there is no such row, and otherwise says why the key could not be read.
	Err error
}

// GetMany reads the values of many keys, in their order, each as Get reads it: with one request to the store for what is
// cached, and one statement for what is not, where the entry's query can be run for many keys at once. Options ask the same of
// every value; what is cached and does not prove it is loaded by that statement too. Keys that are given several times are read once, and share the
// value, unless there is WithClone.
//
// Keys that cannot be loaded together, such as those that code loads, are loaded a few at a time, so that other reads have their turn. Each may
// take the entry's load_timeout from when it is its turn; ctx bounds how long that is for all.
//
// The error says that some keys could not be read, and wraps the first one's; the results are there all the same, so that a
// caller who wants all or nothing looks at the error, and one who takes what there is looks at each Result. That there is no
// such row is no such error.
//
// The values are not of one moment: cached ones were loaded when they were. More than 1000 keys are read a thousand at a time, each of
// which may take the entry's load_timeout.
func (t *Typed[K, V]) GetMany(ctx context.Context, keys []K, options ...ReadOption) ([]Result[V], error) {
	return t.watchedMany(ctx, keys, options)
}

// getMany is GetMany, and says how many keys failed.
func (t *Typed[K, V]) getMany(
	ctx context.Context, keys []K, options []ReadOption, counted *tally,
) (results []Result[V], failed int, err error) {
	requests := make([]request[K], len(keys))
	wanted := make([]fill.Key, len(keys))
	for i, key := range keys {
		requests[i] = request[K]{codec: t.keys, key: key}
		wanted[i] = &requests[i]
	}
	var load func(i int) fill.LoadFunc
	if t.load != nil {
		load = func(i int) fill.LoadFunc { return t.loadFunc(keys[i]) }
	}
	results = make([]Result[V], len(keys))
	other := t.readMany(ctx, wanted, load, demand(options), results, nil, counted)
	if len(other) > 0 { // what is cached is stored as something else: a miss, for this reader
		d := demand(options)
		d.Reload = true
		again := make([]fill.Key, len(other))
		for n, i := range other {
			again[n] = wanted[i]
		}
		var reload func(n int) fill.LoadFunc
		if load != nil {
			reload = func(n int) fill.LoadFunc { return load(other[n]) }
		}
		t.readMany(ctx, again, reload, d, results, other, counted)
	}
	var first error
	for i := range results {
		if err := results[i].Err; err != nil && !errors.Is(err, ErrNotFound) {
			failed++
			if first == nil {
				first = err
			}
		}
	}
	if failed > 0 {
		return results, failed, fmt.Errorf("%d of %d keys could not be read: %w", failed, len(keys), first)
	}
	return results, 0, nil
}

// readMany reads keys into results, in places of theirs, or in their order. other are the places of those whose cached values are
// stored otherwise than this reader stores them.
func (t *Typed[K, V]) readMany(
	ctx context.Context, keys []fill.Key, load func(int) fill.LoadFunc, d *fill.Demand, results []Result[V], places []int, counted *tally,
) (other []int) {
	for i, a := range t.cache.reader.ReadMany(ctx, t.name, keys, load, d) {
		if places != nil {
			i = places[i]
		}
		r := &results[i]
		*r = Result[V]{Err: public(a.Err)}
		switch {
		case r.Err != nil:
		case !a.Value.Found:
			r.Err = ErrNotFound
			counted.add(&a.Value)
		default:
			r.Value, r.Err = t.valueOf(&a.Value)
			if errors.Is(r.Err, errOther) {
				other = append(other, i)
			}
			if r.Err == nil {
				r.Value = t.owned(r.Value)
				counted.add(&a.Value)
			}
			r.Err = public(r.Err)
		}
	}
	return other
}
