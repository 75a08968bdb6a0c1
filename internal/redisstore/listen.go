package redisstore

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/freshet/freshet/internal/store"
)

// askAgain is how long it takes until a server that could not be asked whether it tells of changes is asked again.
const askAgain = time.Second

// Listen is called before keys are read by ReadTold: what it returns hears of whatever changes one of them after that, and of the end of a
// connection that would have told. It is nil where that cannot be had: the server does not tell, or has not been seen to yet, or all that
// is read is told of to somebody else (Options.Near). The first call has a connection tell, so that a process that never waits asks nothing
// of the server.
func (s *Store) Listen(ctx context.Context, names ...string) store.Listening {
	if s.ears == nil {
		return nil
	}
	var wires []*store.Wire
	for _, name := range names {
		to, err := s.to(name)
		if err != nil {
			return nil
		}
		now := to.tracker.current()
		if now == nil && to.tracker.due() {
			to.tracker.begin(ctx, to.client, s.echoKey(to.lane))
			now = to.tracker.current()
		}
		if now == nil {
			return nil
		}
		if !slices.Contains(wires, &now.Wire) {
			wires = append(wires, &now.Wire)
		}
	}
	l := s.ears.Add(wires, names)
	if slices.ContainsFunc(wires, (*store.Wire).Lost) { // perhaps before it could hear of that
		l.Cancel()
		return nil
	}
	return l
}

// due reports whether the server is to be asked whether it tells of changes, where it could not say when it was asked last.
func (t *tracker) due() bool {
	last, now := t.asked.Load(), int64(store.Awake())
	return now-last >= int64(askAgain) && t.asked.CompareAndSwap(last, now)
}

// ReadTold is ReadMany without HEAD, of keys whose changes those are told of who called Listen before.
func (s *Store) ReadTold(ctx context.Context, all []Reading) []Found {
	found := make([]Found, len(all))
	clients := s.spread(len(all), func(i int) string { return all[i].Name }, func(i int, err error) {
		found[i].Err = fmt.Errorf("get record: %w", err)
	})
	eachClient(clients, func(portions []*portion) { s.readPortions(ctx, portions, all, found, telling) })
	return found
}
