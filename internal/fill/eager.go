package fill

import (
	"context"
	"hash/maphash"
	"slices"
	"sync/atomic"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/store"
)

const (
	// eagerShare is the part of the loads at a time that may be for values which are there.
	eagerShare = 4
	// eagerGap is how long a process leaves a key alone that it has tried to refresh.
	eagerGap = time.Second
	// eagerKeys is of how many keys that is remembered.
	eagerKeys = 1024
)

// skew is by how much the store's clock is ahead of this machine's, as far as its answers have told. It decides when to refresh
// a value that is there, and for how long one is held at most where the store is late to say that it is over; nothing else.
type skew struct{ micros atomic.Int64 }

func (s *skew) learn(now int64) { s.micros.Store(now - time.Now().UnixMicro()) }

// now is the store's clock.
func (s *skew) now() int64 { return time.Now().UnixMicro() + s.micros.Load() }

// eagers are the refreshes of values that are there.
type eagers struct {
	slots chan struct{}
	seed  maphash.Seed
	tried [eagerKeys]atomic.Pointer[attempt]
}

type attempt struct {
	name string
	at   time.Time
}

// first reports whether the key was not tried lately.
func (e *eagers) first(name string) bool {
	at := &e.tried[maphash.String(e.seed, name)%eagerKeys]
	last := at.Load()
	if last != nil && last.name == name && time.Since(last.at) < eagerGap {
		return false
	}
	return at.CompareAndSwap(last, &attempt{name: name, at: time.Now()})
}

// due reports whether a value was filled so long ago that it is to be refreshed: in the last part of the shortest time that it
// may have been given.
func (e *declared) due(filled, now int64, state fence.State) bool {
	ttl := e.TTL
	if state == fence.Negative {
		ttl = e.NegativeTTL
	}
	return time.Duration(now-filled)*time.Microsecond >= time.Duration(float64(ttl)*(1-e.Jitter)*(1-e.Eager))
}

// ahead refreshes a value that was just hit, if its time is nearly over. The read does not wait. One process of the fleet does it,
// which has the lease, by a load like any other; where the value is still what the database has, that sends none.
func (r *Reader) ahead(ctx context.Context, w *want, text []byte) {
	record, err := fence.ParseRecord(text)
	if err != nil || !w.e.due(record.Filled, r.skew.now(), record.State) || !r.eager.first(w.name) {
		return
	}
	select {
	case r.eager.slots <- struct{}{}:
	default:
		r.stats.eagerSkipped.Add(1)
		return
	}
	w.args, w.n = slices.Clone(w.args), &need{compares: true}
	err = r.begin(ctx, w.e.LoadTimeout+leaseMargin, func(ctx context.Context) {
		defer func() { <-r.eager.slots }()
		token := newToken()
		reply, err := r.lease(ctx, w, token)
		if err != nil {
			return
		}
		r.skew.learn(reply.Now)
		if !reply.Granted {
			return
		}
		if !reply.Record.State.Live() || !w.e.due(reply.Record.Filled, reply.Now, reply.Record.State) {
			r.release(ctx, w.name, token)
			return
		}
		r.refreshHeld(ctx, w, token, &reply)
	})
	if err != nil {
		<-r.eager.slots
	}
}

// Reloaded says what became of a Reload.
type Reloaded uint8

// What became of a Reload.
const (
	_              Reloaded = iota
	ReloadStored            // a value was stored
	ReloadNeedless          // one was there already, or somebody is loading it
	ReloadFailed            // it was not stored: the database did not answer, or the rules refuse it
)

// Reload loads a value that was invalidated and that nobody has loaded again, and stores it under the same rules as a miss does.
// It is for a key in canonical text.
func (r *Reader) Reload(ctx context.Context, entry, key string) Reloaded {
	e := r.entries[entry]
	if e == nil || e.Declared.Query == "" {
		return ReloadFailed
	}
	args, ok := e.template.Parse(key)
	if !ok {
		return ReloadFailed
	}
	ctx, cancel := context.WithTimeout(ctx, e.LoadTimeout+leaseMargin)
	defer cancel()
	for range refreshAttempts { // each may lose its lease to the next change
		c, _ := r.names(ctx)
		l, _ := c.live(e)
		if l == nil || len(l.entry.Params) != len(args) {
			return ReloadFailed
		}
		spelled, _, unusable := c.spell(nil, l, e.template, args)
		if unusable != 0 {
			return ReloadFailed
		}
		w := &want{e: e, l: l, c: c, name: string(spelled), args: args, n: &need{}}
		if l.ties != nil {
			w.at = l.ties.place(w.name, c.keyFrom(l), args)
			if _, err := r.glance(ctx, w, nil); err != nil {
				return ReloadFailed
			}
		}
		token := newToken()
		reply, err := r.lease(ctx, w, token)
		switch {
		case err != nil:
			return ReloadFailed
		case !reply.Granted:
			return ReloadNeedless
		case reply.Record.State.Live():
			r.release(ctx, w.name, token)
			return ReloadNeedless
		}
		f, err := r.take(ctx, w, token, &reply)
		if err != nil || f.over(ctx) != nil || f.err != nil || f.reason != 0 {
			return ReloadFailed
		}
		switch f.unstored {
		case 0:
			return ReloadStored
		case refusedNoLease, refusedNotCovering:
		default:
			return ReloadFailed
		}
	}
	return ReloadFailed
}

// refreshHeld loads what the lease is over, and waits for the end of it.
func (r *Reader) refreshHeld(ctx context.Context, w *want, token fence.Token, reply *store.LeaseReply) {
	r.stats.eager.Add(1)
	w.over = w.n.keeps(w.c, reply)
	f, err := r.take(ctx, w, token, reply)
	if err == nil && f.over(ctx) == nil && f.err == nil && f.reason == 0 && f.unstored == 0 {
		r.stats.eagerStored.Add(1)
	}
}
