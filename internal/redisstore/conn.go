package redisstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"sync"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/mvcc"
)

// Conn is what the daemon writes through: one connection to a server, or one to each node of a cluster that owns lanes. None of
// them silently becomes another. It is used by one goroutine at a time.
//
// In a cluster a lane may be lost while the others go on: its slot is being moved or has been, its node failed over. Nothing that
// was confirmed in it can be vouched for then. It is closed, and Mend begins it anew.
type Conn struct {
	store *Store
	lanes []*lane // by number
	self  Expected
	dials map[string]chan dialled // to nodes that lanes came to
}

// lane is a lane as this daemon knows it.
type lane struct {
	number int
	link   *link  // nil: its node was not reached
	replid string // the history in which it was claimed or begun

	open       bool     // in a cluster: HEAD is this daemon's, and as expected
	generation string   // in a cluster: the lane's own
	wc         mvcc.LSN // in a cluster: HEAD's

	// Of the operation that is under way:
	err    error
	reply  headReply
	result Result
	tick   fence.Tick
}

// Connect opens a Conn. Nodes of a cluster that are away leave their lanes closed, unless all of them are.
func (s *Store) Connect(ctx context.Context) (*Conn, error) {
	c := &Conn{store: s, dials: map[string]chan dialled{}}
	for i := range s.lanes {
		c.lanes = append(c.lanes, &lane{number: i})
	}
	var err error
	if s.cluster != nil {
		err = c.reachAll(ctx)
	} else {
		err = c.reachOne(ctx)
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("connect: %w", err)
	}
	return c, nil
}

func (c *Conn) reachOne(ctx context.Context) error {
	client, err := c.store.dedicate()
	if err != nil {
		return err
	}
	c.lanes[0].link = &link{client: client, known: map[string]bool{}}
	return c.Ping(ctx)
}

// Close ends the connections.
func (c *Conn) Close() {
	for _, l := range c.links(c.lanes) {
		l.end(fmt.Errorf("%w: connection closed", ErrUnavailable))
	}
	for _, dial := range c.dials {
		if d := <-dial; d.link != nil {
			d.link.end(ErrUnavailable)
		}
	}
	clear(c.dials)
}

// Ping asks the servers for a sign of life.
func (c *Conn) Ping(ctx context.Context) error {
	for _, l := range c.links(c.lanes) {
		if _, err := l.do(ctx, []rueidis.Completed{l.client.B().Ping().Build()}); err != nil {
			return err
		}
	}
	return nil
}

// Replid is the name of the server's history that the last Claim or NewGeneration found. In a cluster, where each lane has its own, it
// is empty, like that which Store.Replid says.
func (c *Conn) Replid() string {
	if len(c.lanes) > 1 {
		return ""
	}
	return c.lanes[0].replid
}

// Generations are the lanes' own, by which their names are spelled; nil for one server. Nothing can be confirmed in a lane that is closed.
func (c *Conn) Generations() []string {
	if len(c.lanes) == 1 {
		return nil
	}
	all := make([]string, len(c.lanes))
	for i, k := range c.lanes {
		all[i] = k.generation
	}
	return all
}

// Closed is how many lanes are closed.
func (c *Conn) Closed() (n int) {
	if len(c.lanes) == 1 {
		return 0
	}
	for _, k := range c.lanes {
		if !k.open {
			n++
		}
	}
	return n
}

// links are the connections of the lanes.
func (c *Conn) links(lanes []*lane) []*link {
	var all []*link
	for _, k := range lanes {
		if k.link != nil && !slices.Contains(all, k.link) {
			all = append(all, k.link)
		}
	}
	return all
}

// reached are the lanes whose nodes are connected to.
func (c *Conn) reached() []*lane {
	return slices.DeleteFunc(slices.Clone(c.lanes), func(k *lane) bool { return k.link == nil })
}

// working are the lanes that are open. One whose owner is another node now, as others say, is lost: what is written to the old
// one may be read by nobody.
func (c *Conn) working() []*lane {
	if len(c.lanes) == 1 {
		return c.lanes
	}
	owners := &c.store.cluster.table.Load().lanes
	all := make([]*lane, 0, len(c.lanes))
	for _, k := range c.lanes {
		if k.open && owners[k.number].address != k.link.address {
			c.shut(k, fmt.Errorf("%w: node %s has it, not %s", ErrMoved, owners[k.number].address, k.link.address))
		}
		if k.open {
			all = append(all, k)
		}
	}
	return all
}

