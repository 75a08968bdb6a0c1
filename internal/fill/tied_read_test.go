package fill_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/mvcc"
)

const (
	eightBefore = `[{"id":8,"name":"team 8"}]`
	eightAfter  = `[{"id":8,"name":"eight"}]`
)

// rename changes what the value of teams:2 says, and returns a token of the transaction.
func (w *withEpochs) rename() mvcc.Token {
	w.t.Helper()
	var text string
	err := w.db.QueryRow(w.t.Context(), `UPDATE team SET name = 'eight' WHERE id = 8 RETURNING pg_current_xact_id()::text`).Scan(&text)
	if err != nil {
		w.t.Fatal(err)
	}
	x, err := mvcc.ParseXID(text)
	if err != nil {
		w.t.Fatal(err)
	}
	return mvcc.Token{System: w.head.System, Timeline: 1, XID: x}
}

func (w *withEpochs) endEight() { w.end(w.epoch("teams", "~1:8"), w.epoch("teams", "~1+")) }

func getUnder(t *testing.T, r *fill.Reader, d fill.Demand) fill.Value {
	t.Helper()
	v, err := r.GetUnder(t.Context(), "teams", texts("2"), nil, &d)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestDemandsAndEpochs: what HEAD vouches for is true of values whose epochs hold, and of no other: with a token, in a session,
// under a bound.
func TestDemandsAndEpochs(t *testing.T) {
	t.Parallel()
	w := newTied(t, options{ownPostgres: true})
	session := &fill.Session{}
	for what, demand := range map[string]func(x mvcc.Token) fill.Demand{
		"token":   func(x mvcc.Token) fill.Demand { return fill.Demand{After: []mvcc.Token{x}} },
		"session": func(x mvcc.Token) fill.Demand { session.Observe(x); return fill.Demand{Session: session} },
		"bound":   func(mvcc.Token) fill.Demand { return fill.Demand{Bounded: true, MaxStale: time.Hour} },
	} {
		w.pg.Exec(t, w.url, `UPDATE team SET name = 'team 8' WHERE id = 8`)
		w.endEight()
		r := w.tiedReader(nil, nil)
		expect(t, get(t, r, "teams", "2"), fill.Miss, eightBefore)
		x := w.rename()
		if what != "bound" {
			// Not confirmed yet: the value is live, and contains less. The database is asked, and what it says is stored.
			if v := getUnder(t, r, demand(x)); string(v.Payload) != eightAfter || v.Status == fill.Hit {
				t.Errorf("%s: before it is confirmed: %v %s", what, v.Status, v.Payload)
			}
		}
		w.endEight()
		if v := getUnder(t, r, demand(x)); string(v.Payload) != eightAfter || v.Status == fill.Hit {
			t.Errorf("%s: with an epoch that has ended: %v %s", what, v.Status, v.Payload)
		}
		if what == "bound" {
			continue // nothing answers its count here
		}
		if v := getUnder(t, r, demand(x)); string(v.Payload) != eightAfter || v.Status != fill.Hit {
			t.Errorf("%s: once it is stored: %v %s (%s)", what, v.Status, v.Payload, v.Reason)
		}
		// HEAD vouches for it in a process that has loaded nothing, which does not know the tags either.
		if v := getUnder(t, w.tiedReader(nil, nil), demand(x)); string(v.Payload) != eightAfter || v.Status != fill.Hit {
			t.Errorf("%s: elsewhere: %v %s (%s)", what, v.Status, v.Payload, v.Reason)
		}
	}
}

// TestConditionalReadTiesAnew: a value whose epoch has ended for a change that it does not show is found to be right by a
// comparison, and is live again with the epochs of that load.
func TestConditionalReadTiesAnew(t *testing.T) {
	t.Parallel()
	w := newTied(t, options{})
	r := w.tiedReader(nil, nil)
	expect(t, get(t, r, "teams", "2"), fill.Miss, eightBefore)
	before, _ := w.record(w.named("teams", "teams:2"))
	w.endEight()
	if v := getUnder(t, r, fill.Demand{Revalidate: true}); v.Status != fill.Revalidated || v.Reason != "" {
		t.Fatalf("%v (%s)", v.Status, v.Reason)
	}
	if s := r.Stats(); s.Renewals != 1 {
		t.Errorf("%d renewals", s.Renewals)
	}
	after, _ := w.record(w.named("teams", "teams:2"))
	if len(after.Epochs) != 2 || after.Epochs[0] != before.Epochs[0] || after.Epochs[1].ID == before.Epochs[1].ID {
		t.Errorf("tied to %v, before to %v", after.Epochs, before.Epochs)
	}
	expect(t, get(t, r, "teams", "2"), fill.Hit, eightBefore)

	// A comparison that lacks the change by which an epoch ends meanwhile renews nothing.
	loader := &comparing{Loader: w.loader, after: func(context.Context) {
		w.rename()   //nolint:contextcheck // it does not depend on the load
		w.endEight() //nolint:contextcheck // likewise
	}}
	v, err := w.tiedReader(nil, loader).GetUnder(t.Context(), "teams", texts("2"), nil, &fill.Demand{Revalidate: true})
	if err != nil || v.Status != fill.Revalidated || v.Reason != "epoch_ended" {
		t.Errorf("%+v, %v", v, err)
	}
	expect(t, get(t, r, "teams", "2"), fill.Miss, eightAfter)
}

// counting is the store, which counts how often a record is asked for.
type counting struct {
	fill.Store
	reads atomic.Int64
}

func (c *counting) ReadTied(ctx context.Context, name string, epochs []string) (redisstore.Tied, error) {
	c.reads.Add(1)
	return c.Store.ReadTied(ctx, name, epochs)
}

// apart is the store, which counts how often epochs are asked for by a command of their own.
type apart struct {
	*hooks
	asked atomic.Int64
}

func (a *apart) Epochs(ctx context.Context, names []string) ([]string, error) {
	a.asked.Add(1)
	return a.hooks.Epochs(ctx, names)
}

// TestFilledBetweenIsReadWithItsEpochs: a tied value that a LEASE finds is read again where a read asks for more than a plain one,
// together with its epochs and behind HEAD. Asked for by itself, the epoch may be there on a server that has lost its end.
func TestFilledBetweenIsReadWithItsEpochs(t *testing.T) {
	t.Parallel()
	w := newTied(t, options{})
	token := w.write(1, 11)
	store := &apart{hooks: &hooks{Store: w.store}}
	filled := false
	store.afterHead = func(string) {
		if !filled {
			filled = true
			expect(t, get(t, w.tiedReader(nil, nil), "teams", "2"), fill.Miss, eightBefore)
		}
	}
	v, err := w.tiedReader(store, nil).GetUnder(t.Context(), "teams", arg("2"), nil, after(token))
	if err != nil || v.Status != fill.Hit || string(v.Payload) != eightBefore {
		t.Errorf("got %v %s, %v", v.Status, v.Payload, err)
	}
	if n := store.asked.Load(); n != 0 || !filled {
		t.Errorf("epochs were asked for %d times by themselves", n)
	}
	if record, _ := w.record(w.name("teams", "teams:2")); !record.Lease.IsZero() {
		t.Errorf("a lease is left: %+v", record)
	}
}

// TestHitIsOneCommand: a process that has seen a value's epochs asks for them with it, also when they are fewer by now.
func TestHitIsOneCommand(t *testing.T) {
	t.Parallel()
	w := newTied(t, options{})
	store := &counting{Store: w.store}
	r := w.tiedReader(store, nil)
	hits := func(payload string) {
		t.Helper()
		expect(t, get(t, r, "teams", "2"), fill.Miss, payload)
		expect(t, get(t, r, "teams", "2"), fill.Hit, payload)
		before := store.reads.Load()
		expect(t, get(t, r, "teams", "2"), fill.Hit, payload)
		if n := store.reads.Load() - before; n != 1 {
			t.Errorf("a hit of %s took %d commands", payload, n)
		}
	}
	hits(eightBefore)
	w.pg.Exec(t, w.url, "DELETE FROM member WHERE user_id = 2")
	w.confirm(w.named("teams", "teams:2"))
	hits("[]")
}

// TestRefreshOverDeadValue: a writer's refresh takes the place of a value whose epochs have ended.
func TestRefreshOverDeadValue(t *testing.T) {
	t.Parallel()
	w := newTied(t, options{})
	r := w.tiedReader(nil, nil)
	expect(t, get(t, r, "teams", "2"), fill.Miss, eightBefore)
	w.rename()
	w.endEight()
	if err := r.Refresh(t.Context(), "teams", key(texts("2")), nil); err != nil {
		t.Fatal(err)
	}
	expect(t, get(t, r, "teams", "2"), fill.Hit, eightAfter)
}

// holding is the store, which holds the first FILL.
type holding struct {
	fill.Store
	v *valve
}

func (h holding) Fill(ctx context.Context, name string, f redisstore.FillRequest) (fence.FillOutcome, error) {
	h.v.pass(ctx)
	return h.Store.Fill(ctx, name, f)
}

// TestWaitersAndEpochs: an epoch that ends leaves a lease alone, so readers who come after that find the lease of a load from
// before it. None of them takes its row.
func TestWaitersAndEpochs(t *testing.T) {
	t.Parallel()
	w := newTied(t, options{ownPostgres: true})
	standby := pgtest.Standby(t, w.pg, pgtest.Options{})
	replica, err := pgload.OpenReplica(t.Context(), standby.URL(w.pg.Ask(t, w.url, "SELECT current_database()::text")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(replica.Close)
	for what, replicas := range map[string][]fill.Replica{"primary": nil, "standby": {replica}} {
		w.pg.Exec(t, w.url, `UPDATE team SET name = 'team 8' WHERE id = 8`)
		w.endEight()
		w.pg.Exec(t, w.url, "UPDATE product SET price = price WHERE id = 100")
		standby.CatchUp(t)
		v := newValve()
		r := w.tiedReader(holding{w.store, v}, nil, replicas...)
		under := func() <-chan answer {
			done := make(chan answer, 1)
			go func() {
				v, err := r.Get(t.Context(), "teams", texts("2"), nil)
				done <- answer{v, err}
			}()
			return done
		}
		first := under()
		<-v.reached
		if from := r.Stats().Replicas["used"]; from != uint64(len(replicas)) {
			t.Fatalf("%s: %d loads from a standby", what, from)
		}
		w.rename()
		w.endEight()
		second := under()
		eventually(t, waiting(r, 1))
		close(v.open)
		if a := <-first; a.err != nil || string(a.value.Payload) != eightBefore {
			t.Errorf("%s: the load's own reader got %s, %v", what, a.value.Payload, a.err)
		}
		if a := <-second; a.err != nil || string(a.value.Payload) != eightAfter {
			t.Errorf("%s: a reader who came after the change was confirmed got %s, %v", what, a.value.Payload, a.err)
		}
	}
}

// unraised is the store without what standbys are held against when epochs end.
type unraised struct{ fill.Store }

func (u unraised) Pin(ctx context.Context, epochs []string, life time.Duration) (redisstore.Pinned, error) {
	p, err := u.Store.Pin(ctx, epochs, life)
	p.Head.Wi, p.Head.Floors = 0, nil
	return p, err
}

// TestStandbyBehindAnEpoch: a standby that lacks what an epoch ended for is not believed, although nothing was confirmed for the
// key itself: its row is neither stored nor handed out. Without the floor of the epoch's bucket it is both.
func TestStandbyBehindAnEpoch(t *testing.T) {
	t.Parallel()
	w := newTied(t, options{ownPostgres: true})
	standby := pgtest.Standby(t, w.pg, pgtest.Options{})
	replica, err := pgload.OpenReplica(t.Context(), standby.URL(w.pg.Ask(t, w.url, "SELECT current_database()::text")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(replica.Close)
	w.tie(3) // under new names, so that no floor is left of others
	w.endEight()
	// A value of the primary's first: what is dead of it does not keep a standby's load out.
	expect(t, get(t, w.tiedReader(nil, nil), "teams", "2"), fill.Miss, eightBefore)
	w.endEight()
	w.pg.Exec(t, w.url, "UPDATE product SET price = price WHERE id = 100")
	standby.CatchUp(t)
	if v := get(t, w.tiedReader(nil, nil, replica), "teams", "2"); v.Status != fill.Miss || v.Reason != "" {
		t.Errorf("over what is dead: %v (%s)", v.Status, v.Reason)
	}
	if record, _ := w.record(w.named("teams", "teams:2")); !record.Coverage.Standby() {
		t.Errorf("coverage %v, want the standby's", record.Coverage)
	}
	standby.Pause(t)
	w.rename()
	w.endEight()
	r := w.tiedReader(nil, nil, replica)
	expect(t, get(t, r, "teams", "2"), fill.Miss, eightAfter)
	if r.Stats().Replicas["behind"] != 1 {
		t.Errorf("outcomes %v", r.Stats().Replicas)
	}
	expect(t, get(t, r, "teams", "2"), fill.Hit, eightAfter)
	w.endEight()
	r = w.tiedReader(unraised{w.store}, nil, replica)
	expect(t, get(t, r, "teams", "2"), fill.Miss, eightBefore)
	expect(t, get(t, r, "teams", "2"), fill.Hit, eightBefore)
	standby.Resume(t)
}

// between is the store, with a step after the first look at a record.
type between struct {
	fill.Store
	after func()
}

func (b *between) ReadTied(ctx context.Context, name string, epochs []string) (redisstore.Tied, error) {
	held, err := b.Store.ReadTied(ctx, name, epochs)
	if do := b.after; do != nil {
		b.after = nil
		do()
	}
	return held, err
}

// TestDeadValueUnderLease: a value whose epochs have ended is no hit either where a LEASE shows it, or where another process's
// load is waited for.
func TestDeadValueUnderLease(t *testing.T) {
	t.Parallel()
	w := newTied(t, options{})
	other := w.tiedReader(nil, nil)
	r := w.tiedReader(&between{w.store, func() {
		expect(t, get(t, other, "teams", "2"), fill.Miss, eightBefore)
		w.rename()
		w.endEight()
	}}, nil)
	expect(t, get(t, r, "teams", "2"), fill.Miss, eightAfter)
	// One whose epochs hold is.
	w.endEight()
	r = w.tiedReader(&between{w.store, func() { expect(t, get(t, other, "teams", "2"), fill.Miss, eightAfter) }}, nil)
	expect(t, get(t, r, "teams", "2"), fill.Hit, eightAfter)

	// Somebody compares the value with the database's, when its epoch ends.
	name, token := w.named("teams", "teams:2"), fence.Token("0123456789abcdef0123456789abcdef")
	if reply, err := w.store.Lease(t.Context(), name, token, time.Minute); err != nil || !reply.Granted || !reply.Record.State.Live() {
		t.Fatalf("Lease = %+v, %v", reply, err)
	}
	w.pg.Exec(t, w.url, `UPDATE team SET name = 'team 8' WHERE id = 8`)
	w.endEight()
	r = w.tiedReader(nil, nil)
	done := make(chan answer, 1)
	go func() {
		v, err := r.Get(t.Context(), "teams", texts("2"), nil)
		done <- answer{v, err}
	}()
	eventually(t, waiting(r, 1))
	if err := w.store.Release(t.Context(), name, token); err != nil {
		t.Fatal(err)
	}
	if a := <-done; a.err != nil || string(a.value.Payload) != eightBefore || a.value.Status != fill.Miss {
		t.Errorf("got %v %s, %v", a.value.Status, a.value.Payload, a.err)
	}
}
