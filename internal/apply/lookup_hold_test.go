package apply

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/store"
)

// TestLookUpOfATransactionInPieces: the piece that was looked up is applied before the last one comes, which nothing is looked up
// for. HEAD may not vouch for the transaction before what the look-up may have missed is applied.
func TestLookUpOfATransactionInPieces(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	ctx := t.Context()
	m.cached("a", "b")
	renamed := m.commits(`UPDATE teams SET name = 'VII' WHERE id = 7`)
	m.end = m.insert()
	end := m.end
	left := m.commits(`UPDATE users SET team_id = 8 WHERE id = 'a'`)
	if err := m.opts.Queue.Begin(ctx, change.Begin{XID: renamed, End: end, Committed: time.Now()}); err != nil {
		t.Fatal(err)
	}
	part, err := m.opts.Queue.Acquire(ctx)
	if err != nil {
		t.Fatal(err)
	}
	text := func(s string) change.Value { return change.Value{Kind: change.Text, Text: []byte(s)} }
	row := []change.Value{text("7"), text("1")}
	m.router.Row(&change.Row{Op: change.Update, Relation: m.teams, Old: row, New: row}, part.Keys)
	m.opts.Queue.Release()
	m.takes()
	m.steps() // too late: the user has left
	if got := m.record("a"); got != "live" {
		t.Fatalf("the record is %q: the test does not show what it is for", got)
	}
	if err := m.opts.Queue.Commit(ctx, change.Commit{Position: change.Position(end)}); err != nil {
		t.Fatal(err)
	}
	m.takes()
	m.steps()
	if head := m.stored(); head.Wc >= end || head.Sa.Sees(renamed) {
		t.Errorf("HEAD vouches for %v with Wc %v and Sa %v, though a value lacks it", end, head.Wc, head.Sa)
	}
	m.sees(left, m.users, "a", "7>8")
	m.reads()
	m.steps()
	if head := m.stored(); m.record("a") == "live" || head.Wc < end || !head.Sa.Sees(renamed) {
		t.Errorf("HEAD has Wc %v, Sa %v, the record is %q, and nothing is open", head.Wc, head.Sa, m.record("a"))
	}
}

// TestHorizonWaitsForTheLongestWay: a look-up over a short way that came later is over before one over a long way. What both
// are visible in does not become Sa before the long one is over too.
func TestHorizonWaitsForTheLongestWay(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	m.entry.Rules[2].Lookup.Rank = 3
	m.cached("a")
	sold := m.commits(`UPDATE firms SET id = 2 WHERE id = 1`)
	end := m.sees(sold, m.firms, "1>2")
	other := m.commits(`UPDATE teams SET name = 'VIII' WHERE id = 8`)
	m.steps()
	m.sees(other, m.teams, "8", "1")
	m.reads()
	m.steps()
	for i := 2; i > 0; i-- {
		if head := m.stored(); head.Wc >= end || head.Sa.Sees(sold) {
			t.Errorf("HEAD vouches for %v with Wc %v and Sa %v, %d rounds before the look-up is over", end, head.Wc, head.Sa, i)
		}
		m.reads()
		m.steps()
	}
	m.reads()
	m.steps()
	if head := m.stored(); head.Wc < end || !head.Sa.Sees(sold) {
		t.Errorf("HEAD has Wc %v, Sa %v, and nothing is open", head.Wc, head.Sa)
	}
}

// TestLookUpBehindOneThatHangs: a standby shows a row of a transaction that hangs on the primary, but not yet the next one's, whose
// look-up does not see that row. The value from the standby contains the first, and lacks the second; it may not stay.
func TestLookUpBehindOneThatHangs(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	conn, err := pgx.Connect(t.Context(), m.url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	joined := m.xid(conn, `BEGIN`)
	if _, err := conn.Exec(t.Context(), `INSERT INTO users VALUES ('d', 7)`); err != nil {
		t.Fatal(err)
	}
	replayed := m.sees(joined, m.users, "d", "7")
	m.commits(`UPDATE firms SET id = 1`) // the log goes on
	renamed := m.commits(`UPDATE teams SET name = 'VII' WHERE id = 7`)
	fill := func() fence.FillOutcome {
		outcome, err := m.store.Fill(t.Context(), m.name("d"), redisstore.FillRequest{
			Token: m.leases("d"), Coverage: fence.Coverage{Replay: replayed}, State: fence.Live, Payload: []byte("{}"), TTL: time.Minute,
		})
		if err != nil {
			t.Fatal(err)
		}
		return outcome
	}
	if outcome := fill(); outcome != fence.Filled {
		t.Fatalf("the standby's value is %v: the test does not show what it is for", outcome)
	}
	end := m.sees(renamed, m.teams, "7", "1")
	m.steps() // the user is not found, whose row nobody sees on the primary
	if _, err := conn.Exec(t.Context(), `COMMIT`); err != nil {
		t.Fatal(err)
	}
	m.steps()
	if got := m.record("d"); got == "live" {
		t.Errorf("the record is %q, which lacks the team's change", got)
	}
	reply, err := m.store.Lease(t.Context(), m.name("d"), fence.Token(store.Draw()+store.Draw()), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if fence.Floor(reply.Head.For(fence.BucketOf(m.name("d"))), fence.Coverage{Replay: replayed}) {
		t.Errorf("the standby, at %v, may fill again, though it lacks the change that ended at %v", replayed, end)
	}
}
