package memstore

import (
	"context"
	"fmt"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/store"
)

// Conn is what the daemon writes through. It is used by one goroutine at a time.
type Conn struct{ store *Store }

// Connect opens a Conn.
func (s *Store) Connect(context.Context) (*Conn, error) { return &Conn{store: s}, nil }

// Close ends nothing: there is no connection.
func (c *Conn) Close() {}

// Replid is the name of the store's history.
func (c *Conn) Replid() string { return c.store.replid }

// Generations is nil: there is one lane, whose names have the generation of all.
func (c *Conn) Generations() []string { return nil }

// Closed is 0: no part of the store is lost without the rest.
func (c *Conn) Closed() int { return 0 }

// Mend has nothing to do.
func (c *Conn) Mend(context.Context, fence.Head, []byte) (int, error) { return 0, nil }

// write writes HEAD as decide says, in one step.
func (c *Conn) write(verb string, decide func(fence.Shard) (fence.Shard, fence.HeadOutcome)) error {
	s := c.store
	s.mu.Lock()
	defer s.mu.Unlock()
	next, outcome := decide(s.head)
	if err := store.Judged(outcome, s.head); err != nil {
		return fmt.Errorf("%s: %w", verb, err)
	}
	s.head = next
	return nil
}

func (c *Conn) expected(e store.Expected) fence.Expected {
	return fence.Expected{Generation: e.Generation, Term: e.Term, Wc: e.Wc, Replid: c.store.replid}
}

// Claim makes the store obey term, and reads HEAD in the same step. It fails with store.ErrSuperseded when a later daemon was
// there. Where there is no HEAD nothing is claimed: the daemon begins a generation.
func (c *Conn) Claim(_ context.Context, term fence.Term) (fence.Head, bool, error) {
	s := c.store
	s.mu.Lock()
	defer s.mu.Unlock()
	next, outcome := fence.Claim(s.head, term)
	if outcome == fence.Superseded {
		return s.head.Head, true, fmt.Errorf("claim head: %w", store.ErrSuperseded)
	}
	s.head = next
	return next.Head, next.Found, nil
}

// NewGeneration writes HEAD whole. Nothing that was stored under the old generation is read any more.
func (c *Conn) NewGeneration(_ context.Context, head fence.Head) error {
	return c.write("begin generation", func(s fence.Shard) (fence.Shard, fence.HeadOutcome) { return fence.Begin(s, head) })
}

// Replace is NewGeneration over a HEAD whose term, foreign, is not of this history of the database. The roster goes as well,
// whose term would refuse the next one.
func (c *Conn) Replace(_ context.Context, head fence.Head, foreign fence.Term) error {
	err := c.write("begin generation", func(s fence.Shard) (fence.Shard, fence.HeadOutcome) { return fence.Replace(s, head, foreign) })
	if err != nil {
		return err
	}
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	c.store.roster = nil
	return nil
}

// Move publishes a roster: first the roster itself, then HEAD's revision, by which readers take it up.
func (c *Conn) Move(_ context.Context, e store.Expected, roster []byte, revision uint64, publication string) error {
	// Compared first, so that a daemon that was superseded leaves the roster alone.
	err := c.write("compare head", func(s fence.Shard) (fence.Shard, fence.HeadOutcome) { return s, fence.Compare(s, c.expected(e)) })
	if err == nil {
		err = c.publish(roster, fence.Published{Generation: e.Generation, Term: e.Term, Revision: revision})
	}
	if err == nil {
		err = c.write("write revision", func(s fence.Shard) (fence.Shard, fence.HeadOutcome) {
			return fence.Move(s, c.expected(e), revision, publication)
		})
	}
	if err != nil {
		return fmt.Errorf("move roster: %w", err)
	}
	return nil
}

func (c *Conn) publish(roster []byte, next fence.Published) error {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	switch fence.Publish(c.store.published(), next) {
	case fence.Superseded:
		return store.ErrSuperseded
	case fence.Mismatch:
		return fmt.Errorf("revision %d: %w", next.Revision, store.ErrRevision)
	case fence.Applied:
	}
	c.store.roster = roster
	return nil
}

// DrawTick begins counts under a new name.
func (c *Conn) DrawTick(context.Context) error {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	c.store.tick = fence.Tick{ID: store.Draw()}
	return nil
}

// Ticks reads the count.
func (c *Conn) Ticks(context.Context) (all fence.Ticks, err error) {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	all[0] = c.store.tick
	return all, nil
}

// Early fences keys for transactions that may not be visible yet (D1), and leaves a fence where nothing is stored.
func (c *Conn) Early(_ context.Context, keys []store.Stamped) (result store.Result, err error) {
	for i := range keys {
		result.Count(c.store.early(&keys[i]))
	}
	return result, nil
}

// Apply does a batch: INTENT, then the keys are confirmed, then ADVANCE, in this order. An error means that nothing may be
// counted as confirmed; what was removed nevertheless does no harm.
func (c *Conn) Apply(ctx context.Context, b store.Batch) (result store.Result, err error) {
	raise := b.Raise(b.Names, b.Epochs, b.Keys)
	err = c.write("apply batch", func(s fence.Shard) (fence.Shard, fence.HeadOutcome) {
		return fence.Intent(s, c.expected(b.Expect), raise, b.Si)
	})
	if err != nil {
		return store.Result{}, err
	}
	if result.Ticks, err = c.Ticks(ctx); err != nil {
		return store.Result{}, err
	}
	for _, name := range b.Names {
		if c.store.unlink(name) {
			result.Removed++
		}
	}
	for _, name := range b.Epochs {
		if c.store.unlink(name) {
			result.Ended++
		}
	}
	for i := range b.Keys {
		result.Count(c.store.confirm(&b.Keys[i]))
	}
	if b.Advance == 0 {
		return result, nil
	}
	return result, c.write("apply batch", func(s fence.Shard) (fence.Shard, fence.HeadOutcome) {
		return fence.Advance(s, c.expected(b.Expect), b.Advance, b.Sa, b.Ticks[0])
	})
}
