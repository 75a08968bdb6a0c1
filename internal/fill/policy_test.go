package fill_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/mvcc"
)

// under is a reader of entries with a policy.
func (w *world) under(loader fill.Loader, p fill.Policy) *fill.Reader {
	w.t.Helper()
	return w.readerOf(nil, loader, policed(p))
}

func policed(p fill.Policy) map[string]fill.Entry {
	entries := map[string]fill.Entry{}
	for name, d := range declarations() {
		entries[name] = fill.Entry{
			Declared: d, TTL: time.Minute, NegativeTTL: 10 * time.Second, LoadUnproved: true, Policy: p,
		}
	}
	return entries
}

// marked makes the price of product 1 eleven, and does what the daemon does about it with a small batch.
func (w *world) marked() mvcc.XID {
	w.t.Helper()
	return w.update(w.name("product", "1"), "UPDATE product SET price = 11 WHERE id = 1")
}

// update changes what a record depends on, and does what the daemon does about it with a small batch.
func (w *world) update(name, statement string) (x mvcc.XID) {
	w.t.Helper()
	var text string
	err := w.db.QueryRow(w.t.Context(), statement+" RETURNING pg_current_xact_id()::text").Scan(&text)
	if err == nil {
		x, err = mvcc.ParseXID(text)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	snapshot, lsn := w.gate()
	stamped := redisstore.Stamped{Name: name, Stamps: []fence.Stamp{{XID: x, End: lsn}}}
	if _, err := w.daemon.Early(w.t.Context(), []redisstore.Stamped{stamped}); err != nil {
		w.t.Fatal(err)
	}
	batch := redisstore.Batch{Expect: w.expected(), Wi: lsn, Si: snapshot, Keys: []redisstore.Stamped{stamped}, Advance: lsn, Sa: snapshot}
	if _, err := w.daemon.Apply(w.t.Context(), batch); err != nil {
		w.t.Fatal(err)
	}
	w.head.Wc = lsn
	return x
}

// TestStaleWhileItIsLoaded: within the time that the entry allows every reader of the fleet has the old value at once, and one load
// replaces it.
func TestStaleWhileItIsLoaded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	held := newValve()
	loader := &slow{Loader: w.loader}
	policy := fill.Policy{StaleFor: time.Minute}
	r, other := w.under(loader, policy), w.under(loader, policy)
	read(t, r, 1, fill.Miss, price(1, 10))
	read(t, other, 1, fill.Hit, price(1, 10))
	w.marked()
	loader.before = held.pass
	first := read(t, r, 1, fill.Stale, price(1, 10))
	<-held.reached
	for range 20 {
		read(t, r, 1, fill.Stale, price(1, 10))
		read(t, other, 1, fill.Stale, price(1, 10))
	}
	if first.Reason != "changed" || first.StaleBy <= 0 || first.StaleBy > time.Minute {
		t.Errorf("the first stale value is %q by %s", first.Reason, first.StaleBy)
	}
	if filled, _ := first.Stamp(); filled.IsZero() || time.Since(filled) < first.StaleBy {
		t.Errorf("it was filled at %v and is stale by %s", filled, first.StaleBy)
	}
	close(held.open)
	eventually(t, hits(t, r, price(1, 11)))
	eventually(t, hits(t, other, price(1, 11)))
	if n := loader.count.Load(); n != 2 {
		t.Errorf("%d loads, want the first and one for the change", n)
	}
	if s := r.Stats(); s.Stale["changed"] < 21 || s.StaleMicroseconds == 0 || s.Fills != 2 {
		t.Errorf("Stats = %+v", s)
	}
}

// TestStaleIsBounded: later changes make a stale value no younger, and past its time it is not served, whatever the database does,
// also where it is kept for longer.
func TestStaleIsBounded(t *testing.T) {
	t.Parallel()
	const allowed = 1500 * time.Millisecond
	for name, policy := range map[string]fill.Policy{"gone": {StaleFor: allowed}, "kept": {StaleFor: allowed, StaleOnError: time.Minute}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			staleIsBounded(t, policy)
		})
	}
}

