package apply

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/route"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/mvcc"
)

func oneRule(tb testing.TB) (*route.Router, *change.Relation) {
	tb.Helper()
	e := &rule.Entry{
		Name: "items", Key: "i:{id}", Params: []rule.Param{{Name: "id", Type: keytext.String}},
		Rules: []rule.Rule{{Schema: "public", Table: "items", Bind: []string{"id"}}},
	}
	return route.New([]*rule.Entry{e}), &change.Relation{
		OID: 1, Schema: "public", Name: "items", Identity: change.IdentityDefault,
		Columns: []change.Column{{Name: "id", TypeOID: 25, Key: true}},
	}
}

func insert(relation *change.Relation, id string) *change.Row {
	return &change.Row{Op: change.Insert, Relation: relation, New: []change.Value{{Kind: change.Text, Text: []byte(id)}}}
}

// TestPartsCarryEverything takes parts at random moments: every transaction ends in exactly one part, after all of its
// keys, and a transaction that spans parts is an item of each.
func TestPartsCarryEverything(t *testing.T) {
	t.Parallel()
	router, relation := oneRule(t)
	rapid.Check(t, func(rt *rapid.T) {
		ctx := context.Background()
		q := NewQueue(nil)
		keys := map[string]int{} // key -> transaction
		var ended, parts int
		receive := func() {
			part, _ := q.take()
			if part == nil {
				return
			}
			parts++
			inside := map[mvcc.XID]bool{}
			for i, it := range part.items {
				if i > 0 && it.xid != 0 && it.xid <= part.items[i-1].xid {
					rt.Fatalf("transactions out of order: %d after %d", it.xid, part.items[i-1].xid)
				}
				inside[it.xid] = true
				if it.xid != 0 && it.position != 0 {
					ended++
				}
				if it.position == 0 && i != len(part.items)-1 {
					rt.Fatal("a transaction without an end is not the last of its part")
				}
			}
			for i := range part.Keys.Len() {
				_, key := part.Keys.At(i)
				x, known := keys[string(key)]
				if !known {
					rt.Fatalf("key %s came twice or from nowhere", key)
				}
				if !inside[mvcc.XID(x)] {
					rt.Fatalf("key %s is in a part without its transaction %d", key, x)
				}
				delete(keys, string(key))
			}
			if rapid.Bool().Draw(rt, "give back") {
				q.giveBack(part)
			}
		}
		txs := rapid.IntRange(1, 8).Draw(rt, "transactions")
		for x := 1; x <= txs; x++ {
			if err := q.Begin(ctx, change.Begin{XID: mvcc.XID(x), End: mvcc.LSN(100 * x)}); err != nil {
				rt.Fatal(err)
			}
			for n := range rapid.IntRange(0, 5).Draw(rt, "rows") {
				id := fmt.Sprintf("%d-%d", x, n)
				part, err := q.Acquire(ctx)
				if err != nil {
					rt.Fatal(err)
				}
				router.Row(insert(relation, id), part.Keys)
				q.Release()
				keys["i:"+id] = x
				if rapid.IntRange(0, 3).Draw(rt, "take") == 0 {
					receive()
				}
			}
			if err := q.Commit(ctx, change.Commit{Position: change.Position(100*x + 1)}); err != nil {
				rt.Fatal(err)
			}
			if rapid.Bool().Draw(rt, "idle") {
				if err := q.Idle(ctx, change.Position(100*x+2)); err != nil {
					rt.Fatal(err)
				}
			}
			if rapid.Bool().Draw(rt, "take") {
				receive()
			}
		}
		receive()
		if ended != txs || len(keys) != 0 {
			rt.Fatalf("%d of %d transactions ended, %d keys never came, in %d parts", ended, txs, len(keys), parts)
		}
	})
}

// TestFullQueueHoldsTheSourceBack fills a part: the source waits until it is taken, and a closed queue or an ended
// context lets it go.
func TestFullQueueHoldsTheSourceBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		router, relation := oneRule(t)
		q := NewQueue(nil)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if err := q.Begin(ctx, change.Begin{XID: 1, End: 10}); err != nil {
			t.Fatal(err)
		}
		added := 0
		done := make(chan error, 1)
		go func() {
			for {
				part, err := q.Acquire(ctx)
				if err != nil {
					done <- err
					return
				}
				router.Row(insert(relation, strconv.Itoa(added)), part.Keys)
				added++
				q.Release()
			}
		}()
		synctest.Wait()
		if added != maxPartKeys {
			t.Fatalf("the source added %d keys to one part, want %d", added, maxPartKeys)
		}
		if part, _ := q.take(); part == nil || part.Keys.Len() != maxPartKeys || !part.open {
			t.Fatalf("take() = %v", part)
		}
		synctest.Wait()
		if added != 2*maxPartKeys {
			t.Errorf("after a part was taken the source stands at %d, want %d", added, 2*maxPartKeys)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Acquire() = %v after its context ended", err)
		}
		q.Close()
		if _, err := q.Acquire(t.Context()); !errors.Is(err, errClosed) {
			t.Errorf("Acquire() = %v after Close", err)
		}
	})
}

func TestRewindHoldsBack(t *testing.T) {
	t.Parallel()
	start := time.Unix(1_000, 0)
	at := func(seconds float64) time.Time { return start.Add(time.Duration(seconds * float64(time.Second))) }
	r := rewind{Rewind: Rewind{Time: 30 * time.Second, WAL: 1000}}
	for i := range 100 {
		r.add(at(float64(i)), mvcc.LSN(10_000+i))
	}
	// By time: what was applied 30 s ago or earlier. By size nothing more, since 99 bytes are less than 1,000.
	if got := r.position(at(100)); got > 10_070 || got < 10_065 {
		t.Errorf("position() = %d 30 s after 10070 was applied", got)
	}
	r.add(at(101), 20_000)
	if got := r.position(at(101)); got != 19_000 {
		t.Errorf("position() = %d, want at most 1,000 bytes behind 20000", got)
	}
	// Nothing new is applied: in the end everything may be confirmed.
	for s := 102.0; s < 170; s++ {
		r.position(at(s))
	}
	if got := r.position(at(170)); got != 20_000 {
		t.Errorf("position() = %d on an idle database, want 20000", got)
	}
}

func TestRewindNeverGoesBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := rewind{Rewind: Rewind{
			Time: time.Duration(rapid.IntRange(0, 50).Draw(t, "time")) * time.Second,
			WAL:  int64(rapid.IntRange(0, 500).Draw(t, "wal")),
		}}
		now, lsn, confirmed := time.Unix(0, 0), mvcc.LSN(1000), mvcc.LSN(0)
		type applied struct {
			at  time.Time
			lsn mvcc.LSN
		}
		history := []applied{}
		for range 60 {
			now = now.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "ms")) * time.Millisecond)
			if rapid.Bool().Draw(t, "apply") {
				lsn += mvcc.LSN(rapid.IntRange(1, 200).Draw(t, "bytes"))
				r.add(now, lsn)
				history = append(history, applied{now, lsn})
			}
			p := r.position(now)
			if p < confirmed {
				t.Fatalf("position went from %d to %d", confirmed, p)
			}
			confirmed = p
			// Everything confirmed was applied long enough ago, or is far enough behind.
			for _, h := range history {
				young := now.Sub(h.at) < r.Time
				near := r.WAL == 0 || int64(lsn-h.lsn) < r.WAL
				if young && near && p >= h.lsn && r.Time > 0 {
					t.Fatalf("confirmed %d, which was applied %v ago and lies %d bytes back", h.lsn, now.Sub(h.at), lsn-h.lsn)
				}
			}
		}
	})
}