// shut closes a lane.
func (c *Conn) shut(k *lane, why error) {
	if !k.open {
		return
	}
	k.open = false
	c.store.logger.Warn("a lane of the cluster is lost; what is cached in it is given up",
		slog.Int("lane", k.number), slog.Int("slot", fence.Slot(k.number)), slog.Any("cause", why))
}

// over runs do for every connection with those of the lanes that are kept on it, all at a time.
func (c *Conn) over(lanes []*lane, do func(l *link, lanes []*lane)) {
	for _, k := range lanes {
		k.err = nil
	}
	links := c.links(lanes)
	if len(links) == 1 {
		do(links[0], lanes)
		return
	}
	var running sync.WaitGroup
	for _, l := range links {
		some := slices.DeleteFunc(slices.Clone(lanes), func(k *lane) bool { return k.link != l })
		running.Go(func() { do(l, some) })
	}
	running.Wait()
}

// outcome is what came of an operation over lanes: those that are lost by it are closed, and any other error is everybody's, as is
// that no lane is left.
func (c *Conn) outcome(lanes []*lane) error {
	if len(c.lanes) == 1 {
		return c.lanes[0].err
	}
	var last error
	for _, k := range lanes {
		if k.err == nil {
			continue
		}
		last = fmt.Errorf("lane %d: %w", k.number, k.err)
		if !losesLane(k.err) {
			return last
		}
		c.store.cluster.doubt(k.number, k.err)
		c.shut(k, k.err)
		if k.link != nil && k.link.broken.Load() != nil {
			k.link = nil // another one is dialled by whoever mends the lane
		}
	}
	if c.Closed() == len(c.lanes) {
		if last == nil {
			last = errNoLanes
		}
		return last
	}
	return nil
}

var errNoLanes = fmt.Errorf("%w: no lane of the cluster is open", ErrUnavailable)

// losesLane reports whether an error means that a lane is not where it was, or not what it was, or that its node hangs. A connection
// that breaks does not: HEAD is compared once there is another, which takes no time. A node that says nothing for nodeTimeout would hold
// up the other lanes for as long as it hangs. What it may still do of what it was sent does no harm: whatever writes HEAD names the
// lane's generation, which is over once the lane is begun anew.
func losesLane(err error) bool {
	var mismatch *MismatchError
	return errors.Is(err, ErrMoved) || errors.Is(err, ErrReadOnly) || errors.Is(err, ErrLoading) || errors.Is(err, os.ErrDeadlineExceeded) ||
		errors.As(err, &mismatch)
}

// heads calls a script on the HEADs of lanes.
func (c *Conn) heads(ctx context.Context, verb string, s script, lanes []*lane, args func(*lane) []string) {
	c.headsAndTicks(ctx, verb, s, lanes, args, func(*lane) bool { return false })
}

// headsAndTicks does, and reads the counts of some of the lanes besides.
func (c *Conn) headsAndTicks(
	ctx context.Context, verb string, s script, lanes []*lane, args func(*lane) []string, counted func(*lane) bool,
) {
	c.over(lanes, func(l *link, lanes []*lane) {
		replies, err := l.run(ctx, []script{s}, func() []rueidis.Completed {
			commands := make([]rueidis.Completed, 0, 2*len(lanes))
			for _, k := range lanes {
				commands = append(commands, l.eval(s, c.store.headKeys(k.number), args(k)...))
				if counted(k) {
					commands = append(commands, c.readTick(l, k))
				}
			}
			return commands
		})
		for _, k := range lanes {
			if replies == nil {
				k.err = fmt.Errorf("%s: %w", verb, err)
				continue
			}
			k.reply, k.err = parseHeadReply(replies[0])
			replies = replies[1:]
			if counted(k) {
				var wrong error
				if k.tick, wrong = parseTick(replies[0]); k.err == nil {
					k.err = wrong
				}
				replies = replies[1:]
			}
			if k.err != nil {
				k.err = fmt.Errorf("%s: %w", verb, k.err)
			}
		}
	})
}

