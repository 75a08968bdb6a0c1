package fill_test

import (
	"errors"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/redisstore"
)

// TestManyInheritLoadsThatFail: when what another process was loading for many keys does not come, since its load failed or the process has
// died, those who wait for it load it by one statement as well.
func TestManyInheritLoadsThatFail(t *testing.T) {
	t.Parallel()
	ids := upTo(20)
	for _, tt := range []struct {
		what string
		term time.Duration // of the other's leases
		fail bool
	}{
		{"its load fails", time.Minute, true},
		{"it dies", 6 * time.Second, false},
	} {
		w := newWorld(t, options{})
		w.batches()
		leasings, names, tokens := make([]redisstore.Leasing, len(ids)), make([]string, len(ids)), make([]fence.Token, len(ids))
		for i, key := range numbered(ids...) {
			names[i], tokens[i] = w.name("product", key[0].Text), other
			leasings[i] = redisstore.Leasing{Name: names[i], Token: other, Lasts: tt.term}
		}
		for _, l := range w.store.LeaseMany(t.Context(), leasings) {
			if l.Err != nil || !l.Granted {
				t.Fatalf("%s: %+v", tt.what, l)
			}
		}
		for _, l := range leasings { // a record outlives the lease of who died
			record, _ := w.record(l.Name)
			w.put(l.Name, record.Append(nil))
		}
		store, loader := &steps{Store: w.store}, &statements{Loader: w.loader}
		r := w.readerOf(store, loader, patient())
		statuses := make(chan map[string]int, 1)
		go func() { statuses <- readMany(t, r, nil, ids, nil) }()
		eventually(t, waiting(r, uint64(len(ids))))
		if tt.fail {
			if err := w.store.ReleaseMany(t.Context(), names, tokens); err != nil {
				t.Fatal(err)
			}
		}
		if got := <-statuses; got["miss"] != len(ids) {
			t.Errorf("%s: statuses %v", tt.what, got)
		}
		if n, single := loader.sent.Load(), loader.single.Load(); n != 1 || single != 0 {
			t.Errorf("%s: %d statements for many keys, %d for one", tt.what, n, single)
		}
		if leases := store.leases.Load(); leases != 2 {
			t.Errorf("%s: leases were asked for %d times", tt.what, leases)
		}
		if s := r.Stats(); s.Fills != uint64(len(ids)) || s.Misses != uint64(len(ids)) {
			t.Errorf("%s: %+v", tt.what, s)
		}
	}
}

// TestManyInheritOnce: what does not come from a second process either is read by itself, and all of it comes.
func TestManyInheritOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.batches()
	ids := upTo(5)
	const third = fence.Token("00112233445566778899aabbccddeeff")
	for _, key := range numbered(ids...) {
		w.lease(other, key[0].Text)
	}
	again := make(chan struct{})
	store := &steps{Store: w.store}
	loader := &statements{Loader: w.loader}
	r := w.readerOf(store, loader, patient())
	store.beforeLease = func() {
		if store.leases.Load() != 2 { // the reader's second
			return
		}
		for _, key := range numbered(ids...) {
			w.lease(third, key[0].Text)
		}
		close(again)
	}
	late := make(chan []fill.Answer, 1)
	go func() { late <- r.GetMany(t.Context(), "product", numbered(ids...), &fill.Demand{}) }()
	eventually(t, waiting(r, uint64(len(ids))))
	release := func(token fence.Token, keys [][]keytext.Arg) {
		for _, key := range keys {
			if err := w.store.Release(t.Context(), w.name("product", key[0].Text), token); err != nil {
				t.Error(err)
			}
		}
	}
	release(other, numbered(ids...))
	select {
	case <-again:
	case <-time.After(10 * time.Second):
		t.Fatal("the leases are not asked for again")
	}
	eventually(t, func() error {
		if r.Stats().Waits < 2*uint64(len(ids)) {
			return errors.New("nobody waits for the second process")
		}
		return nil
	})
	w.fill(third, "1")
	release(third, numbered(ids[1:]...))
	for i, a := range <-late {
		if a.Err != nil || string(a.Value.Payload) != price(ids[i], 10*ids[i]) {
			t.Errorf("product %d: %v %s, %v", ids[i], a.Value.Status, a.Value.Payload, a.Err)
		}
	}
	if leases, single := store.leases.Load(), loader.single.Load(); leases != 2 || single != int64(len(ids)-1) {
		t.Errorf("leases of many asked for %d times, %d loads of one key", leases, single)
	}
}
