package fill_test

import (
	"strconv"
	"testing"

	"github.com/freshet/freshet/internal/fill"
)

// TestManyTagsByHand: of a read of many keys each load gathers tags of its own; one that ends takes those out of use that are tied to it,
// and the others stay hits.
func TestManyTagsByHand(t *testing.T) {
	t.Parallel()
	w := newHand(t)
	r := w.handReader(nil)
	const keys = 9
	all := make([]fill.Key, keys)
	for i := range all {
		all[i] = number(i + 1)
	}
	tag := func(id int) string { return "third:" + strconv.Itoa(id%3) }
	many := func(want func(id int) fill.Status) {
		t.Helper()
		for i, a := range r.ReadMany(t.Context(), "hand", all, func(i int) fill.LoadFunc { return priced(i+1, nil, tag(i+1)) }, &fill.Demand{}) {
			if a.Err != nil {
				t.Fatalf("key %d: %v", i+1, a.Err)
			}
			expect(t, a.Value, want(i+1), strconv.Itoa(10*(i+1)))
		}
	}
	of := func(status fill.Status) func(int) fill.Status { return func(int) fill.Status { return status } }
	many(of(fill.Miss))
	many(of(fill.Hit))
	w.end(w.epoch("hand", tagged("third:1")))
	many(func(id int) fill.Status {
		if id%3 == 1 {
			return fill.Miss
		}
		return fill.Hit
	})
	many(of(fill.Hit))
	w.end(w.epoch("hand", "~t"))
	many(of(fill.Miss))
	// The same values are hits of single reads, and the other way round.
	for id := 1; id <= keys; id++ {
		w.hand(r, id, priced(id, nil, tag(id)), fill.Hit, strconv.Itoa(10*id))
	}
}
