package fill

import (
	"context"
	"slices"

	"github.com/freshet/freshet/internal/store"
)

// Rings is a Store that says when keys change which somebody looks at who waits for another process's load, also where nothing is held in
// memory.
type Rings interface {
	// Listen is called before keys are read by ReadTold, and hears of whatever changes one of them after that; nil where nobody would say.
	Listen(ctx context.Context, names ...string) store.Listening
	// ReadTold reads records, and has the store say when they change.
	ReadTold(ctx context.Context, all []store.Reading) []store.Found
}

// listener waits for one of the keys that are looked at to change. A nil one hears nothing.
type listener struct {
	store.Listening

	rings Rings // by which the keys are to be read; nil: whatever is read is told of
}

// listen is called before keys are looked at: what was not looked at is not told of.
func (r *Reader) listen(ctx context.Context, names ...string) *listener {
	if r.near == nil {
		if r.rings == nil {
			return nil
		}
		if x := r.rings.Listen(ctx, names...); x != nil {
			return &listener{Listening: x, rings: r.rings}
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
	if l != nil && l.rings != nil {
		return l.rings.ReadTold(ctx, all)
	}
	return r.batches.ReadMany(ctx, all, false)
}
