package fill_test

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/testkit"
)

// sibling is a loader from another database of the same server, where product 1 costs seven.
func (w *world) sibling() *pgload.Loader {
	w.t.Helper()
	url := w.pg.Database(w.t)
	w.pg.Exec(w.t, url, `CREATE TABLE product (id int8 PRIMARY KEY, price int4)`, `INSERT INTO product VALUES (1, 7), (2, 7)`)
	l, err := pgload.Open(w.t.Context(), url)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(l.Close)
	return l
}

// claim publishes a roster that says of which database it is.
func (w *world) claim(d *rule.Database) {
	w.t.Helper()
	roster := w.newRoster(w.roster.Revision + 1)
	roster.Database = d
	w.move(roster)
}

func (w *world) where(l *pgload.Loader) *rule.Database {
	w.t.Helper()
	d, err := l.Database(w.t.Context())
	if err != nil || d.OID == 0 || d.Name == "" {
		w.t.Fatalf("Database() = %v, %v", d, err)
	}
	return &d
}

// silent does not say where it is, as a database that is away does not, and loads all the same.
type silent struct{ *pgload.Loader }

func (silent) Database(context.Context) (rule.Database, error) {
	return rule.Database{}, errors.New("away")
}

// TestOtherDatabaseOfTheCluster: system identifier, timeline and transaction ids of two databases of one cluster are the same. A
// reader whose loads come from the other one neither takes what is cached nor stores anything.
func TestOtherDatabaseOfTheCluster(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	other := w.sibling()
	w.claim(w.where(w.loader))
	right, wrong, mute := w.reader(nil, nil), w.reader(nil, other), w.reader(nil, silent{other})
	read(t, right, 1, fill.Miss, price(1, 10))
	read(t, right, 1, fill.Hit, price(1, 10))
	testkit.Eventually(t, 10*time.Second, func() error { // a database that is slow to say which it is holds nobody up
		v, err := wrong.Get(t.Context(), "product", arg("1"), nil)
		if err == nil && v.Reason != "other_database" {
			err = errors.New(v.Status.String() + ", for " + v.Reason)
		}
		return err
	})
	for id := 1; id <= 2; id++ { // one that is cached, and one that is not
		if v := read(t, wrong, id, fill.Bypass, price(id, 7)); v.Reason != "other_database" {
			t.Errorf("product %d: bypassed for %q", id, v.Reason)
		}
	}
	unsaid := w.reader(nil, silent{other})
	for i, a := range unsaid.GetMany(t.Context(), "product", numbered(3, 4), &fill.Demand{}) {
		if r, _ := w.record(w.name("product", strconv.Itoa(3+i))); a.Err != nil || a.Value.Found || r.State.Live() {
			t.Errorf("of several, product %d: %+v, cached as %v", 3+i, a, r.State)
		}
	}
	// A database that does not answer keeps nothing from being read. Its first row says where it is.
	read(t, mute, 1, fill.Hit, price(1, 10))
	if v := read(t, mute, 2, fill.Miss, price(2, 7)); v.Reason != "other_database" {
		t.Errorf("a load from the other database is not stored for %q", v.Reason)
	}
	if r, _ := w.record(w.name("product", "2")); r.State.Live() {
		t.Errorf("a row of the other database is cached: %s", r.Payload)
	}
	if v := read(t, mute, 1, fill.Bypass, price(1, 7)); v.Reason != "other_database" {
		t.Errorf("bypassed for %q", v.Reason)
	}
	read(t, right, 2, fill.Miss, price(2, 20))

	// The daemon goes over to the other database, under names that moved with it.
	w.claim(w.where(other))
	read(t, w.reader(nil, other), 1, fill.Miss, price(1, 7))
	testkit.Eventually(t, 10*time.Second, func() error { // names are confirmed every second
		v, err := wrong.Get(t.Context(), "product", arg("1"), nil)
		if err == nil && v.Status != fill.Hit {
			err = errors.New(v.Status.String() + ", for " + v.Reason)
		}
		return err
	})
}

// TestRosterThatNamesNoDatabase: an older daemon does not say which it follows, and is believed.
func TestRosterThatNamesNoDatabase(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r := w.reader(nil, nil)
	read(t, r, 1, fill.Miss, price(1, 10))
	read(t, w.reader(nil, w.sibling()), 1, fill.Hit, price(1, 10))
}

// TestReplicaOfASiblingDatabase: a standby has the databases of its primary, with their OIDs; its URL may name the wrong one.
func TestReplicaOfASiblingDatabase(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.claim(w.where(w.loader))
	d := declarations()["product"]
	r := w.open(fill.Options{
		Followed: -1, Replicas: []fill.Replica{pgload.NewReplica(w.sibling().Pool())}, Entries: map[string]fill.Entry{"product": {Declared: d}},
	})
	read(t, r, 1, fill.Miss, price(1, 10))
	if got := r.Stats().Replicas; got["foreign"] != 1 || got["used"] != 0 {
		t.Errorf("replicas: %v", got)
	}
}
