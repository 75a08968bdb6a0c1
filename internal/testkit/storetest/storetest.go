// Package storetest is what every store has to pass: the protocol as readers and the daemon see it, and random commands whose
// answers have to be those of internal/fence.
package storetest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/pipeline"
	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/internal/trace"
	"github.com/freshet/freshet/mvcc"
)

// Store is a store as those who use it see it, but for the connecting.
type Store interface { //nolint:interfacebloat // all that is tested
	fill.Store
	trace.Store
	Get(ctx context.Context, name string) (fence.Record, error)
	Head(ctx context.Context) (fence.Head, bool, error)
	Uses(ctx context.Context, uses []store.Use) (map[store.Use]string, error)
	Sweep(ctx context.Context, live func() store.Live) (int64, error)
	Replid(ctx context.Context) (string, error)
}

// Opened is a store under test, and ways around its interface. Those that are marked so may be missing.
type Opened struct {
	Store   Store
	Connect func(ctx context.Context) (pipeline.Conn, error)
	Close   func()

	Prefix string                // of the namespace, or of the one lane that is tested
	Lane   int                   // the one that is tested
	In     func(key string) bool // a record's key is of that lane
	Put    func(name, text string) error
	Remove func(name string) error
	TTL    func(name string) (time.Duration, error)
	Head   func() (map[string]string, error) // HEAD's fields, as they are stored
	Evict  func() error                      // removes HEAD

	// Believe has a connection take the history and the lane's generation for others. Missing: it cannot be wrong about them.
	Believe func(c pipeline.Conn, replid, lane string)
	// LaneOf is the lane's generation, as a connection knows it. Missing: there is none.
	LaneOf func(c pipeline.Conn) string
	// LaneReplid is the name of the history that the lane is in. Missing: it is the store's.
	LaneReplid func() string
	// Stray has HEAD say that it was begun in another history. Missing: no HEAD of this kind says where.
	Stray func() error
	// Disturb is called now and then before a command; nothing may depend on it. Optional.
	Disturb func() error
}

// Open opens an empty store of its own for each number.
type Open func(tb testing.TB, n int) *Opened

// generation is that of every HEAD that is begun here.
const generation = "00000000000000aa"

// Name is the name of a record.
func (o *Opened) Name(key string) string {
	for o.In != nil && !o.In(key) {
		key += "+"
	}
	return o.Prefix + generation + ":e.v.a:" + key
}

func (o *Opened) epoch(epoch string) string { return o.Prefix + generation + ":e.v.a" + epoch }

// Token is a token of one character.
func Token(c byte) fence.Token { return fence.Token(strings.Repeat(string(rune(c)), 32)) }

// Sees is a snapshot under which everything below x is visible.
func Sees(x mvcc.XID) mvcc.Snapshot { return mvcc.Snapshot{Xmin: x, Xmax: x} }

// world is a test's store.
type world struct {
	*Opened
	t *testing.T
}

func newWorld(t *testing.T, open Open) *world {
	t.Helper()
	t.Parallel()
	w := &world{Opened: open(t, 0), t: t}
	t.Cleanup(w.Close)
	return w
}

func (w *world) connect() pipeline.Conn {
	w.t.Helper()
	c, err := w.Connect(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(c.Close)
	return c
}

// begin is a HEAD that has confirmed everything up to 100, by a daemon of the given term.
func (w *world) begin(c pipeline.Conn, term fence.Term) fence.Head {
	w.t.Helper()
	if _, _, err := c.Claim(w.t.Context(), term); err != nil {
		w.t.Fatal(err)
	}
	h := fence.Head{
		Generation: generation, Term: term, Revision: 1, System: "7", Timeline: 1, Publication: "p",
		Wi: 100, Wc: 100, Si: Sees(10),
	}
	if err := c.NewGeneration(w.t.Context(), h); err != nil {
		w.t.Fatal(err)
	}
	return h
}

func expect(h fence.Head) store.Expected {
	return store.Expected{Generation: h.Generation, Term: h.Term, Wc: h.Wc}
}

func (w *world) apply(c pipeline.Conn, b store.Batch) store.Result {
	w.t.Helper()
	result, err := c.Apply(w.t.Context(), b)
	if err != nil {
		w.t.Fatalf("Apply: %v", err)
	}
	return result
}

// leased gets a lease or fails the test.
func (w *world) leased(name string, t fence.Token) store.LeaseReply {
	w.t.Helper()
	reply, err := w.Store.Lease(w.t.Context(), name, t, time.Minute)
	if err != nil {
		w.t.Fatal(err)
	}
	if !reply.Granted || reply.Holder != t {
		w.t.Fatalf("Lease(%s) is not granted: held by %s", name, reply.Holder)
	}
	return reply
}

func (w *world) filled(name string, t fence.Token, x mvcc.XID) fence.FillOutcome {
	w.t.Helper()
	outcome, err := w.Store.Fill(w.t.Context(), name, store.FillRequest{
		Token: t, Coverage: fence.Coverage{Snapshot: Sees(x)}, State: fence.Live, Payload: fmt.Appendf(nil, `{"seen":%d}`, x), TTL: time.Minute,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return outcome
}

func (w *world) get(name string) fence.Record {
	w.t.Helper()
	r, err := w.Store.Get(w.t.Context(), name)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) head() fence.Head {
	w.t.Helper()
	h, found, err := w.Store.Head(w.t.Context())
	if err != nil || !found {
		w.t.Fatalf("Head = %+v, %t, %v", h, found, err)
	}
	return h
}

func (w *world) ttl(name string) time.Duration {
	w.t.Helper()
	d, err := w.TTL(name)
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

func wait(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	}
}
