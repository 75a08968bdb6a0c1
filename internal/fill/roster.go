package fill

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/store"
)

const (
	// trust is T_r: how long after a confirming read was sent its answer is believed. The daemon waits longer than
	// this after it moved names.
	trust = time.Second
	// refreshAfter is the age at which a process that is reading has the roster confirmed in the background.
	refreshAfter = trust / 2
	// retryAfter is how long a store that failed is left alone.
	retryAfter = 250 * time.Millisecond
	// confirmTimeout bounds one confirmation, so that a store that hangs counts as one that is away. The first readers
	// after a pause wait for one.
	confirmTimeout = 400 * time.Millisecond
	// A move of names takes a daemon some milliseconds, in which HEAD and roster do not agree: so long, and in so many looks, a
	// confirmation waits for its end.
	movingPause, movingLooks = 2 * time.Millisecond, 5
	// retryMoving is how long names are left alone that were still on the move then.
	retryMoving = 20 * time.Millisecond
)

// confirmation is what was known of the names when sent, a time of store.Awake, began.
type confirmation struct {
	sent  time.Duration
	began time.Time // the same moment on the process's clock, which is cheaper to ask but stands still in suspension
	names *names    // nil: none are to be used, for why
	why   bypassReason
	parts *parts // of a cluster; nil: the store is one server

	under  *store.Under  // what is read elsewhere than there where it was confirmed must be of; nil where there are no names
	wires  []*store.Wire // by lane, on which it was confirmed, if what is read on them is held; nil: nothing is
	seen   *glance       // where there are wires
	ground *ground       // what a hit in memory rests on; nil where there are no wires, or no names
}

// names are a roster's live entries, with what a reader needs of each.
type names struct {
	generation string
	revision   uint64
	database   rule.Database      // that values are of; zero: the roster does not say
	entries    map[string]*live   // the version of each declared entry that its declaration agrees with, if there is one
	versions   map[string][]*live // every version of every entry
	retained   []use              // of entries, those that are served only while somebody registers that they are used
	head       fence.Head         // whose they are
}

type live struct {
	entry  *rule.Entry
	prefix string // of names on one server
	tail   string // the entry's part of it
	ties   *ties  // nil: what affects its values is in their own records
	// unversioned: the database has refused the query with row versions, say for want of a privilege on a column.
	unversioned atomic.Bool
	// apart: it has refused the query for many keys.
	apart atomic.Bool
}

func (c *confirmation) age() time.Duration { return store.Awake() - c.sent }

// live finds an entry under names that its declaration agrees with.
func (c *confirmation) live(e *declared) (*live, bypassReason) {
	if c.names == nil {
		return nil, c.why
	}
	l := c.names.entries[e.name]
	switch {
	case l == nil || len(l.entry.Params) != len(e.template.Params()):
		return nil, unknownDefinition
	case l.entry.Suspended != "":
		return nil, suspended
	}
	return l, 0
}

func (c *confirmation) same(d *confirmation) bool {
	return c.names != nil && d.names != nil && c.names.generation == d.names.generation && c.names.revision == d.names.revision
}

// names returns a confirmation that is at most trust old, or one that says why there is none (R0). Nobody waits for a
// store that has just failed: then the confirmer tries it in the background. called is when names was called; it costs
// a hit nothing, which asks the clock for the confirmation's age anyway.
func (r *Reader) names(ctx context.Context) (c *confirmation, called time.Time) {
	if c = r.confirmed.Load(); c != nil {
		age := time.Since(c.began) // stillConfirmed judges; this only saves a request
		called = c.began.Add(age)
		if c.names == nil && c.why == storeDown {
			if age >= retryAfter {
				r.refresh()
			}
			return c, called
		}
		if age < trust {
			if age >= refreshAfter || age >= retryAfter && c.parts != nil && c.parts.down || age >= retryMoving && c.moving() {
				r.refresh()
			}
			return c, called
		}
	} else {
		called = time.Now()
	}
	select {
	case r.asking <- struct{}{}:
		defer func() { <-r.asking }()
	case <-ctx.Done():
		return &confirmation{why: callerGone}, called
	}
	if c := r.confirmed.Load(); c != nil && (c.age() < trust || c.why == storeDown) {
		return c, called
	}
	return r.confirm(ctx), called
}

