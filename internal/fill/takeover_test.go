package fill_test

import (
	"errors"
	"strconv"
	"testing"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/mvcc"
)

// takenOver is a store that another daemon has taken over, and what the older one has yet to send: it was stopped with a visible change
// in hands, which a standby does not have.
type takenOver struct {
	older, newer *redisstore.Conn
	batch        redisstore.Batch // of the older one, as it believed the store to be
	change       mvcc.Token
	name         string // of the changed key, as the newer one spells it
}

// takeOver has the older daemon stop, before or after its INTENT, and the newer one claim, under the term that is made of the older one's.
// Their names differ.
func (w *world) takeOver(id int, afterIntent bool, term func(older fence.Term) fence.Term) *takenOver {
	w.t.Helper()
	o := &takenOver{older: w.daemon, change: w.after(w.write(id, 11))}
	snapshot, end := w.gate()
	o.batch = redisstore.Batch{Expect: w.expected(), Wi: end, Si: snapshot, Names: []string{w.name("product", strconv.Itoa(id))}}
	old := o.batch.Names[0]
	if afterIntent {
		if _, err := o.older.Apply(w.t.Context(), o.batch); err != nil {
			w.t.Fatal(err)
		}
		o.batch.Names = nil
	}
	o.batch.Advance, o.batch.Sa = end, snapshot
	var err error
	if o.newer, err = w.store.Connect(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(o.newer.Close)
	w.head.Term = term(w.head.Term)
	if head, found, err := o.newer.Claim(w.t.Context(), w.head.Term); err != nil || !found || head.Wc != o.batch.Expect.Wc {
		w.t.Fatalf("Claim = %+v, %v, %v", head, found, err)
	}
	w.daemon = o.newer
	w.move(w.newRoster(2))
	if o.name = w.name("product", strconv.Itoa(id)); fence.BucketOf(old) == fence.BucketOf(o.name) {
		w.t.Fatal("the two daemons' names are of one bucket")
	}
	return o
}

// TestOlderDaemonGoesOn is T22. What the older daemon confirms is under names that are nobody's any more, while a standby that lags
// fills the old row under the newer one's. If HEAD took the older daemon's word, that value would count as one that contains the change,
// and the newer daemon, which was to confirm it, would step down. So it is where the two have one term.
//
//nolint:paralleltest // the cases are daemons of one store, one after the other
func TestOlderDaemonGoesOn(t *testing.T) { //nolint:tparallel // one case after the other, on one standby
	t.Parallel()
	w := newWorld(t, options{ownPostgres: true})
	standby := pgtest.Standby(t, w.pg, pgtest.Options{})
	replica, err := pgload.OpenReplica(t.Context(), standby.URL(w.pg.Ask(t, w.url, "SELECT current_database()::text")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(replica.Close)
	later := func(older fence.Term) fence.Term { return fence.NewTerm(1, older.XID()+1) }
	same := func(older fence.Term) fence.Term { return older }
	for i, c := range []struct {
		name        string
		afterIntent bool
		term        func(older fence.Term) fence.Term
		refused     bool
	}{
		{"stopped after the gate", false, later, true},
		{"stopped after INTENT and the confirms", true, later, true},
		{"stopped after the gate, and there are no terms", false, same, false},
		{"stopped after INTENT and the confirms, and there are no terms", true, same, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			id := 1 + i
			w.t = t
			w.begin()
			w.pg.Exec(t, w.url, "UPDATE product SET price = price WHERE id = 100") // a record behind HEAD's floor, for the standby to replay
			standby.Resume(t)
			standby.CatchUp(t)
			standby.Pause(t)
			o := w.takeOver(id, c.afterIntent, c.term)
			near, far := w.reader(nil, nil), w.reader(nil, &standbyLoader{Loader: w.loader, replica: replica})
			read(t, far, id, fill.Miss, price(id, 10*id))
			read(t, near, id, fill.Hit, price(id, 10*id)) // nothing is confirmed yet
			_, err := o.older.Apply(t.Context(), o.batch)
			if c.refused {
				if !errors.Is(err, redisstore.ErrSuperseded) {
					t.Errorf("the older daemon's batch: %v", err)
				}
				under(t, near, id, after(o.change), fill.Miss, price(id, 11))
				w.confirm(o.name) // the newer one gets on
				read(t, near, id, fill.Miss, price(id, 11))
				return
			}
			if err != nil {
				t.Fatalf("something else refuses the older daemon, so this shows nothing of terms: %v", err)
			}
			under(t, near, id, after(o.change), fill.Hit, price(id, 10*id)) // an old value, to who asks for the change
			snapshot, end := w.gate()
			batch := redisstore.Batch{Expect: w.expected(), Wi: end, Si: snapshot, Names: []string{o.name}, Advance: end}
			if _, err := o.newer.Apply(t.Context(), batch); !errors.Is(err, redisstore.ErrSuperseded) {
				t.Errorf("the newer daemon goes on: %v", err)
			}
		})
	}
}
