package fill_test

import (
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fill"
)

// bound reads product id, which may miss what is older than a second, by all that can prove it.
func bound(t *testing.T, r *fill.Reader, id string, status fill.Status, payload string) {
	t.Helper()
	v, err := r.GetUnder(t.Context(), "product", arg(id), nil, within(time.Second))
	if err != nil || v.Status != status || string(v.Payload) != payload {
		t.Fatalf("within a second: %v %s (%s), %v, want %v %s", v.Status, v.Payload, v.Reason, err, status, payload)
	}
}

// TestWhatWasSeenProvesBounds: the log is not delivered, and HEAD proves nothing. A value that was found to be right serves
// bounded reads of this process for as long as the bound allows, counted from before it was asked for, and not a moment longer.
func TestWhatWasSeenProvesBounds(t *testing.T) {
	t.Parallel()
	w, clock := newWorld(t, options{}), &hands{}
	w.clock = clock.now
	loader := &comparing{Loader: w.loader}
	r := w.readerOf(nil, loader, map[string]fill.Entry{"product": {Declared: declarations()["product"], TTL: time.Minute}})
	read(t, r, 1, fill.Miss, price(1, 10))
	read(t, r, 2, fill.Miss, price(2, 20))
	bound(t, r, "1", fill.Revalidated, price(1, 10)) // a plain read's load is not remembered
	clock.pass(time.Second)
	bound(t, r, "1", fill.Hit, price(1, 10))
	w.reprice()
	bound(t, r, "1", fill.Hit, price(1, 10)) // as it was allowed to
	clock.pass(time.Nanosecond)
	bound(t, r, "1", fill.Miss, price(1, 11))
	bound(t, r, "1", fill.Hit, price(1, 11))
	// What was seen of one value says nothing about another that was loaded before.
	bound(t, r, "2", fill.Revalidated, price(2, 20))
	bound(t, r, "2", fill.Hit, price(2, 20))
	// It does about one that is loaded later, also by another process, and for a plain read.
	other := w.reader(nil, nil)
	read(t, other, 3, fill.Miss, price(3, 30))
	bound(t, r, "3", fill.Hit, price(3, 30))
	if n, _, _ := loader.last(); n != 3 || loader.loads != 2 {
		t.Errorf("%d comparisons, %d loads", n, loader.loads)
	}
	// Nor does it outlive the generation: the value is under another name.
	w.begin()
	bound(t, r, "1", fill.Miss, price(1, 11))
}

// TestSightsOfAnotherServer: ids of transactions of another history are compared with nothing.
func TestSightsOfAnotherServer(t *testing.T) {
	t.Parallel()
	w, clock := newWorld(t, options{}), &hands{}
	w.clock = clock.now
	r := w.readerOf(nil, nil, map[string]fill.Entry{"product": {Declared: declarations()["product"], TTL: time.Minute}})
	bound(t, r, "1", fill.Miss, price(1, 10))
	bound(t, r, "1", fill.Hit, price(1, 10))
	key := "f:" + w.namespace + ":head"
	if err := w.raw.Do(t.Context(), w.raw.B().Hset().Key(key).FieldValue().FieldValue("tl", "00000002").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	if v, err := r.GetUnder(t.Context(), "product", arg("1"), nil, within(time.Second)); err != nil || v.Status == fill.Hit {
		t.Errorf("under the HEAD of another timeline: %v, %v", v.Status, err)
	}
}

// TestManySights: however many there are, few are kept, and of each age some.
func TestManySights(t *testing.T) {
	t.Parallel()
	var s fill.Sights
	const every = 30 * time.Millisecond
	for i := range 10_000 {
		s.Add(uint64(i+1), time.Duration(i)*every)
	}
	now := 10_000 * every
	if n := s.Len(); n > 64 {
		t.Errorf("%d are kept", n)
	}
	for _, tt := range []struct {
		bound, slack time.Duration
	}{{time.Second, 300 * time.Millisecond}, {10 * time.Second, 3 * time.Second}, {200 * time.Second, 60 * time.Second}} {
		proved := 0
		for i := range 10_000 { // the value that saw the i-th snapshot, and no later one
			age := now - time.Duration(i)*every
			got := s.Prove(uint64(i+1), now, tt.bound)
			if got && age > tt.bound {
				t.Fatalf("a value of %v ago is proved to be within %v", age, tt.bound)
			}
			if got {
				proved++
			} else if age <= tt.bound-tt.slack {
				t.Errorf("a value of %v ago is not proved to be within %v", age, tt.bound)
				break
			}
		}
		t.Logf("within %v: %d proved", tt.bound, proved)
	}
	s.Add(10_001, now)
	s.Add(10_002, now+every/10)
	if !s.Prove(10_001, now, 0) {
		t.Error("one that came right after another took its place")
	}
}