// stillConfirmed judges a reply that has just arrived (R0): the names under which it was asked for are still the
// confirmed ones, in the key's lane too, and the confirmation is fresh.
func (r *Reader) stillConfirmed(c *confirmation, lane int) bool {
	now := r.confirmed.Load()
	if c.parts != nil && (now.parts == nil || now.parts.prefixes[lane] != c.parts.prefixes[lane]) {
		return false
	}
	return c.same(now) && now.age() < trust
}

func (r *Reader) refresh() {
	select {
	case r.stale <- struct{}{}:
	default:
	}
}

// keepConfirmed confirms the roster whenever a reader asks for it, and registers what is to be registered then. A process that does not read makes no traffic.
func (r *Reader) keepConfirmed() {
	for {
		select {
		case <-r.closing:
			return
		case uses := <-r.uses:
			r.registerAll(uses)
			continue
		case <-r.stale:
		}
		r.asking <- struct{}{}
		c := r.confirmed.Load()
		if c == nil || c.age() >= refreshAfter || c.ailing() && c.age() >= retryAfter || c.moving() && c.age() >= retryMoving {
			r.confirm(context.Background())
		}
		<-r.asking
	}
}

// ailing reports that the store, or a part of it, did not answer.
func (c *confirmation) ailing() bool { return c.why == storeDown || c.parts != nil && c.parts.down }

// moving reports that names were found on the move.
func (c *confirmation) moving() bool { return c.names == nil && c.why == namesMoved }

