package fill_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/mvcc"
)

// key is a key whose arguments are canonical.
type key []keytext.Arg

func (k key) Args([]rule.Param) ([]keytext.Arg, error) { return k, nil }

// TestRefusedFillGivesItsLeaseBack: a load that a fence refuses is not waited for by those who read next.
func TestRefusedFillGivesItsLeaseBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r := w.reader(nil, nil)
	tx, err := w.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `UPDATE product SET price = 11 WHERE id = 1`); err != nil {
		t.Fatal(err)
	}
	x := xid(t, tx)
	read(t, r, 1, fill.Miss, price(1, 10))
	written := []fill.Written{{Entry: "product", Key: key(arg("1"))}}
	if err := r.Fence(t.Context(), x, written); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if v := read(t, r, 1, fill.Miss, price(1, 10)); v.Reason != "not_covering" {
			t.Errorf("stored, or refused for %q", v.Reason)
		}
		record, err := w.store.Get(t.Context(), w.name("product", "1"))
		if err != nil || !record.Lease.IsZero() || len(record.Fences) != 1 {
			t.Errorf("the record is %+v, %v, want a fence alone", record, err)
		}
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	read(t, r, 1, fill.Miss, price(1, 11))
	read(t, r, 1, fill.Hit, price(1, 11))
	later, err := w.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = later.Rollback(context.WithoutCancel(t.Context())) }()
	if err := r.Fence(t.Context(), xid(t, later), append(written, fill.Written{Entry: "nothing"})); !errors.Is(err, fill.ErrUnknownEntry) {
		t.Errorf("an entry that there is not: %v", err)
	}
	// Nothing is on its way: a round trip later the value is still there.
	for range 20 {
		read(t, r, 1, fill.Hit, price(1, 11))
	}
	if err := r.FenceAgain(t.Context(), x, written); err != nil {
		t.Fatal(err)
	}
	read(t, r, 1, fill.Hit, price(1, 11)) // it contains the transaction
}

// strictly makes the price of product 1 eleven in a strict commit.
func (w *withStandby) strictly() {
	w.t.Helper()
	written := []fill.Written{{Entry: "product", Key: key(arg("1"))}}
	var x mvcc.XID
	err := pgx.BeginFunc(w.t.Context(), w.db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(w.t.Context(), `UPDATE product SET price = 11 WHERE id = 1`); err != nil {
			return err
		}
		x = xid(w.t, tx)
		return w.r.Fence(w.t.Context(), x, written)
	})
	if err == nil {
		err = w.r.FenceAgain(w.t.Context(), x, written)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// TestStrictBesideAStandby has a standby lag behind a strict commit. Its old row is kept out for as long as the fence lives,
// and from when the daemon has applied the commit; in between there is nothing that knows of it, and the old row is stored
// until then, as GUARANTEES.md says.
func TestStrictBesideAStandby(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		first  func(w *withStandby, before mvcc.LSN, seen mvcc.Snapshot) // what happens before the daemon applies the commit
		stored int                                                       // the price that is stored then
	}{
		{"the fence lives", func(*withStandby, mvcc.LSN, mvcc.Snapshot) {}, 11},
		{"the daemon has applied it", func(w *withStandby, _ mvcc.LSN, _ mvcc.Snapshot) { w.confirm(w.name("product", "1")) }, 11},
		{"the fence has ended", func(w *withStandby, _ mvcc.LSN, _ mvcc.Snapshot) {
			eventually(w.t, func() error {
				if _, text := w.record(w.name("product", "1")); text != nil {
					return errors.New("the fence is still there")
				}
				return nil
			})
		}, 10},
		{"another transaction's invalidation has taken the fence", func(w *withStandby, before mvcc.LSN, seen mvcc.Snapshot) {
			batch := redisstore.Batch{
				Expect: w.expected(), Wi: before, Si: seen, Names: []string{w.name("product", "1")}, Advance: before, Sa: seen,
			}
			if _, err := w.daemon.Apply(w.t.Context(), batch); err != nil {
				w.t.Fatal(err)
			}
			w.head.Wc = before
		}, 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newStandby(t)
			w.stored(1, 10)
			seen, _ := w.gate()
			w.standby.CatchUp(t)
			w.standby.Pause(t)
			before := w.standby.Replayed(t)
			w.strictly()
			tt.first(w, before, seen)
			if record := w.stored(1, tt.stored); record.Coverage.Standby() != (tt.stored == 10) {
				t.Errorf("stored with the coverage %v", record.Coverage)
			}
			read(t, w.r, 1, fill.Hit, price(1, tt.stored))
			// What was stored of it is gone when the daemon has applied it, and the standby, which still lags, is not used for it.
			w.confirm(w.name("product", "1"))
			if record := w.stored(1, 11); record.Coverage.Standby() {
				t.Errorf("in the end, stored with the coverage %v", record.Coverage)
			}
		})
	}
}

// TestRefreshWaitsForAnotherLoad: whoever is loading may have begun before the change.
func TestRefreshWaitsForAnotherLoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r := w.reader(nil, nil)
	name := w.name("product", "1")
	const other, lasts = fence.Token("00112233445566778899aabbccddeeff"), 300 * time.Millisecond
	began := time.Now()
	if reply, err := w.store.Lease(t.Context(), name, other, lasts); err != nil || !reply.Granted {
		t.Fatal(err)
	}
	if err := r.Refresh(t.Context(), "product", key(arg("1")), nil); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < lasts/2 {
		t.Errorf("it took %s: the other's lease was not waited for", took)
	}
	read(t, r, 1, fill.Hit, price(1, 10))
}

// TestRefreshBeginsAnewAfterAnInvalidation, which is most often that of the very change.
func TestRefreshBeginsAnewAfterAnInvalidation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	var leases atomic.Int64
	store := &hooks{Store: w.store}
	store.afterCall = func(string) {
		if leases.Add(1) == 1 {
			w.confirm(w.name("product", "1"))
		}
	}
	r := w.reader(store, nil)
	if err := r.Refresh(t.Context(), "product", key(arg("1")), nil); err != nil {
		t.Fatal(err)
	}
	read(t, r, 1, fill.Hit, price(1, 10))
	if s := r.Stats(); s.Refreshed != 1 || s.Refused["lease_lost"] != 1 || leases.Load() != 2 {
		t.Errorf("%d leases, %+v", leases.Load(), s)
	}
	if err := r.Refresh(t.Context(), "code", key(arg("1")), nil); !errors.Is(err, fill.ErrNoLoader) || r.Stats().Refreshes != 2 {
		t.Errorf("without the code that loads it: %v", err)
	}
}
