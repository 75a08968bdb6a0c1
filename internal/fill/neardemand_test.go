package fill_test

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/near"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/internal/testkit/faultproxy"
)

// TestManyInMemory: a read of many keys takes those that are held from memory, and holds the others; under a demand those that show it.
func TestManyInMemory(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	m := w.memory("", nil)
	m.holds(1)
	w.confirm() // later than what is held
	keys := [][]keytext.Arg{arg("1"), arg("2"), arg("3"), arg("1"), arg("1000")}
	want := []string{price(1, 10), price(2, 20), price(3, 30), price(1, 10), ""}
	many := func(d *fill.Demand) (inMemory uint64) {
		t.Helper()
		before := m.Stats().HitsL1
		for i, a := range m.GetMany(t.Context(), "product", keys, d) {
			if a.Err != nil || string(a.Value.Payload) != want[i] {
				t.Errorf("%d: %s, %v", i, a.Value.Payload, a.Err)
			}
		}
		return m.Stats().HitsL1 - before
	}
	if n := many(&fill.Demand{}); n != 1 {
		t.Errorf("%d hits in memory, of one that is held", n)
	}
	eventually(t, func() error {
		if n := many(&fill.Demand{}); n != 4 {
			return fmt.Errorf("%d hits in memory", n)
		}
		return nil
	})
	var session fill.Session
	many(&fill.Demand{Session: &session})
	if n := many(&fill.Demand{Session: &session}); n == 0 {
		t.Error("nothing that is held shows what a session has seen")
	}
	want[1] = price(2, 21)
	token := w.write(2, 21)
	if n := many(after(token)); n != 0 {
		t.Errorf("%d hits in memory do not contain the transaction", n)
	}
	w.confirm(w.name("product", "2"))
	eventually(t, func() error {
		if n := many(&fill.Demand{}); n != 4 {
			return fmt.Errorf("%d hits in memory", n)
		}
		return nil
	})
}

// crossed asks for HEAD over another connection than the one that tells of changes: what T26 is about.
type crossed struct {
	telling

	other *redisstore.Store
}

func (c *crossed) HeadOn(ctx context.Context, lane int) (head fence.Head, found bool, wire *store.Wire, err error) {
	head, found, _, err = c.other.HeadOn(ctx, lane)
	return head, found, c.Wire(lane), err
}

// TestHeadOnTheConnectionThatTells is T26: HEAD vouches for a change whose push waits. A read that has to contain it does not get what is
// held, since HEAD is asked for where the push is; asked for elsewhere, it would.
func TestHeadOnTheConnectionThatTells(t *testing.T) {
	t.Parallel()
	for _, planted := range []bool{false, true} {
		w := newWorld(t, options{away: true})
		m := w.memory("", func(s *redisstore.Store) fill.Store {
			if planted {
				return &crossed{telling: telling{Store: s, Tells: s}, other: w.store}
			}
			return s
		})
		m.holds(1)
		token := w.after(w.write(1, 12))
		m.proxy.Hold(faultproxy.ToClient)
		w.confirm(w.name("product", "1"))
		v, err := m.GetUnder(t.Context(), "product", arg("1"), nil, after(token))
		if err != nil {
			t.Fatal(err)
		}
		if old := string(v.Payload) == price(1, 10); old != planted {
			t.Errorf("planted %t: %s as %v", planted, v.Payload, v.Status)
		}
	}
}

// TestDemandsInMemory: what a value that is held covers itself needs nobody's word; what it does not, HEAD's, without the record.
func TestDemandsInMemory(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	heads := new(atomic.Int64)
	m := w.memory("", func(s *redisstore.Store) fill.Store {
		return &hooks{Store: s, afterHead: func(string) { heads.Add(1) }}
	})
	token := w.write(1, 12)
	m.holds(1)
	later := w.after(w.write(2, 12)) // which product 1 does not depend on
	w.confirm(w.name("product", "2"))
	var session fill.Session
	before := m.Stats()
	for _, d := range []*fill.Demand{after(token), {Session: &session}, {Session: &session}} {
		under(t, m.Reader, 1, d, fill.Hit, price(1, 12))
	}
	m.proxy.Hold(faultproxy.Both) // and that is true without a network
	under(t, m.Reader, 1, after(token), fill.Hit, price(1, 12))
	m.proxy.Heal()
	under(t, m.Reader, 1, after(later), fill.Hit, price(1, 12))
	if s := m.Stats(); s.HitsL1-before.HitsL1 != 5 || heads.Load() != 0 {
		t.Errorf("%d hits in memory, %d records read with HEAD", s.HitsL1-before.HitsL1, heads.Load())
	}
	unconfirmed := w.write(1, 13)
	under(t, m.Reader, 1, after(unconfirmed), fill.Miss, price(1, 13))
	w.write(1, 14)
	under(t, m.Reader, 1, &fill.Demand{Revalidate: true}, fill.Miss, price(1, 14))
	w.write(1, 15)
	under(t, m.Reader, 1, &fill.Demand{Past: true}, fill.Bypass, price(1, 15))
	under(t, m.Reader, 1, &fill.Demand{Bounded: true}, fill.Miss, price(1, 15))
}

// TestTiedValuesInMemory: a value that is held goes with an epoch that it is tied to, and not with a fill that is tied to the same one.
func TestTiedValuesInMemory(t *testing.T) {
	t.Parallel()
	w := newTied(t, options{})
	held := near.New(1 << 20)
	kept, err := redisstore.Open(t.Context(), redisstore.Options{URL: w.redis.URL, Namespace: w.namespace, Near: held, Patience: w.patience})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kept.Close)
	entries := map[string]fill.Entry{}
	for _, d := range tiedDeclarations() {
		entries[d.Name] = fill.Entry{Declared: d, TTL: time.Minute, Near: true}
	}
	r := w.open(fill.Options{Store: kept, Entries: entries, Near: held})
	hits := func(user string) {
		t.Helper()
		eventually(t, func() error {
			before := r.Stats().HitsL1
			get(t, r, "teams", user)
			if r.Stats().HitsL1 == before {
				return fmt.Errorf("not held: %+v", held.Stats())
			}
			return nil
		})
	}
	hits("1")
	before := held.Stats()
	other := w.tiedReader(nil, nil)
	for user := 2; user <= 4; user++ {
		get(t, other, "teams", strconv.Itoa(user)) // of which some have a team in common with the first, and all the rule's own epoch
	}
	if _, err := kept.Read(t.Context(), "f:"+w.namespace+":nothing"); err != nil { // what was said has been heard
		t.Fatal(err)
	}
	if s := held.Stats(); s.Pushed != before.Pushed || s.Records != 1 {
		t.Errorf("another fill has ended it: %+v", s)
	}
	hits("1")
	w.end(w.epoch("teams", "~1"))
	eventually(t, func() error {
		if v := get(t, r, "teams", "1"); v.Status != fill.Miss {
			return fmt.Errorf("%v", v.Status)
		}
		return nil
	})
	hits("1")
}
