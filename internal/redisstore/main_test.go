package redisstore

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/redistest"
	"github.com/freshet/freshet/mvcc"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func open(tb testing.TB, server *redistest.Server) *Store {
	tb.Helper()
	return openNamespace(tb, server, redistest.Namespace(tb))
}

func openNamespace(tb testing.TB, server *redistest.Server, namespace string) *Store {
	tb.Helper()
	o := Options{URL: server.URL, Namespace: namespace}
	if server == redistest.Shared(tb) {
		o.Patience = patience
	}
	s, err := Open(tb.Context(), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Close)
	return s
}

// patience is for a store that the test does not take away: a machine that is busy with other tests is none that is away.
const patience = 10 * time.Second

func connect(tb testing.TB, s *Store) *Conn {
	tb.Helper()
	c, err := s.Connect(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.Close)
	return c
}

func token(c byte) fence.Token { return fence.Token(strings.Repeat(string(rune(c)), 32)) }

// sees is a snapshot under which everything below x is visible.
func sees(x mvcc.XID) mvcc.Snapshot { return mvcc.Snapshot{Xmin: x, Xmax: x} }

const generation = "00000000000000aa"

// begin is a HEAD that has confirmed everything up to 100, by a daemon of the given term.
func begin(tb testing.TB, c *Conn, term fence.Term) fence.Head {
	tb.Helper()
	if _, _, err := c.Claim(tb.Context(), term); err != nil {
		tb.Fatal(err)
	}
	h := fence.Head{
		Generation: generation, Term: term, Revision: 1, System: "7", Timeline: 1, Publication: "p",
		Wi: 100, Wc: 100, Si: sees(10),
	}
	if err := c.NewGeneration(tb.Context(), h); err != nil {
		tb.Fatal(err)
	}
	return h
}

func expect(h fence.Head) Expected {
	return Expected{Generation: h.Generation, Term: h.Term, Wc: h.Wc}
}

func (s *Store) testName(key string) string { return s.prefix() + generation + ":e.v.a:" + key }

// leased gets a lease or fails the test.
func leased(tb testing.TB, s *Store, name string, t fence.Token) LeaseReply {
	tb.Helper()
	reply, err := s.Lease(tb.Context(), name, t, time.Minute)
	if err != nil {
		tb.Fatal(err)
	}
	if !reply.Granted {
		tb.Fatalf("Lease(%s) is not granted: held by %s", name, reply.Holder)
	}
	return reply
}

func filled(tb testing.TB, s *Store, name string, t fence.Token, x mvcc.XID) fence.FillOutcome {
	tb.Helper()
	outcome, err := s.Fill(tb.Context(), name, FillRequest{
		Token: t, Coverage: fence.Coverage{Snapshot: sees(x)}, State: fence.Live, Payload: fmt.Appendf(nil, `{"seen":%d}`, x), TTL: time.Minute,
	})
	if err != nil {
		tb.Fatal(err)
	}
	return outcome
}

func contextFor(tb testing.TB, d time.Duration) (context.Context, context.CancelFunc) {
	tb.Helper()
	return context.WithTimeout(tb.Context(), d)
}
