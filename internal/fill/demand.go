package fill

import (
	"errors"
	"fmt"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/mvcc"
)

// Demand is what a read asks of its value beyond being one that is maintained. What a cached value cannot be shown to meet
// comes from the database. The zero Demand asks nothing.
type Demand struct {
	After    []mvcc.Token // contain these transactions
	Session  *Session     // be no older than what the session has seen
	Bounded  bool         // miss nothing that was committed more than MaxStale before the read began
	MaxStale time.Duration
	// Revalidate asks for what the database has now, by a statement that begins after the call. It fills the cache like a
	// miss, and a value that is cached is not fetched if it is still right.
	Revalidate bool
	Reload     bool // come from the database by a load that begins after the call, and replace what is cached, which the reader cannot use
	Fresh      bool // be no stale one, which only an entry that says so serves, and only to a read that asks nothing else
	Past       bool // come from the database by a load of its own, which begins after the call and fills nothing
}

var (
	// ErrTokenNotReached is the error of a read that has to contain a transaction which the database did not show within
	// the load timeout: it is not committed, hangs in synchronous replication, or was never begun.
	ErrTokenNotReached = errors.New("the database does not show the transaction that the read has to contain")
	// ErrForeignToken is the error of a token, or a session, of another database cluster.
	ErrForeignToken = errors.New("the token is of another database cluster")
)

// need is the demand of one read, with what its session had seen when it began.
type need struct {
	tokens  []mvcc.Token
	session *Session
	seen    mvcc.Snapshot
	server  pgload.Server // whom seen is of
	span    span
	bounded bool
	stale   time.Duration
	past    bool
	sent    time.Duration // of a bounded one: by the Reader's clock, before anything was asked
	verify  bool          // by the database, whatever HEAD says
	// compares: a cached value that does not meet the need is compared with the database's, and not just replaced by it.
	compares bool
}

// need resolves a demand, nil when nothing is asked.
func (r *Reader) need(e *declared, d *Demand) *need {
	if len(d.After) == 0 && d.Session == nil && !d.Bounded && !d.Revalidate && !d.Reload && !d.Past {
		return nil
	}
	n := &need{
		tokens: d.After, session: d.Session, bounded: d.Bounded, stale: d.MaxStale, past: d.Past, compares: e.revalidates(d),
	}
	if d.Revalidate || d.Reload || e.coversNone() { // no snapshot says how new the value is
		n.verify, n.bounded, n.stale = true, true, 0
	}
	if n.bounded {
		n.sent = r.clock()
	}
	if d.Session != nil {
		d.Session.ask(n)
	}
	return n
}

// vouched reports whether a live value that was read after HEAD meets the need. The names are HEAD's.
func (r *Reader) vouched(n *need, lane int, head *fence.Head, c fence.Coverage) bool {
	for _, t := range n.tokens {
		if !fence.Contains(head, c, t) {
			return false
		}
	}
	if n.span.last != 0 && !fence.ContainsAll(head, c, n.span.server.System, n.span.server.Timeline, n.span.first, n.span.last) {
		return false
	}
	if n.session != nil {
		if !n.seen.IsZero() && n.server != (pgload.Server{System: head.System, Timeline: head.Timeline}) {
			return false
		}
		if !fence.Follows(head, c, n.seen) {
			return false
		}
	}
	return !n.bounded || !n.verify && r.bounds(n, lane, head, c)
}

// bounds reports whether a live value is within the bound: because HEAD has reached a count that this process asked for, or
// because the value contains what a load of this process has seen.
func (r *Reader) bounds(n *need, lane int, head *fence.Head, c fence.Coverage) bool {
	now := r.clock()
	return head.Tick.ID != "" && r.ticks[lane].prove(head.Tick, now, n.stale) ||
		r.sights.prove(pgload.Server{System: head.System, Timeline: head.Timeline}, c, now, n.stale)
}

// asksNothingOfHead reports that no cached value can meet the need, whatever HEAD says: the database is to be asked.
func (n *need) asksNothingOfHead() bool {
	return n.verify && len(n.tokens) == 0 && n.session == nil
}

// covered reports whether the live value in a LEASE's answer meets the need by what it covers alone: what HEAD vouches for
// says nothing about a value that was read before it, only whose transaction ids are in its coverage. A nil need is met.
func (r *Reader) covered(n *need, c *confirmation, reply *store.LeaseReply) bool {
	if n == nil {
		return true
	}
	h := &reply.Head
	return reply.HeadFound && h.Generation == c.names.generation &&
		r.vouched(n, 0, &fence.Head{System: h.System, Timeline: h.Timeline}, reply.Record.Coverage)
}

// shown says whether a load, or the snapshot of one, meets the need: nil when it does, ErrTokenNotReached when a later
// one may, and any other error when none will.
func (n *need) shown(server pgload.Server, snapshot mvcc.Snapshot) error {
	if n.bounded && snapshot.IsZero() {
		return fmt.Errorf("%w: a standby answered, whose rows may be older than what was asked for", ErrUnavailable)
	}
	for _, t := range n.tokens {
		switch {
		case t.System != server.System:
			return fmt.Errorf("%w: of %s, and the database is %s", ErrForeignToken, t.System, server.System)
		case server.Timeline < t.Timeline || !snapshot.Sees(t.XID):
			return fmt.Errorf("%w: transaction %s", ErrTokenNotReached, t.XID)
		}
	}
	if n.session == nil {
		return nil
	}
	switch {
	case n.span.last != 0 && n.span.server.System != server.System:
		return fmt.Errorf("%w: the session was told of %s, and the database is %s", ErrForeignToken, n.span.server.System, server.System)
	case n.span.last != 0 && !n.span.seenUnder(server, snapshot):
		return fmt.Errorf("%w: those from %s to %s, some of which the session was told of", ErrTokenNotReached, n.span.first, n.span.last)
	case !n.seen.IsZero() && n.server.System != server.System:
		return fmt.Errorf("%w: the session has seen %s, and the database is %s", ErrForeignToken, n.server.System, server.System)
	case snapshot.IsZero() || server.Timeline < n.server.Timeline || !snapshot.Dominates(n.seen):
		return fmt.Errorf("%w: what the session has seen", ErrTokenNotReached)
	}
	return nil
}

// precedes reports that a flight began before what the need allows: its row is not worth waiting for.
func (n *need) precedes(f *flight) bool { return n != nil && n.bounded && f.sent < n.sent-n.stale }

// joins reports whether the row of a flight that another read began meets the need. A nil need is met.
func (n *need) joins(f *flight) bool {
	switch {
	case n == nil, f.err != nil: // the database's failure is everybody's
		return true
	case n.precedes(f):
		return false
	}
	return n.shown(f.loaded.Server, f.loaded.Coverage.Snapshot) == nil
}
