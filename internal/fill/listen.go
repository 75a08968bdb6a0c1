package fill

import (
	"context"
	"slices"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/store"
)

// Rings is a Store that says when keys change which somebody looks at who waits for another process's load, also where nothing is held in
// memory.
type Rings interface {
	// Listen is called before keys are read, and hears of whatever changes one of them after that; nil where nobody would say.
	Listen(ctx context.Context, names ...string) store.Listening
}

// Asks is one of Rings that has to be asked: it tells of what is read by ReadTold alone.
type Asks interface {
	// ReadTold reads records, and has the store say when they change.
	ReadTold(ctx context.Context, all []store.Reading) []store.Found
}

// listener waits for one of the keys that are looked at to change. A nil one hears nothing.
type listener struct {
	store.Listening

	asks Asks // by which the keys are to be read; nil: whatever is read is told of
}

// listen is called before keys are looked at: what was not looked at is not told of.
func (r *Reader) listen(ctx context.Context, names ...string) *listener {
	if r.near == nil {
		if r.rings == nil {
			return nil
		}
		if x := r.rings.Listen(ctx, names...); x != nil {
			asks, _ := r.rings.(Asks)
			return &listener{Listening: x, asks: asks}
		}
		return nil
	}
	wires := make([]*store.Wire, len(names))
	for i, name := range names {
		if wires[i] = r.tells.Wire(r.laneOf(name)); wires[i] == nil {
			return nil
		}
	}
	x := r.near.Listen(wires, names)
	if slices.ContainsFunc(wires, (*store.Wire).Lost) { // perhaps before it could hear of that
		x.Cancel()
		return nil
	}
	return &listener{Listening: x}
}

// heard is closed when one of the keys has changed, or may have.
func (l *listener) heard() <-chan struct{} {
	if l == nil {
		return nil
	}
	return l.Heard()
}

func (l *listener) cancel() {
	if l != nil {
		l.Cancel()
	}
}

// readFor reads records for who listens, or for one who does not.
func (r *Reader) readFor(ctx context.Context, l *listener, all []store.Reading) []store.Found {
	if l != nil && l.asks != nil {
		return l.asks.ReadTold(ctx, all)
	}
	return r.batches.ReadMany(ctx, all, false)
}

// poll looks at the key, at once when the store says that it has changed, until it is live, or until its holder's lease is gone, or over,
// since a holder that has died lets go of it in no other way: then the next LEASE may be granted. Or until the holder turns out to be a
// flight of this process, whose reader had its answer later than we had ours.
func (r *Reader) poll(ctx context.Context, w *want, reply *store.LeaseReply) (fence.Record, *flight, error) {
	holder := reply.Holder
	over := time.NewTimer(max(reply.Left(), firstPause)) // the store judges; two clocks need not go alike
	defer over.Stop()
	pause := firstPause
	look := time.NewTimer(pause)
	defer look.Stop()
	var told *listener
	for {
		select {
		case <-look.C:
		case <-told.heard():
		case <-over.C:
			told.cancel()
			return fence.Record{}, r.flight(holder), nil
		case <-ctx.Done():
			told.cancel()
			return fence.Record{}, nil, ctx.Err()
		}
		told.cancel()
		if f := r.flight(holder); f != nil {
			return fence.Record{}, f, nil
		}
		told = r.listen(ctx, w.name)
		record, err := r.glanceOnce(ctx, w, told)
		if err != nil || record.State.Live() || record.Lease.Token != holder {
			told.cancel()
			return record, nil, err
		}
		if pause = min(2*pause, longestPause); told != nil {
			pause = toldPause
		}
		look.Reset(pause)
	}
}

// glance reads the key's record, without a value that is dead, for one who listens or not.
func (r *Reader) glance(ctx context.Context, w *want, l *listener) (fence.Record, error) {
	if w.at != nil {
		p, err := r.peekFor(ctx, w.at, l)
		if w.dead = p.dead; !p.hit {
			p.record.State = fence.None
		}
		return p.record, err
	}
	var text []byte
	var err error
	if l != nil && l.asks != nil {
		found := l.asks.ReadTold(ctx, []store.Reading{{Name: w.name}})[0]
		text, err = found.Text, found.Err
	} else {
		text, err = r.store.Read(ctx, w.name)
	}
	if err != nil {
		return fence.Record{}, err
	}
	record, err := fence.ParseRecord(text)
	if err != nil {
		return fence.Record{}, nil //nolint:nilerr // not there, or not a record: the next LEASE is granted
	}
	return record, nil
}

// peekFor is peek for one who listens or not.
func (r *Reader) peekFor(ctx context.Context, p *place, l *listener) (peeked, error) {
	if l == nil || l.asks == nil {
		return r.peek(ctx, p, nil)
	}
	asked := r.remembered.of(p)
	f := l.asks.ReadTold(ctx, []store.Reading{{Name: p.name, Epochs: p.full(asked)}})[0]
	if f.Err != nil {
		return peeked{}, f.Err
	}
	found, others := r.seen(p, asked, f.Tied)
	if others != nil { // somebody has stored it, tied to others than it was
		return r.peek(ctx, p, nil)
	}
	return found, nil
}
