package apply

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/mvcc"
)

// TestWhatHangsIsBounded: behind transactions that hang, others pass at no cost; but what hangs takes memory, with or without
// keys, and where it is too much the source is held back until it becomes visible.
func TestWhatHangsIsBounded(t *testing.T) {
	t.Parallel()
	pg := pgtest.Start(t, pgtest.Options{Settings: map[string]string{"max_prepared_transactions": "700"}})
	for _, tt := range []struct {
		name    string
		hung    int
		keys    bool
		passing int
		held    bool
	}{
		{"few hang", 5, true, 3 * maxPartItems, false},
		{"many hang that have keys", 300, true, 3 * maxPartItems, true},
		{"many hang that have none", 300, false, 3 * maxPartItems, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, pg, 32<<10)
			hung, commit := r.prepare(tt.hung)
			defer commit()
			visible := r.committed()
			start := r.end
			applying, stop := context.WithCancel(t.Context())
			applied := make(chan error, 1)
			go func() { applied <- r.Run(applying) }()
			defer func() {
				stop()
				if err := <-applied; !errors.Is(err, context.Canceled) {
					t.Errorf("Run() = %v", err)
				}
			}()

			var delivered atomic.Int64
			all := int64(tt.hung + tt.passing)
			source := make(chan error, 1)
			go func() {
				source <- func() error {
					for i := range int(all) {
						x, ids := visible, []string(nil)
						if i < tt.hung {
							x = hung[i]
							if tt.keys {
								ids = append(ids, strconv.Itoa(i))
							}
						}
						if _, err := r.deliver(t.Context(), x, ids...); err != nil {
							return err
						}
						delivered.Add(1)
					}
					return nil
				}()
			}()
			held := patience // until what is not held back has come to its end
			if tt.held {
				held = 3 * time.Second
			}
			stays := time.NewTimer(held)
			defer stays.Stop()
			select {
			case err := <-source:
				source <- err
				if tt.held || err != nil {
					t.Fatalf("the source came to its end past %d that hang: %v", tt.hung, err)
				}
			case <-stays.C:
				if !tt.held {
					t.Fatalf("the source is held back at %d of %d", delivered.Load(), all)
				}
			}
			if got := r.opts.Stats.Wc.Load(); got > uint64(start) {
				t.Errorf("Wc is %v past what hangs", mvcc.LSN(got))
			}
			commit()
			testkit.Eventually(t, patience, func() error {
				if got := r.opts.Stats.Transactions.Load(); got != uint64(all) {
					return fmt.Errorf("%d of %d transactions are applied", got, all)
				}
				return nil
			})
			if err := <-source; err != nil {
				t.Error(err)
			}
			testkit.Eventually(t, patience, func() error {
				if head := r.stored(); head.Wc != r.end {
					return fmt.Errorf("Wc is %v, and the last transaction ends at %v", head.Wc, r.end)
				}
				return nil
			})
		})
	}
}

// prepare has transactions wait between their two phases: they hang, without a session for each.
func (r *rig) prepare(count int) (xids []mvcc.XID, commit func()) {
	r.t.Helper()
	conn, err := pgx.Connect(r.t.Context(), r.url)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(r.t.Context())) })
	exec := func(verb string, i int) { // the names are those of the whole server
		r.t.Helper()
		if _, err := conn.Exec(r.t.Context(), fmt.Sprintf(`%s '%s %d'`, verb, r.head.Generation, i)); err != nil {
			r.t.Fatal(err)
		}
	}
	for i := range count {
		xids = append(xids, r.xid(conn, `BEGIN`))
		exec(`PREPARE TRANSACTION`, i)
	}
	return xids, func() {
		r.t.Helper()
		for i := range count {
			exec(`COMMIT PREPARED`, i)
		}
		count = 0
	}
}

// TestWhatHangsIsPacked: a transaction that hangs in a part which a backlog has filled before takes no more room than it
// needs, and the part is filled again meanwhile.
func TestWhatHangsIsPacked(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Shared(t), 0)
	r.settled()
	visible := r.committed()
	for n := range maxPartKeys - 1 {
		if _, err := r.deliver(t.Context(), visible, strconv.Itoa(n)); err != nil {
			t.Fatal(err)
		}
	}
	r.takes()
	r.steps()
	roomy := r.opts.Queue.spare
	if roomy == nil || roomy.size() < 1<<20 {
		t.Fatal("the backlog left no part with much room: this test shows nothing")
	}
	r.opts.Queue.part, r.opts.Queue.spare = roomy, nil
	x, commit := r.open()
	end := r.part(x, "1")
	r.steps()
	if r.waiting > 1<<10 {
		t.Errorf("one transaction that hangs takes %d bytes", r.waiting)
	}
	if r.opts.Queue.spare != roomy {
		t.Error("the part with room is not filled again")
	}
	r.cached("1")
	commit()
	r.steps()
	if got := r.record("1"); got != "none" || r.stored().Wc != end || r.waiting != 0 {
		t.Errorf("after its commit the record is %q, Wc %v, %d bytes wait", got, r.stored().Wc, r.waiting)
	}
	if r.opts.Queue.spare != roomy {
		t.Error("a part without room is to be filled")
	}
}

// TestLargePartIsPacked: of a part with more transactions than can be told apart, those that hang stay, with all keys, and
// the watermark goes up to the first of them until none is left.
func TestLargePartIsPacked(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Shared(t), 0)
	r.settled()
	visible := r.committed()
	first, commitFirst := r.open()
	second, commitSecond := r.open()
	var before mvcc.LSN
	for n := range 2 * smallItems {
		x, id := visible, "1"
		switch n {
		case smallItems + 10:
			x, id, before = first, "2", r.end
		case smallItems + 20:
			x, id = second, "3"
		}
		if _, err := r.deliver(t.Context(), x, id); err != nil {
			t.Fatal(err)
		}
	}
	r.cached("1", "2", "3")
	r.takes()
	r.steps()
	if got := r.record("1"); got != "none" {
		t.Errorf("the record of visible transactions is %q", got)
	}
	if items := len(r.pending[0].part.items); items != 2 {
		t.Errorf("%d transactions stay, and 2 hang", items)
	}
	if got := r.opts.Stats.Transactions.Load(); got != 2*smallItems-2 {
		t.Errorf("%d transactions are counted as applied, want %d", got, 2*smallItems-2)
	}
	r.steps()
	if wc := r.stored().Wc; wc != before {
		t.Errorf("Wc is %v, and the first transaction that hangs begins behind %v", wc, before)
	}
	for _, tt := range []struct {
		id     string
		commit func()
		wc     mvcc.LSN
	}{{"2", commitFirst, before}, {"3", commitSecond, r.end}} {
		r.cached(tt.id)
		tt.commit()
		r.steps()
		r.steps()
		if got := r.record(tt.id); got != "none" || r.stored().Wc != tt.wc {
			t.Errorf("after its commit the record of row %s is %q and Wc %v, want none and %v", tt.id, got, r.stored().Wc, tt.wc)
		}
	}
	if got := r.opts.Stats.Transactions.Load(); got != 2*smallItems || r.waiting != 0 {
		t.Errorf("%d transactions are counted as applied, want %d; %d bytes wait", got, 2*smallItems, r.waiting)
	}
}