func staleIsBounded(t *testing.T, policy fill.Policy) {
	t.Helper()
	w, allowed := newWorld(t, options{}), policy.StaleFor
	never := make(chan struct{})
	loader := &slow{Loader: w.loader}
	r := w.under(loader, policy)
	read(t, r, 1, fill.Miss, price(1, 10))
	w.marked()
	began := time.Now()
	loader.before = func(ctx context.Context) {
		select {
		case <-never:
		case <-ctx.Done():
		}
	}
	for time.Since(began) < 2*allowed {
		began := time.Now()
		w.marked()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		v, err := r.Get(ctx, "product", arg("1"), nil)
		cancel()
		if err == nil && (v.Status != fill.Stale || v.Reason == "changed" && v.StaleBy > allowed+time.Since(began)) {
			t.Fatalf("%v (%s), stale by %s", v.Status, v.Reason, v.StaleBy)
		}
	}
	// Where it is to stand in for an error it is there; otherwise a lease may have kept it from going, which nobody is served for.
	if record, text := w.record(w.name("product", "1")); policy.StaleOnError > 0 && !record.State.Stale() {
		t.Errorf("after %s the store has %q", time.Since(began), text)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if v, err := r.Get(ctx, "product", arg("1"), nil); err == nil && (v.Status != fill.Stale || v.Reason == "changed" || policy.StaleOnError == 0) {
		t.Errorf("after %s a read got %v %s (%s)", time.Since(began), v.Status, v.Payload, v.Reason)
	}
}

// TestNothingStaleByDefault: an entry that does not say so serves nothing stale, and a value that another process would have kept is
// none of its own.
func TestNothingStaleByDefault(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	keeps, plain := w.under(nil, fill.Policy{StaleFor: time.Minute}), w.under(nil, fill.Policy{})
	read(t, keeps, 1, fill.Miss, price(1, 10))
	read(t, plain, 1, fill.Hit, price(1, 10))
	w.marked()
	if record, text := w.record(w.name("product", "1")); record.State != fence.Stale {
		t.Fatalf("the store has %q", text)
	}
	read(t, plain, 1, fill.Miss, price(1, 11))
	read(t, keeps, 1, fill.Hit, price(1, 11))
}

// TestNothingStaleUnderADemand: no HEAD vouches for a stale value, so a read that asks for anything does not get it.
func TestNothingStaleUnderADemand(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r := w.under(nil, fill.Policy{StaleFor: time.Minute, StaleOnError: time.Minute})
	session := &fill.Session{}
	for name, d := range map[string]fill.Demand{
		"fresh": {Fresh: true}, "bound": {Bounded: true, MaxStale: time.Hour}, "revalidate": {Revalidate: true},
		"session": {Session: session}, "past": {Past: true},
	} {
		read(t, r, 1, fill.Miss, price(1, 10))
		w.marked()
		v, err := r.GetUnder(t.Context(), "product", arg("1"), nil, &d)
		if err != nil || v.Status == fill.Stale || string(v.Payload) != price(1, 11) {
			t.Errorf("%s: %v %s, %v", name, v.Status, v.Payload, err)
		}
		w.pg.Exec(t, w.url, "UPDATE product SET price = 10 WHERE id = 1")
		w.confirm(w.name("product", "1"))
	}
	read(t, r, 1, fill.Miss, price(1, 10))
	system, _, err := w.loader.System(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	x := w.marked()
	v, err := r.GetUnder(t.Context(), "product", arg("1"), nil, &fill.Demand{After: []mvcc.Token{{System: system, Timeline: 1, XID: x}}})
	if err != nil || string(v.Payload) != price(1, 11) {
		t.Errorf("with a token: %v %s, %v", v.Status, v.Payload, err)
	}
}

// TestStrictCommitLeavesNothingStale, and neither does an invalidation in bulk, or names that move.
func TestStrictCommitLeavesNothingStale(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r := w.under(nil, fill.Policy{StaleFor: time.Minute, StaleOnError: time.Minute})
	name := w.name("product", "1")
	gone := func(what string) {
		t.Helper()
		if record, text := w.record(name); record.State != fence.None {
			t.Errorf("%s leaves %q", what, text)
		}
	}
	read(t, r, 1, fill.Miss, price(1, 10))
	x := w.reprice()
	if err := r.Fence(t.Context(), x, []fill.Written{{Entry: "product", Key: key(arg("1"))}}); err != nil {
		t.Fatal(err)
	}
	gone("a strict commit")
	read(t, r, 1, fill.Miss, price(1, 11))
	w.marked()
	if err := r.Fence(t.Context(), x+1000, []fill.Written{{Entry: "product", Key: key(arg("1"))}}); err != nil {
		t.Fatal(err)
	}
	gone("a strict commit after a change")
	w.confirm(name)
	read(t, r, 1, fill.Miss, price(1, 11))
	w.confirm(name)
	gone("bulk")
	read(t, r, 1, fill.Miss, price(1, 11))
	w.marked()
	w.move(w.newRoster(2))
	eventually(t, func() error {
		v, err := r.Get(t.Context(), "product", arg("1"), nil)
		if err == nil && v.Status == fill.Stale {
			err = errors.New("a stale value under an old name")
		}
		return err
	})
}

// TestStaleInsteadOfAnError: what was invalidated lately is served while the database does not answer, for as long as the entry
// says and no longer. An entry that does not say so has an error.
func TestStaleInsteadOfAnError(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{ownPostgres: true})
	const allowed = 8 * time.Second
	r := w.under(nil, fill.Policy{StaleOnError: allowed})
	read(t, r, 1, fill.Miss, price(1, 10))
	w.marked()
	began := time.Now()
	w.pg.Stop(t) // not killed: its processes answer for a moment after that
	served := 0
	for {
		v, err := r.Get(t.Context(), "product", arg("1"), nil)
		if err != nil {
			if !errors.Is(err, fill.ErrUnavailable) && !errors.Is(err, fill.ErrTimeout) {
				t.Fatal(err)
			}
			break
		}
		served++
		if v.Status != fill.Stale || v.Reason == "changed" || string(v.Payload) != price(1, 10) || v.StaleBy > allowed {
			t.Fatalf("%v %s (%s), stale by %s", v.Status, v.Payload, v.Reason, v.StaleBy)
		}
		if _, err := r.GetUnder(t.Context(), "product", arg("1"), nil, &fill.Demand{Fresh: true}); !errors.Is(err, fill.ErrUnavailable) && !errors.Is(err, fill.ErrTimeout) {
			t.Fatalf("a read of nothing stale: %v", err)
		}
	}
	if took := time.Since(began); served == 0 || took < allowed-time.Second {
		t.Errorf("%d stale values within %s", served, took)
	}
	if s := r.Stats(); s.Stale["load_failed"] == 0 || s.Stale["load_failed"]+s.Stale["load_slow"] != uint64(served) || s.Database.Opened == 0 {
		t.Errorf("Stats = %+v", s)
	}
}

// TestStaleAfterTheSoftTimeout: a read that the database keeps waiting takes the stale value, also where another process loads; the
// load goes on and fills the cache.
func TestStaleAfterTheSoftTimeout(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	held := newValve()
	loader := &slow{Loader: w.loader}
	policy := fill.Policy{StaleOnError: time.Minute, SoftTimeout: 100 * time.Millisecond}
	r, other := w.under(loader, policy), w.under(loader, policy)
	read(t, r, 1, fill.Miss, price(1, 10))
	read(t, other, 1, fill.Hit, price(1, 10))
	w.marked()
	loader.before = held.pass
	for _, one := range []*fill.Reader{r, r, other} {
		began := time.Now()
		v := read(t, one, 1, fill.Stale, price(1, 10))
		if took := time.Since(began); v.Reason != "load_slow" || took < 90*time.Millisecond || took > unhurried/2-time.Second {
			t.Errorf("%s after %s", v.Reason, took)
		}
	}
	close(held.open)
	eventually(t, hits(t, r, price(1, 11)))
	if n := loader.count.Load(); n != 2 {
		t.Errorf("%d loads, want the first and one for the change", n)
	}
}

// TestSoftTimeoutWithoutAStandIn: where no stale value may be taken when the soft timeout is over, there is the whole load timeout to load in.
func TestSoftTimeoutWithoutAStandIn(t *testing.T) {
	t.Parallel()
	// begin has a value that was cached and has changed. A load of it is not over before the soft timeout is.
	begin := func(t *testing.T, p fill.Policy) (*world, *fill.Reader) {
		t.Helper()
		w := newWorld(t, options{})
		loader := &slow{Loader: w.loader}
		entries := policed(p)
		product := entries["product"]
		product.LoadTimeout = 20 * time.Second
		entries["product"] = product
		r := w.readerOf(nil, loader, entries)
		read(t, r, 1, fill.Miss, price(1, 10))
		w.marked()
		loader.before = func(context.Context) { pause(t, p.SoftTimeout+300*time.Millisecond) }
		return w, r
	}
	t.Run("it is gone", func(t *testing.T) {
		t.Parallel()
		w, r := begin(t, fill.Policy{StaleOnError: time.Minute, SoftTimeout: 2 * time.Second})
		w.lease(other, "1")
		got := background(t.Context(), r, "1")
		eventually(t, func() error { // it has been shown what may stand in, and waits for the other's load
			if r.Stats().Waits == 0 {
				return errors.New("it does not wait")
			}
			return nil
		})
		w.confirm(w.name("product", "1"))
		if a := <-got; a.err != nil || string(a.value.Payload) != price(1, 11) {
			t.Errorf("%v %s, %v", a.value.Status, a.value.Payload, a.err)
		}
	})
	t.Run("it is too old by then", func(t *testing.T) {
		t.Parallel()
		const most, soft = time.Second, 300 * time.Millisecond
		_, r := begin(t, fill.Policy{StaleOnError: most, SoftTimeout: soft})
		pause(t, most-2*soft/3)
		if a := <-background(t.Context(), r, "1"); a.err != nil || string(a.value.Payload) != price(1, 11) {
			t.Errorf("%v %s, %v", a.value.Status, a.value.Payload, a.err)
		}
	})
	t.Run("it is too old by then, of many", func(t *testing.T) {
		t.Parallel()
		const most, soft = time.Second, 300 * time.Millisecond
		_, r := begin(t, fill.Policy{StaleOnError: most, SoftTimeout: soft})
		pause(t, most-2*soft/3)
		for i, a := range r.GetMany(t.Context(), "product", numbered(1, 2), &fill.Demand{}) {
			if want := price(i+1, 11+9*i); a.Err != nil || string(a.Value.Payload) != want {
				t.Errorf("%v %s, want %s; %v", a.Value.Status, a.Value.Payload, want, a.Err)
			}
		}
	})
}

// TestStaleAndEpochs: what is tied to epochs is served stale while they hold, when its own key has changed; once one has ended nobody
// knows how long ago that was, and it is not.
func TestStaleAndEpochs(t *testing.T) {
	t.Parallel()
	w := newTied(t, options{})
	entries := map[string]fill.Entry{}
	for _, d := range tiedDeclarations() {
		entries[d.Name] = fill.Entry{Declared: d, TTL: time.Minute, Policy: fill.Policy{StaleFor: time.Minute}}
	}
	r := w.readerOf(nil, nil, entries)
	record := w.named("teams", "teams:1")
	is := func(status fill.Status, teams int) error {
		v, err := r.Get(t.Context(), "teams", texts("1"), nil)
		if err == nil && (v.Status != status || strings.Count(string(v.Payload), `"id"`) != teams) {
			err = fmt.Errorf("%v %s, want %v of %d teams", v.Status, v.Payload, status, teams)
		}
		return err
	}
	if err := is(fill.Miss, 2); err != nil {
		t.Fatal(err)
	}
	w.update(record, "INSERT INTO member VALUES (1, 9)")
	if err := is(fill.Stale, 2); err != nil {
		t.Error(err)
	}
	eventually(t, func() error { return is(fill.Hit, 3) })
	w.pg.Exec(t, w.url, "UPDATE team SET name = 'renamed' WHERE id = 7")
	w.end(w.epoch("teams", "~1:7"))
	w.update(record, "INSERT INTO member VALUES (1, 10)")
	if err := is(fill.Miss, 4); err != nil {
		t.Error(err)
	}
}