// Claim makes the store obey term, and reads HEAD in the same step. It fails with ErrSuperseded when a later daemon
// was there. Where there is no HEAD nothing is claimed: the daemon begins a generation. In a cluster HEAD is what those lanes say
// that are of the latest daemon's generation and where they were; the others are closed.
func (c *Conn) Claim(ctx context.Context, term fence.Term) (fence.Head, bool, error) {
	lanes := c.reached()
	c.heads(ctx, "claim head", c.store.scripts.claim, lanes, func(*lane) []string { return []string{string(term)} })
	said := make([]fence.Head, c.store.lanes)
	for _, k := range lanes {
		switch {
		case k.err != nil && len(c.lanes) > 1 && losesLane(k.err):
			continue
		case k.err != nil:
			return fence.Head{}, false, k.err
		case k.reply.outcome == fence.Superseded:
			return k.reply.head, true, fmt.Errorf("claim head: %w", ErrSuperseded)
		case k.reply.replid == "":
			return fence.Head{}, false, fmt.Errorf("claim head: %w", ErrNoHistory)
		}
		k.replid = k.reply.replid
		if k.reply.outcome == fence.Applied {
			said[k.number] = k.reply.head
		}
	}
	if len(c.lanes) == 1 {
		head := c.lanes[0].reply.head
		if c.lanes[0].reply.outcome == fence.Applied {
			head.Term = term
		}
		return head, c.lanes[0].reply.found, nil
	}
	joined, found, split := fence.Join(said)
	if split {
		return fence.Head{}, false, fmt.Errorf("claim head: %w", ErrSplit)
	}
	for i := range joined.Lanes {
		h := &joined.Lanes[i]
		k := c.lanes[i]
		if k.open = h.Generation != ""; k.open {
			k.generation, k.wc, h.Term = h.Lane, h.Wc, term
		}
	}
	joined.Term = term
	c.self = Expected{Generation: joined.Generation, Term: term}
	return joined, found, nil
}

// NewGeneration writes HEAD whole. Nothing that was stored under the old generation is read any more.
func (c *Conn) NewGeneration(ctx context.Context, head fence.Head) error {
	return c.begin(ctx, c.reached(), head, "")
}

// Replace is NewGeneration over a HEAD whose term, foreign, is not of this history of the database. The roster goes as
// well, whose term would refuse the next one.
func (c *Conn) Replace(ctx context.Context, head fence.Head, foreign fence.Term) error {
	lanes := c.reached()
	if err := c.begin(ctx, lanes, head, foreign); err != nil {
		return err
	}
	c.over(lanes, func(l *link, lanes []*lane) {
		for _, k := range lanes {
			_, k.err = l.do(ctx, []rueidis.Completed{l.client.B().Unlink().Key(c.store.rosterKey(k.number)).Build()})
		}
	})
	if err := c.outcome(lanes); err != nil {
		return fmt.Errorf("remove the roster of another history: %w", err)
	}
	return nil
}

// begin writes HEAD whole in lanes, which are open then.
func (c *Conn) begin(ctx context.Context, lanes []*lane, head fence.Head, foreign fence.Term) error {
	c.self = Expected{Generation: head.Generation, Term: head.Term}
	drawn := map[*lane]string{}
	for _, k := range lanes {
		if c.store.lanes > 1 {
			drawn[k] = store.Draw()
		}
	}
	c.heads(ctx, "begin generation", c.store.scripts.begin, lanes, func(k *lane) []string {
		own := head
		own.Lane = drawn[k]
		return append([]string{string(head.Term), string(foreign)}, own.Fields()...)
	})
	for _, k := range lanes {
		if k.err == nil {
			if k.err = k.reply.err(); k.err != nil {
				k.err = fmt.Errorf("begin generation: %w", k.err)
			}
		}
		if k.err == nil {
			k.replid, k.open, k.generation, k.wc = k.reply.replid, true, drawn[k], head.Wc
		}
	}
	return c.outcome(lanes)
}

// expected is what HEAD of a lane is to be compared with.
func (c *Conn) expected(k *lane, e Expected) []string {
	if len(c.lanes) > 1 {
		e.Wc = k.wc
	}
	return []string{e.Generation + k.generation, string(e.Term), fence.LSNText(e.Wc), k.replid}
}

// Move publishes a roster: first the roster itself, then HEAD's revision, by which readers take it up, each in all lanes. Between the two
// readers find them different and go to the database. Processes that have the old roster go on for a moment; to wait
// for them is the caller's part (D7).
func (c *Conn) Move(ctx context.Context, e Expected, roster []byte, revision uint64, publication string) error {
	if err := c.move(ctx, c.working(), e, roster, revision, publication); err != nil {
		return fmt.Errorf("move roster: %w", err)
	}
	return nil
}

