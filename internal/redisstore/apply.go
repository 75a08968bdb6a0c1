package redisstore

import (
	"context"
	"fmt"
	"slices"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/fence"
)

// share is a lane's part of a batch.
type share struct {
	*lane
	names, epochs []string
	keys          []Stamped
}

// shares gives each open lane its part. What belongs to a lane that is closed is left out: the lane is begun anew, and has no
// such key then.
func (c *Conn) shares(lanes []*lane, b *Batch) []share {
	all := make([]share, len(lanes))
	if len(c.lanes) == 1 {
		all[0] = share{lane: lanes[0], names: b.Names, epochs: b.Epochs, keys: b.Keys}
		return all
	}
	var at [fence.Lanes]*share
	for i, k := range lanes {
		all[i].lane = k
		at[k.number] = &all[i]
	}
	for _, name := range b.Names {
		if n, ok := fence.LaneIn(c.store.namespace, name); ok && at[n] != nil {
			at[n].names = append(at[n].names, name)
		}
	}
	for _, name := range b.Epochs {
		if n, ok := fence.LaneIn(c.store.namespace, name); ok && at[n] != nil {
			at[n].epochs = append(at[n].epochs, name)
		}
	}
	for _, key := range b.Keys {
		if n, ok := fence.LaneIn(c.store.namespace, key.Name); ok && at[n] != nil {
			at[n].keys = append(at[n].keys, key)
		}
	}
	return all
}

// order is one command of a batch: an UNLINK of names, or a script on a key.
type order struct {
	*lane
	names []string
	ends  bool // they are epochs
	key   *Stamped
}

func orders(shares []share) []order {
	count := 0
	for i := range shares {
		count += (len(shares[i].names)+len(shares[i].epochs))/namesPerUnlink + 2 + len(shares[i].keys)
	}
	all := make([]order, 0, count)
	for i := range shares {
		s := &shares[i]
		for some := range slices.Chunk(s.names, namesPerUnlink) {
			all = append(all, order{lane: s.lane, names: some})
		}
		for some := range slices.Chunk(s.epochs, namesPerUnlink) {
			all = append(all, order{lane: s.lane, names: some, ends: true})
		}
		for j := range s.keys {
			all = append(all, order{lane: s.lane, key: &s.keys[j]})
		}
	}
	return all
}

// together is how many of the orders go into one pipeline.
func together(all []order) int {
	unlinks, keys := 0, 0
	for i := range all {
		if all[i].key == nil {
			unlinks++
		} else {
			keys++
		}
		if unlinks > unlinksPerPipeline || keys > keysPerPipeline {
			return i
		}
	}
	return len(all)
}

// Early fences keys for transactions that may not be visible yet (D1), and leaves a fence where nothing is stored.
func (c *Conn) Early(ctx context.Context, keys []Stamped) (Result, error) {
	lanes := c.working()
	shares := c.shares(lanes, &Batch{Keys: keys})
	early := c.store.scripts.early
	c.confirm(ctx, lanes, shares, nil, early, func(k *Stamped) []string { return stampArgs(k, millis(fenceLife), "1") })
	result, err := c.sum(lanes), c.outcome(lanes)
	if err != nil {
		return result, fmt.Errorf("fence early: %w", err)
	}
	return result, nil
}

// Apply does a batch: INTENT, then the keys are confirmed, then ADVANCE, in this order on this connection. An error
// means that nothing may be counted as confirmed; what was removed nevertheless does no harm.
//
// In a cluster INTENT goes to the lanes that have keys in the batch, and ADVANCE to all. Where those are on several nodes these are three
// phases: every INTENT is answered before anything is confirmed, and all of that before any ADVANCE.
func (c *Conn) Apply(ctx context.Context, b Batch) (Result, error) {
	lanes := c.working()
	shares := c.concerned(c.shares(lanes, &b), &b)
	told := make([]*lane, len(shares))
	for i := range shares {
		told[i] = shares[i].lane
	}
	intent := func(s *share) []string {
		return slices.Concat(c.expected(s.lane, b.Expect), []string{fence.LSNText(b.Wi), fence.SnapshotText(b.Si)},
			raised(b.Raise(s.names, s.epochs, s.keys)))
	}
	confirm := c.store.scripts.confirm
	stamps := func(k *Stamped) []string { return stampArgs(k, millis(leaseMargin)) }
	if len(c.links(told)) > 1 {
		c.confirm(ctx, told, shares, intent, confirm, nil)
		if err := c.outcome(told); err != nil {
			return Result{}, fmt.Errorf("apply batch: %w", err)
		}
		shares = slices.DeleteFunc(shares, func(s share) bool { return !s.open })
		told = c.still(told)
		intent = nil
	}
	c.confirm(ctx, told, shares, intent, confirm, stamps)
	result, err := c.sum(told), c.outcome(told)
	if err == nil && b.Advance != 0 {
		// Not in the same pipeline: a server that refuses the UNLINK (its access control may) would still advance, and what
		// was not deleted would count as confirmed.
		err = c.advance(ctx, c.still(lanes), told, &b)
	}
	if err != nil {
		return result, fmt.Errorf("apply batch: %w", err)
	}
	result.Ticks = c.ticks(lanes)
	return result, nil
}

