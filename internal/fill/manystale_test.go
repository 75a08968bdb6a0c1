package fill_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/keytext"
)

// gated is a database that answers about many keys, and about one, only once it is open.
func (w *world) gated() (loader *statements, open chan struct{}) {
	open = make(chan struct{})
	wait := func(ctx context.Context) {
		select {
		case <-open:
		case <-ctx.Done():
		}
	}
	loader = &statements{Loader: w.loader, before: func(keys [][]keytext.Arg) {
		ctx, cancel := context.WithTimeout(w.t.Context(), time.Duration(len(keys))*30*time.Second)
		defer cancel()
		wait(ctx)
	}}
	return loader, open
}

// TestManyServesStale: of many keys those that have just changed are there at once, stale, like those that have not; one statement
// loads them, and a read of nothing stale waits for it.
func TestManyServesStale(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.batches()
	loader, open := w.gated()
	policy := fill.Policy{StaleFor: time.Minute}
	first, r, other := w.under(nil, policy), w.under(loader, policy), w.under(loader, policy)
	readMany(t, first, nil, upTo(10), nil)
	w.marked()
	w.update(w.name("product", "2"), "UPDATE product SET price = 21 WHERE id = 2")
	want := map[string]int{"hit": 8, "stale": 2}
	for range 10 {
		for _, one := range []*fill.Reader{r, other} {
			if got := readMany(t, one, nil, upTo(10), nil); !cmp.Equal(got, want) {
				t.Fatalf("statuses %v, want %v", got, want)
			}
		}
	}
	if a := r.GetMany(t.Context(), "product", numbered(1, 3), &fill.Demand{})[0]; a.Value.Reason != "changed" || a.Value.StaleBy <= 0 {
		t.Errorf("the stale value is %q by %s", a.Value.Reason, a.Value.StaleBy)
	}
	fresh := make(chan map[string]int, 1)
	go func() {
		fresh <- readMany(t, other, &fill.Demand{Fresh: true}, upTo(3), map[int]int{1: 11, 2: 21})
	}()
	close(open)
	if got := <-fresh; got["stale"] != 0 {
		t.Errorf("of nothing stale: %v", got)
	}
	eventually(t, func() error {
		if got := readMany(t, r, &fill.Demand{Fresh: true}, upTo(10), map[int]int{1: 11, 2: 21}); got["hit"] != 10 {
			return fmt.Errorf("statuses %v", got)
		}
		return nil
	})
	if n := loader.many.Load() + loader.single.Load(); n != 1 {
		t.Errorf("%d statements for the two that had changed", n)
	}
	if s, o := r.Stats(), other.Stats(); s.Stale["changed"]+o.Stale["changed"] != 41 || s.StaleMicroseconds == 0 {
		t.Errorf("Stats = %+v, %+v", s.Stale, o.Stale)
	}
}

// TestManyStaleInTheSteadOf a load that is slow, or fails: the keys that have a stale value have that, and the others the error.
func TestManyStaleInTheSteadOf(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{ownPostgres: true})
	w.batches()
	loader, open := w.gated()
	policy := fill.Policy{StaleOnError: time.Minute, SoftTimeout: 100 * time.Millisecond}
	first, r := w.under(nil, policy), w.under(loader, policy)
	readMany(t, first, nil, []int{1, 2}, nil)
	w.marked()
	began := time.Now()
	answers := r.GetMany(t.Context(), "product", numbered(1, 2), &fill.Demand{})
	if v := answers[0].Value; answers[0].Err != nil || v.Status != fill.Stale || v.Reason != "load_slow" || string(v.Payload) != price(1, 10) {
		t.Errorf("%v %s (%s), %v", v.Status, v.Payload, v.Reason, answers[0].Err)
	}
	if v := answers[1].Value; answers[1].Err != nil || v.Status != fill.Hit {
		t.Errorf("%v %s (%s), %v", v.Status, v.Payload, v.Reason, answers[1].Err)
	}
	if took := time.Since(began); took < 90*time.Millisecond || took > unhurried/2-time.Second {
		t.Errorf("after %s", took)
	}
	close(open)
	eventually(t, hits(t, first, price(1, 11))) // the load went on
	w.update(w.name("product", "1"), "UPDATE product SET price = 12 WHERE id = 1")
	w.pg.Stop(t)
	for range 3 {
		answers = r.GetMany(t.Context(), "product", numbered(1, 2, 3), &fill.Demand{})
		if v := answers[0].Value; answers[0].Err != nil || v.Status != fill.Stale || v.Reason == "changed" || string(v.Payload) != price(1, 11) {
			t.Errorf("%v %s (%s), %v", v.Status, v.Payload, v.Reason, answers[0].Err)
		}
		if answers[1].Err != nil || !errors.Is(answers[2].Err, fill.ErrUnavailable) {
			t.Errorf("%v, %v", answers[1].Err, answers[2].Err)
		}
	}
	strict := w.under(nil, fill.Policy{})
	if a := strict.GetMany(t.Context(), "product", numbered(1, 2), &fill.Demand{})[0]; !errors.Is(a.Err, fill.ErrUnavailable) {
		t.Errorf("without a policy: %v %s, %v", a.Value.Status, a.Value.Payload, a.Err)
	}
}

