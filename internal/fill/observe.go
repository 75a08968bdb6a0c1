package fill

import (
	"context"
	"sync"
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
	Keys      int           // that were asked for together
	Found     bool          // any of them
	Unchanged bool          // the database has what was cached, and did not send it
	Bytes     int           // of the values that it sent
	Err       error         // of all keys
	Took      time.Duration // the wait for its turn included
}

// Reading is what an observed read, or one of many keys, learns of the loads that its values came by.
type Reading struct {
	mu    sync.Mutex // keys of many are read at a time
	seen  map[*watched]struct{}
	loads []context.Context
}

// Loads are the contexts of those loads, by the Observer's word, each once. There are none when all came from the cache. It is
// asked for when the read is over.
func (r *Reading) Loads() []context.Context { return r.loads }

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
func (w *want) note(o *watched) {
	r := w.reading
	if r == nil || o == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, noted := r.seen[o]; noted {
		return
	}
	if r.seen == nil {
		r.seen = map[*watched]struct{}{}
	}
	r.seen[o] = struct{}{}
	r.loads = append(r.loads, o.ctx)
}

// observedLoad is load, in an observer's sight.
func (r *Reader) observedLoad(ctx context.Context, w *want, reply *store.LeaseReply) (loaded pgload.Loaded, seen *watched, err error) {
	if r.observer == nil {
		loaded, err = r.load(ctx, w, reply)
		return loaded, nil, err
	}
	// The reading is its own read's: whoever else waits for this load notes it by itself.
	ctx = r.observer.LoadStart(Observe(ctx, nil), w.e.name)
	began := time.Now()
	loaded, err = r.load(ctx, w, reply)
	done := LoadDone{Entry: w.e.name, Keys: 1, Found: loaded.Found, Unchanged: loaded.Same != pgload.Different, Err: err, Took: time.Since(began)}
	if !done.Unchanged {
		done.Bytes = len(loaded.Payload)
	}
	r.observer.LoadEnd(ctx, done)
	return loaded, &watched{ctx}, err
}

// observed asks for many keys together, in an observer's sight: one load, the wait for its turn and what a standby was asked for
// included. A key that is to be loaded alone after it (errSlow) is another.
func (b *batch) observed(
	ctx context.Context, items []*item, ask func(context.Context, []*item) []pgload.One,
) (ones []pgload.One, seen *watched) {
	if b.observer == nil {
		return ask(ctx, items), nil
	}
	ctx = b.observer.LoadStart(Observe(ctx, nil), b.e.name)
	began := time.Now()
	ones = ask(ctx, items)
	done := LoadDone{Entry: b.e.name, Keys: len(items), Took: time.Since(began)}
	done.Err = ones[0].Err
	for i := range ones {
		one := &ones[i]
		if one.Err == nil {
			done.Err = nil
			done.Found = done.Found || one.Loaded.Found
			done.Bytes += len(one.Loaded.Payload)
		}
	}
	b.observer.LoadEnd(ctx, done)
	return ones, &watched{ctx}
}