// concerned are the shares of the lanes that get INTENT: those that have keys or epochs, whose floors rise, and whose Si has to see what is
// confirmed of them. The others' HEADs are compared by ADVANCE. When there is none, nothing else would notice in time that a lane is lost.
func (c *Conn) concerned(shares []share, b *Batch) []share {
	if len(c.lanes) == 1 || b.All || b.Advance == 0 {
		return shares
	}
	return slices.DeleteFunc(shares, func(s share) bool { return len(s.names)+len(s.epochs)+len(s.keys) == 0 })
}

// advance is ADVANCE. It reads the ticks of the lanes whose have not been read with INTENT.
func (c *Conn) advance(ctx context.Context, lanes, told []*lane, b *Batch) error {
	c.headsAndTicks(ctx, "advance head", c.store.scripts.advance, lanes, func(k *lane) []string {
		return append(c.expected(k, b.Expect), fence.LSNText(b.Advance), fence.SnapshotText(b.Sa), b.Ticks[k.number].String())
	}, func(k *lane) bool { return !slices.Contains(told, k) })
	for _, k := range lanes {
		if k.err == nil {
			k.err = k.reply.err()
		}
		if k.err == nil {
			k.wc = max(k.wc, b.Advance)
		}
	}
	return c.outcome(lanes)
}

// confirm sends what the lanes have to do, in as many pipelines as it takes: INTENT and the reading of the tick in the first one, when
// intent is given, and what confirms keys, when stamps is. What comes of it is in the lanes.
func (c *Conn) confirm(
	ctx context.Context, lanes []*lane, shares []share, intent func(*share) []string, s script, stamps func(*Stamped) []string,
) {
	for _, k := range lanes {
		k.result = Result{}
	}
	c.over(lanes, func(l *link, lanes []*lane) {
		mine := shares
		if len(c.lanes) > 1 {
			mine = slices.DeleteFunc(slices.Clone(shares), func(s share) bool { return s.link != l })
		}
		var todo []order
		if stamps != nil {
			todo = orders(mine)
		}
		for first := intent != nil; first || len(todo) > 0; first = false {
			some := todo[:together(todo)]
			todo = todo[len(some):]
			if !c.pipeline(ctx, l, lanes, mine, first, intent, some, s, stamps) {
				return
			}
			// A lane that is lost gets nothing more.
			todo = slices.DeleteFunc(todo, func(o order) bool { return o.err != nil })
		}
	})
}

// pipeline sends one pipeline of confirm, and reports whether there were answers.
func (c *Conn) pipeline(
	ctx context.Context, l *link, lanes []*lane, shares []share, first bool, intent func(*share) []string,
	todo []order, s script, stamps func(*Stamped) []string,
) bool {
	called := make([]script, 0, 2)
	if first {
		called = append(called, c.store.scripts.intent)
	}
	if slices.ContainsFunc(todo, func(o order) bool { return o.key != nil }) {
		called = append(called, s)
	}
	replies, err := l.run(ctx, called, func() []rueidis.Completed {
		commands := make([]rueidis.Completed, 0, 2*len(shares)+len(todo))
		if first {
			for i := range shares {
				k := shares[i].lane
				commands = append(commands,
					l.eval(c.store.scripts.intent, c.store.headKeys(k.number), intent(&shares[i])...), c.readTick(l, k))
			}
		}
		for _, o := range todo {
			if o.key == nil {
				commands = append(commands, l.client.B().Unlink().Key(o.names...).Build())
			} else {
				commands = append(commands, l.eval(s, []string{o.key.Name}, stamps(o.key)...))
			}
		}
		return commands
	})
	if replies == nil {
		for _, k := range lanes {
			k.err = err
		}
		return false
	}
	if first {
		for i := range shares {
			k := shares[i].lane
			if k.reply, k.err = parseHeadReply(replies[2*i]); k.err == nil {
				k.err = k.reply.err()
			}
			tick, err := parseTick(replies[2*i+1])
			if k.tick = tick; k.err == nil {
				k.err = err
			}
		}
		replies = replies[2*len(shares):]
	}
	for i, o := range todo {
		removed := o.result.Removed
		if err := add(&o.result, replies[i], o.ends); o.err == nil {
			o.err = err
		}
		if o.key != nil && o.key.Live != nil && o.result.Removed > removed {
			*o.key.Live = true
		}
	}
	return true
}

// sum is what all lanes found and did.
func (c *Conn) sum(lanes []*lane) (all Result) {
	for _, k := range lanes {
		all.Removed += k.result.Removed
		all.Kept += k.result.Kept
		all.Ended += k.result.Ended
	}
	return all
}