// TestManyOfADatabaseThatIsGone: the breaker keeps reads of many keys from it as well, and lets them through once it answers.
func TestManyOfADatabaseThatIsGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{ownPostgres: true})
	w.batches()
	loader := &statements{Loader: w.loader}
	r := w.under(loader, fill.Policy{})
	readMany(t, r, nil, []int{1, 2}, nil)
	w.pg.Stop(t)
	for range 100 {
		answers := r.GetMany(t.Context(), "product", numbered(1, 3, 4), &fill.Demand{})
		if answers[0].Err != nil || !errors.Is(answers[1].Err, fill.ErrUnavailable) || !errors.Is(answers[2].Err, fill.ErrUnavailable) {
			t.Fatalf("%v, %v, %v", answers[0].Err, answers[1].Err, answers[2].Err)
		}
	}
	if s := r.Stats(); !s.Database.Open || s.Database.Opened != 1 || s.Database.Refused < 50 || loader.many.Load() > 50 {
		t.Errorf("%d statements were sent: %+v", loader.many.Load(), s.Database)
	}
	w.pg.Start(t)
	eventually(t, func() error {
		answers := r.GetMany(t.Context(), "product", numbered(3, 4), &fill.Demand{})
		return errors.Join(answers[0].Err, answers[1].Err)
	})
	if s := r.Stats(); s.Database.Open {
		t.Errorf("after a load that was answered: %+v", s.Database)
	}
}

// TestManyTooLarge: those that are larger than may be stored are returned, and leave no lease.
func TestManyTooLarge(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.batches()
	r := w.under(nil, fill.Policy{MaxValue: len(price(9, 90))})
	for range 2 {
		for i, a := range r.GetMany(t.Context(), "product", numbered(8, 9, 10, 11), &fill.Demand{}) {
			id, why := i+8, ""
			if id >= 10 {
				why = "too_large"
			}
			if v := a.Value; a.Err != nil || v.Reason != why || string(v.Payload) != price(id, 10*id) {
				t.Errorf("product %d: %v %s (%s), %v", id, v.Status, v.Payload, v.Reason, a.Err)
			}
			record, text := w.record(w.name("product", strconv.Itoa(id)))
			if (record.State == fence.Live) != (why == "") || !record.Lease.IsZero() {
				t.Errorf("product %d: the store has %q", id, text)
			}
		}
	}
	if s := r.Stats(); s.Refused["too_large"] != 4 || s.Fills != 2 {
		t.Errorf("%+v", s)
	}
}

// TestManyLoadsAreLimited: a statement for many keys is one of the loads that an entry may have at a time.
func TestManyLoadsAreLimited(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.batches()
	var now, most atomic.Int64
	loader, open := w.gated()
	hold := loader.before
	loader.before = func(keys [][]keytext.Arg) {
		most.Store(max(most.Load(), now.Add(1)))
		hold(keys)
		now.Add(-1)
	}
	r := w.under(loader, fill.Policy{MaxLoads: 1})
	done := make(chan []fill.Answer, 2)
	for i := range 2 {
		go func() { done <- r.GetMany(t.Context(), "product", numbered(10*i+1, 10*i+2), &fill.Demand{}) }()
	}
	for _, a := range <-done { // the one that had to wait for longer than it may
		if !errors.Is(a.Err, fill.ErrOverloaded) || !errors.Is(a.Err, fill.ErrUnavailable) {
			t.Errorf("%s, %v", a.Value.Payload, a.Err)
		}
	}
	close(open)
	<-done
	if most.Load() != 1 {
		t.Errorf("%d statements at a time", most.Load())
	}
	readMany(t, r, nil, upTo(20), nil)
}

// TestManyRefreshAhead: what many keys hit near the end of its time is loaded again beside the read.
func TestManyRefreshAhead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.batches()
	entries := policed(fill.Policy{Eager: 0.9})
	for name, e := range entries {
		e.TTL = 10 * time.Second
		entries[name] = e
	}
	r := w.readerOf(nil, nil, entries)
	readMany(t, r, nil, []int{1, 2}, nil)
	eventually(t, func() error {
		if got := readMany(t, r, nil, []int{1, 2}, nil); got["hit"] != 2 {
			t.Fatalf("statuses %v", got)
		}
		if s := r.Stats(); s.EagerStored < 2 {
			return fmt.Errorf("%d were loaded again, %d stored", s.Eager, s.EagerStored)
		}
		return nil
	})
}