// settled is names, once they are not on the move. Whoever has confirmed them just before hits under those that stay, so they are not nobody's.
func (r *Reader) settled(ctx context.Context) (*confirmation, error) {
	for {
		c, _ := r.names(ctx)
		if !c.moving() {
			return c, nil
		}
		select {
		case <-time.After(movingPause):
			r.expire(c)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// expire ends a confirmation that is known to be wrong, so that the next read confirms.
func (r *Reader) expire(c *confirmation) {
	r.confirmed.CompareAndSwap(c, &confirmation{sent: c.sent - trust, began: c.began.Add(-trust), why: namesMoved})
}

// failed says how the cache is bypassed after an error of the store. One that does not answer is left alone for a
// while, unless another reader already noticed or a later confirmation has just succeeded. One that did before the store
// hung does not count: readers under it would all wait anew.
func (r *Reader) failed(c *confirmation, lane int, err error) bypassReason {
	switch {
	case errors.Is(err, store.ErrOutOfMemory):
		return storeFull
	case !unavailable(err):
		r.logger.Debug("store refuses a command", slog.String("error", err.Error()))
		return storeRefuses
	case r.lanesOf > 1:
		r.lost(lane, err)
		return storeDown
	}
	if now := r.confirmed.Load(); now != nil && now.names != nil && now.age() >= retryAfter {
		c = now
	}
	if r.confirmed.CompareAndSwap(c, &confirmation{sent: store.Awake(), began: time.Now(), why: storeDown}) {
		r.logger.Warn("store is away, reading from the database", slog.String("error", err.Error()))
	}
	return storeDown
}

func unavailable(err error) bool { return errors.Is(err, store.ErrUnavailable) }

// confirm reads HEAD, and the roster when HEAD names another one than is known. The caller holds asking.
func (r *Reader) confirm(ctx context.Context) *confirmation {
	timeout, cancel := context.WithTimeout(ctx, r.confirmWithin)
	defer cancel()
	before := r.confirmed.Load()
	next := &confirmation{sent: store.Awake(), began: time.Now()}
	err := r.confirmNames(timeout, before, next)
	for look := 1; err == nil && next.moving() && look < movingLooks; look++ {
		select {
		case <-time.After(movingPause):
			*next = confirmation{sent: store.Awake(), began: time.Now()}
			err = r.confirmNames(timeout, before, next)
		case <-timeout.Done():
			err = timeout.Err()
		}
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return &confirmation{why: callerGone} // says nothing about the store
	case err != nil:
		next.names, next.why, next.sent, next.began = nil, storeDown, store.Awake(), time.Now()
		if before == nil || before.why != storeDown {
			r.logger.WarnContext(ctx, "store is away, reading from the database", slog.String("error", err.Error()))
		}
	case before != nil && before.why == storeDown:
		r.logger.InfoContext(ctx, "store is back")
	}
	r.refuseElsewhere(ctx, before, next)
	next.settle(before)
	r.announce(ctx, before, next)
	r.confirmed.Store(next)
	r.register(before, next)
	return next
}

func (r *Reader) confirmNames(ctx context.Context, before, next *confirmation) error {
	heads := r.store.Heads(ctx)
	if r.near != nil {
		next.wires, next.seen = wiresOf(heads), newGlance()
	}
	head, found, err := store.JoinHeads(heads)
	switch {
	case errors.Is(err, store.ErrSplit):
		next.why = namesMoved
		return nil
	case err != nil:
		return err
	case !found:
		next.why = noHead
		return nil
	}
	defer func() {
		if next.names == nil {
			return
		}
		next.under = &store.Under{Generation: head.Generation, Revision: head.Revision, Wc: head.Wc, Trust: trust}
		if len(heads) > 1 {
			next.parts = r.newParts(heads, next.names)
		}
	}()
	if before != nil && before.names != nil && before.names.generation == head.Generation && before.names.revision == head.Revision {
		next.names = before.names
		return nil
	}
	text, found, err := r.store.Roster(ctx)
	if err != nil {
		return err
	}
	if !found {
		next.why = noRoster
		return nil
	}
	roster, err := rule.ParseRoster(text)
	if err != nil {
		r.logger.ErrorContext(ctx, "roster is not readable, reading from the database and storing nothing", slog.String("error", err.Error()))
		next.why = noRoster
		if errors.Is(err, rule.ErrFormat) {
			next.why = unknownFormat
		}
		return nil
	}
	if lanes := max(roster.Lanes, 1); lanes != r.lanesOf {
		r.logger.ErrorContext(ctx, "the daemon keeps the cache in another number of lanes, reading from the database and storing nothing",
			slog.Int("lanes", r.lanesOf), slog.Int("of_the_daemon", lanes))
		next.why = unknownFormat
		return nil
	}
	if roster.Generation != head.Generation || roster.Revision != head.Revision {
		// The daemon writes the roster before HEAD's revision; until both agree, nothing is live.
		next.why = namesMoved
		return nil
	}
	next.names = r.compile(roster)
	next.names.head = headOf(&head)
	return nil
}

func (r *Reader) newLive(roster *rule.Roster, e *rule.Entry) *live {
	return &live{entry: e, prefix: rule.KeyPrefix(r.namespace, roster.Generation, e), tail: rule.KeyTail(e), ties: newTies(e)}
}

func (r *Reader) compile(roster *rule.Roster) *names {
	n := &names{generation: roster.Generation, revision: roster.Revision, entries: map[string]*live{}, versions: map[string][]*live{}}
	if roster.Database != nil {
		n.database = *roster.Database
	}
	for version := range roster.Versions() {
		n.versions[version.Name] = append(n.versions[version.Name], r.newLive(roster, version))
	}
	for name, e := range r.entries {
		version := roster.Version(name, e.digest)
		if version == nil {
			continue
		}
		n.entries[name] = r.newLive(roster, version)
		if version.Retained != 0 {
			n.retained = append(n.retained, use{name, e.digest})
		}
		if len(e.template.Params()) == len(version.Params) {
			e.seen.Store(&version.Params)
			e.batch.Store(version.Batch)
		}
	}
	return n
}

// Ready says whether the cache can be used at present, and if not why. It asks the store when that is due.
func (r *Reader) Ready(ctx context.Context) error {
	if c, _ := r.names(ctx); c.names == nil {
		return fmt.Errorf("the cache is bypassed: %s", c.why)
	}
	return nil
}
