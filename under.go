package freshet

import (
	"context"
	"time"

	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/mvcc"
)

// Token names a transaction, for reads that have to contain it. Its text can be handed to anybody.
type Token = mvcc.Token

// ParseToken reads a token's text.
func ParseToken(text string) (Token, error) { return mvcc.ParseToken(text) }

// ReadOption asks something of one read, beyond a value that is kept fresh. What a cached value cannot be shown to meet
// is read from the database. Several options are all met.
type ReadOption struct {
	after   Token
	through *Session
	bounded bool
	stale   time.Duration
	verify  bool
	bypass  bool
	reload  bool // whatever is cached is of no use to the reader, and to be replaced
	fresh   bool
}

// After has a read contain the transaction that the token names. One that the database does not show yet is waited for,
// within the entry's load_timeout; then the error is ErrTokenNotReached. A token of another database is ErrForeignToken.
func After(token Token) ReadOption { return ReadOption{after: token} }

// MaxStale has a read miss nothing that was committed more than d before it began. A cached value is returned only if the
// daemon's account proves as much; no clock but this process's decides.
func MaxStale(d time.Duration) ReadOption { return ReadOption{bounded: true, stale: max(d, 0)} }

// Revalidate has a read return what the database has now: it asks, by a statement that begins after the call. Where a value
// is cached the database is asked whether it has another, and sends it only then; either way the cache has what is right
// afterwards, and knows since when.
func Revalidate() ReadOption { return ReadOption{verify: true} }

// NoStale has a read return nothing that was invalidated, although the entry may serve that for a while (on_change:
// serve_stale, serve_stale_on_error). Reads with any other option do not return it either.
func NoStale() ReadOption { return ReadOption{fresh: true} }

// Bypass has a read ask the database, past the cache, which it leaves as it is.
func Bypass() ReadOption { return ReadOption{bypass: true} }

// Through has a read follow a session: it returns nothing that is older than what the session has seen, and the session
// has seen it then. A read goes through one session, the last that is named.
func Through(s *Session) ReadOption { return ReadOption{through: s} }

// Session makes reads monotonic: each is at least as new as all those through the session that had returned when it began,
// whatever keys they read; and it contains every transaction whose token the session was told of. It may be used from any
// number of goroutines, and needs no closing. What a session has seen is of bounded size.
type Session struct{ session fill.Session }

// Session begins a session that has seen nothing.
func (c *Cache) Session() *Session { return &Session{} }

// Observe has later reads through the session contain the transaction that the token names.
func (s *Session) Observe(token Token) { s.session.Observe(token) }

// read reads what the options ask for.
func (t *Typed[K, V]) read(ctx context.Context, r *request[K], load fill.LoadFunc, options []ReadOption) (fill.Value, error) {
	if len(options) == 0 {
		return t.cache.reader.Read(ctx, t.name, r, load)
	}
	return t.cache.reader.ReadUnder(ctx, t.name, r, load, demand(options))
}

// demand is what the options ask for together.
func demand(options []ReadOption) *fill.Demand {
	var d fill.Demand
	for _, o := range options {
		if !o.after.IsZero() {
			d.After = append(d.After, o.after)
		}
		if o.through != nil {
			d.Session = &o.through.session
		}
		if o.bounded && (!d.Bounded || o.stale < d.MaxStale) {
			d.Bounded, d.MaxStale = true, o.stale
		}
		d.Revalidate = d.Revalidate || o.verify
		d.Past = d.Past || o.bypass
		d.Reload = d.Reload || o.reload
		d.Fresh = d.Fresh || o.fresh
	}
	return &d
}
