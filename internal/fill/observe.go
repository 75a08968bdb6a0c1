package fill

import (
	"context"
	"time"

	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/store"
)

// Observer hears of loads.
type Observer interface {
	// LoadStart is told of a load before the database is asked, and returns the context under which it runs. The one that it is
	// given has the values of that of the read which began the load, and outlives it.
	LoadStart(ctx context.Context, entry string) context.Context
	// LoadEnd is told what came of it, with the context that LoadStart returned.
	LoadEnd(ctx context.Context, l LoadDone)
}

// LoadDone is what came of a load.
type LoadDone struct {
	Entry     string
	Found     bool
	Unchanged bool // the database has what was cached, and did not send it
	Bytes     int  // of the value that it sent
	Err       error
	Took      time.Duration // the wait for its turn included
}

// Reading is what an observed read learns of the load that its value came by.
type Reading struct {
	// Load is the context of that load, by the Observer's word; nil when the value came from the cache.
	Load context.Context //nolint:containedctx // handed back to who made it
}

type readingKey struct{}

// Observe has the reads under the context note in Reading which load they had their value from.
func Observe(ctx context.Context, reading *Reading) context.Context {
	return context.WithValue(ctx, readingKey{}, reading)
}

// reading is what an observed read notes in, nil for all others.
func (r *Reader) reading(ctx context.Context) *Reading {
	if r.observer == nil {
		return nil
	}
	reading, _ := ctx.Value(readingKey{}).(*Reading)
	return reading
}

// watched is a load's context as its observer has it.
type watched struct {
	ctx context.Context //nolint:containedctx // handed back to who made it
}

// note tells an observed read which load its value came by.
func (w *want) note(o watched) {
	if w.reading != nil && o.ctx != nil {
		w.reading.Load = o.ctx
	}
}

// observedLoad is load, in an observer's sight.
func (r *Reader) observedLoad(ctx context.Context, w *want, reply *store.LeaseReply) (loaded pgload.Loaded, seen watched, err error) {
	if r.observer == nil {
		loaded, err = r.load(ctx, w, reply)
		return loaded, watched{}, err
	}
	// The reading is its own read's: whoever else waits for this load notes it by itself.
	ctx = r.observer.LoadStart(Observe(ctx, nil), w.e.name)
	began := time.Now()
	loaded, err = r.load(ctx, w, reply)
	done := LoadDone{Entry: w.e.name, Found: loaded.Found, Unchanged: loaded.Same != pgload.Different, Err: err, Took: time.Since(began)}
	if !done.Unchanged {
		done.Bytes = len(loaded.Payload)
	}
	r.observer.LoadEnd(ctx, done)
	return loaded, watched{ctx}, err
}
