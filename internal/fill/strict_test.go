package fill_test

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/rule"
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
	if err := r.Fence(t.Context(), x, []fill.Written{{Entry: "nothing"}}); !errors.Is(err, fill.ErrUnknownEntry) {
		t.Errorf("an entry that there is not: %v", err)
	}
	if err := r.FenceAgain(t.Context(), x, written); err != nil {
		t.Fatal(err)
	}
	read(t, r, 1, fill.Hit, price(1, 11)) // it contains the transaction
}

// TestRefreshWaitsForAnotherLoad: whoever is loading may have begun before the change.
func TestRefreshWaitsForAnotherLoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r := w.reader(nil, nil)
	name := w.name("product", "1")
	const other, lasts = fence.Token("00112233445566778899aabbccddeeff"), 300 * time.Millisecond
	if reply, err := w.store.Lease(t.Context(), name, other, lasts); err != nil || !reply.Granted {
		t.Fatal(err)
	}
	began := time.Now()
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