func (c *Conn) move(ctx context.Context, lanes []*lane, e Expected, roster []byte, revision uint64, publication string) error {
	// Compared first, so that a daemon that was superseded leaves the roster alone.
	if err := c.revise(ctx, lanes, e, "", publication); err != nil {
		return err
	}
	lanes = c.still(lanes)
	write := c.store.scripts.roster
	c.over(lanes, func(l *link, lanes []*lane) {
		replies, err := l.run(ctx, []script{write}, func() []rueidis.Completed {
			commands := make([]rueidis.Completed, len(lanes))
			for i, k := range lanes {
				commands[i] = l.eval(write, []string{c.store.rosterKey(k.number)},
					rueidis.BinaryString(roster), e.Generation, string(e.Term), strconv.FormatUint(revision, 10))
			}
			return commands
		})
		for i, k := range lanes {
			if k.err = err; replies != nil {
				k.err = written(replies[i], revision)
			}
		}
	})
	if err := c.outcome(lanes); err != nil {
		return err
	}
	return c.revise(ctx, c.still(lanes), e, fence.RevisionText(revision), publication)
}

// still are those of the lanes that are open.
func (c *Conn) still(lanes []*lane) []*lane {
	if len(c.lanes) == 1 {
		return lanes
	}
	return slices.DeleteFunc(slices.Clone(lanes), func(k *lane) bool { return !k.open })
}

// revise writes HEAD's revision, or compares HEAD when there is none.
func (c *Conn) revise(ctx context.Context, lanes []*lane, e Expected, revision, publication string) error {
	c.heads(ctx, "write revision", c.store.scripts.moved, lanes, func(k *lane) []string {
		return append(c.expected(k, e), revision, publication)
	})
	for _, k := range lanes {
		if k.err == nil {
			k.err = k.reply.err()
		}
	}
	return c.outcome(lanes)
}

// written reads the answer to the writing of a roster.
func written(reply rueidis.RedisResult, revision uint64) error {
	text, err := reply.ToString()
	switch {
	case err != nil:
		return typed(err)
	case text == fence.Applied.String():
		return nil
	case text == fence.Superseded.String():
		return ErrSuperseded
	}
	return fmt.Errorf("revision %d: %w", revision, ErrRevision)
}

// DrawTick begins counts under new names. Whoever writes ticks into HEAD does so first, on the connection that it
// claimed HEAD on: counts of one name are of one history of the store then. Without it, a reader that was left behind
// with a server which others have failed over from could have counted there what others count here.
func (c *Conn) DrawTick(ctx context.Context) error {
	if err := c.drawTick(ctx, c.working()); err != nil {
		return fmt.Errorf("begin to count ticks: %w", err)
	}
	return nil
}

func (c *Conn) drawTick(ctx context.Context, lanes []*lane) error {
	draw := c.store.scripts.draw
	first := fence.Tick{ID: store.Draw()}
	c.over(lanes, func(l *link, lanes []*lane) {
		replies, err := l.run(ctx, []script{draw}, func() []rueidis.Completed {
			commands := make([]rueidis.Completed, len(lanes))
			for i, k := range lanes {
				commands[i] = l.eval(draw, []string{c.store.tickKey(k.number)}, first.String())
			}
			return commands
		})
		for i, k := range lanes {
			if k.err = err; replies != nil {
				k.err = typed(replies[i].Error())
			}
		}
	})
	return c.outcome(lanes)
}

// Ticks reads the counts. In a cluster it compares HEAD as well: a slot may be on the move while there is nothing to write.
func (c *Conn) Ticks(ctx context.Context) (fence.Ticks, error) {
	lanes := c.working()
	if len(c.lanes) > 1 {
		c.headsAndTicks(ctx, "compare head", c.store.scripts.moved, lanes,
			func(k *lane) []string { return append(c.expected(k, c.self), "", "") }, func(*lane) bool { return true })
		for _, k := range lanes {
			if k.err == nil {
				k.err = k.reply.err()
			}
		}
	} else {
		k := c.lanes[0]
		replies, err := k.link.do(ctx, []rueidis.Completed{c.readTick(k.link, k)})
		if k.err = err; replies != nil {
			k.tick, k.err = parseTick(replies[0])
		}
	}
	if err := c.outcome(lanes); err != nil {
		return fence.Ticks{}, fmt.Errorf("read tick: %w", err)
	}
	return c.ticks(lanes), nil
}

func (c *Conn) ticks(lanes []*lane) (all fence.Ticks) {
	for _, k := range lanes {
		if len(c.lanes) == 1 || k.open {
			all[k.number] = k.tick
		}
	}
	return all
}

func (c *Conn) readTick(l *link, k *lane) rueidis.Completed {
	return l.client.B().Get().Key(c.store.tickKey(k.number)).Build()
}
