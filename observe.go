package freshet

import (
	"context"
	"time"

	"github.com/freshet/freshet/internal/fill"
)

// Observer hears of reads and loads as they begin and end, for metrics and traces: the packages freshetprom and freshetotel
// have one each. Its methods are called by the goroutine that reads or loads, which waits for them, and by many at a time.
// Reads of many keys are shown to those that are a ManyObserver as well; the loads that they begin are shown to all.
type Observer interface {
	// ReadStart is told of a read before anything is asked, and returns the context under which it goes on.
	ReadStart(ctx context.Context, entry string) context.Context
	// ReadEnd is told what came of it, with the context that ReadStart returned.
	ReadEnd(ctx context.Context, r ReadDone)
	// LoadStart is told of a load before the database is asked, and returns the context under which it runs, that of the
	// statement included. What it is given has the values of the context of the read that began the load, but none of its
	// deadline: several reads may wait for one load, which outlives the one that began it.
	LoadStart(ctx context.Context, entry string) context.Context
	// LoadEnd is told what came of it, with the context that LoadStart returned.
	LoadEnd(ctx context.Context, l LoadDone)
}

// ReadDone is what came of a read.
type ReadDone struct {
	Entry string
	// Status is where the value came from: hit, miss, revalidated, bypass, stale (from the cache, and invalidated: see docs/policies.md), or another
	// word that a later version has. Empty when there was none.
	Status string
	// Reason is why the cache could not be used, why what was loaded was not stored, or why a stale value was served; empty when none is so.
	Reason string
	// Found is false when there is no such row, which is an answer, and no error.
	Found bool
	Err   error
	Took  time.Duration
	// Load is the context that LoadStart returned for the load by which the value came, also where another read began it; nil when
	// the value came from the cache.
	Load context.Context //nolint:containedctx // handed back to who made it
}

// LoadDone is what came of a load.
type LoadDone struct {
	Entry string
	// Keys is how many were asked for together: 1, but for loads of GetMany. They are one load, of one statement for each server
	// that is asked; a key that holds up the others is loaded again, alone, and that is another.
	Keys int
	// Found is false when there is no such row, for none of the keys.
	Found bool
	// Unchanged: the database has what was cached, and did not send it.
	Unchanged bool
	// Bytes is the size of the values that the database sent.
	Bytes int
	// Err is nil when any of the keys was loaded.
	Err error
	// Took includes the wait for a turn (Options.MaxLoads).
	Took time.Duration
}

// observers are all that were given to Open.
type observers []Observer

func (o observers) LoadStart(ctx context.Context, entry string) context.Context {
	for _, one := range o {
		ctx = one.LoadStart(ctx, entry) //nolint:fatcontext // one for each observer
	}
	return ctx
}

func (o observers) LoadEnd(ctx context.Context, l fill.LoadDone) {
	for i := range o {
		o[len(o)-1-i].LoadEnd(ctx, LoadDone(l))
	}
}

// watched is read, in the sight of observers.
func (t *Typed[K, V]) watched(ctx context.Context, r *request[K], load fill.LoadFunc, options []ReadOption) (fill.Value, error) {
	if len(t.cache.observers) == 0 {
		return t.read(ctx, r, load, options)
	}
	began := time.Now()
	for _, o := range t.cache.observers {
		ctx = o.ReadStart(ctx, t.name) //nolint:fatcontext // one for each observer
	}
	reading := &fill.Reading{}
	v, err := t.read(fill.Observe(ctx, reading), r, load, options)
	done := ReadDone{Entry: t.name, Err: err, Took: time.Since(began)}
	if loads := reading.Loads(); len(loads) > 0 {
		done.Load = loads[len(loads)-1]
	}
	if err == nil {
		done.Status, done.Reason, done.Found = v.Status.String(), v.Reason, v.Found
	} else {
		done.Err = public(err)
	}
	for i := range t.cache.observers {
		t.cache.observers[len(t.cache.observers)-1-i].ReadEnd(ctx, done)
	}
	return v, err
}
