package fill_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/pgload"
)

// getCode reads an entry that code loads.
func getCode(ctx context.Context, r *fill.Reader, id string, load fill.LoadFunc) (fill.Value, error) {
	return r.Get(ctx, "code", arg(id), load)
}

// TestLoaderThatBreaks: a loader that panics, ends its goroutine, fails, or takes longer than it may is the error of its reads, and
// of nobody else's; the next load is another one.
func TestLoaderThatBreaks(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.loads = hurried
	r := w.under(nil, fill.Policy{})
	failure := errors.New("the invoices are gone")
	for i, tt := range []struct {
		name string
		load fill.LoadFunc
		is   error
		text string
	}{
		{"panic", func(context.Context, pgload.Querier) ([]byte, bool, error) { panic("no such luck") }, fill.ErrPanic, "no such luck"},
		{"stack", func(context.Context, pgload.Querier) ([]byte, bool, error) { panic(failure) }, fill.ErrPanic, "limit_test.go"},
		{"exit", func(context.Context, pgload.Querier) ([]byte, bool, error) { runtime.Goexit(); return nil, false, nil }, nil, "Goexit"},
		{"error", func(context.Context, pgload.Querier) ([]byte, bool, error) { return nil, false, failure }, failure, "the invoices are gone"},
		{"hang", func(ctx context.Context, _ pgload.Querier) ([]byte, bool, error) {
			<-ctx.Done()
			return nil, false, ctx.Err()
		}, fill.ErrTimeout, ""},
	} {
		id := strconv.Itoa(i)
		var waiters sync.WaitGroup
		for range 5 {
			waiters.Go(func() {
				began := time.Now()
				v, err := getCode(t.Context(), r, id, tt.load)
				if err == nil || tt.is != nil && !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.text) {
					t.Errorf("%s: %v %s, %v", tt.name, v.Status, v.Payload, err)
				}
				if took := time.Since(began); took > 2*hurried {
					t.Errorf("%s: after %s", tt.name, took)
				}
			})
		}
		waiters.Wait()
		eventually(t, func() error { // once the load that failed is over
			v, err := getCode(t.Context(), r, id, func(context.Context, pgload.Querier) ([]byte, bool, error) { return []byte(`"well"`), true, nil })
			if err == nil && string(v.Payload) != `"well"` {
				err = fmt.Errorf("after %s: %s", tt.name, v.Payload)
			}
			return err
		})
	}
	read(t, r, 1, fill.Miss, price(1, 10)) // its connections are none the worse
}

// TestTooLargeAValue is returned and not stored, and leaves no lease behind; likewise one that Redis refuses.
func TestTooLargeAValue(t *testing.T) {
	t.Parallel()
	large := func(size int) fill.LoadFunc {
		return func(context.Context, pgload.Querier) ([]byte, bool, error) {
			return []byte(`"` + strings.Repeat("x", size-2) + `"`), true, nil
		}
	}
	w := newWorld(t, options{ownRedis: true})
	r := w.under(nil, fill.Policy{MaxValue: 1000})
	for range 2 {
		v, err := getCode(t.Context(), r, "1", large(1001))
		if err != nil || len(v.Payload) != 1001 || v.Status != fill.Miss || v.Reason != "too_large" {
			t.Fatalf("%v (%s), %d bytes, %v", v.Status, v.Reason, len(v.Payload), err)
		}
		if record, text := w.record(w.name("code", "1")); record.State != fence.None || !record.Lease.IsZero() {
			t.Errorf("the store has %q", text)
		}
	}
	if s := r.Stats(); s.Refused["too_large"] != 2 || s.Fills != 0 {
		t.Errorf("Stats = %+v", s)
	}
	if v, err := getCode(t.Context(), r, "2", large(1000)); err != nil || v.Reason != "" {
		t.Errorf("at the limit: %v (%s), %v", v.Status, v.Reason, err)
	}
	w.redis.Do(t, "CONFIG", "SET", "proto-max-bulk-len", "1mb")
	unlimited := w.under(nil, fill.Policy{})
	for range 3 {
		v, err := getCode(t.Context(), unlimited, "3", large(2<<20))
		if err != nil || len(v.Payload) != 2<<20 {
			t.Fatalf("%v (%s), %d bytes, %v", v.Status, v.Reason, len(v.Payload), err)
		}
	}
	if s := unlimited.Stats(); s.Fills != 0 {
		t.Errorf("Stats = %+v", s)
	}
	eventually(t, hits(t, unlimited, price(1, 10)))
}

// TestLoadsAreLimited: no more run at a time than may, of an entry and of all, and what would have to wait for too long, or behind
// too many, is told that it cannot be had.
func TestLoadsAreLimited(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.loads = 2 * hurried // of which a load waits half for its turn
	var now, most atomic.Int64
	open := make(chan struct{})
	loader := &slow{Loader: w.loader}
	loader.before = func(ctx context.Context) {
		n := now.Add(1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		select {
		case <-open:
		case <-ctx.Done():
		}
	}
	loader.after = func(context.Context) { now.Add(-1) }
	r := w.under(loader, fill.Policy{MaxLoads: 3})
	var (
		waiters sync.WaitGroup
		refused atomic.Int64
	)
	for i := range 40 {
		waiters.Go(func() {
			_, err := r.Get(t.Context(), "product", arg(strconv.Itoa(i+1)), nil)
			switch {
			case err == nil:
			case errors.Is(err, fill.ErrUnavailable) && errors.Is(err, fill.ErrOverloaded):
				refused.Add(1)
			default:
				t.Errorf("product %d: %v", i, err)
			}
		})
	}
	eventually(t, func() error {
		if n := refused.Load(); n != 37 {
			return fmt.Errorf("%d were refused", n)
		}
		return nil
	})
	close(open)
	waiters.Wait()
	if most.Load() != 3 {
		t.Errorf("%d loads at a time, want 3", most.Load())
	}
	if s := r.Stats(); s.Overloaded != 37 || s.Loads != 3 {
		t.Errorf("Stats = %+v", s)
	}
	read(t, r, 50, fill.Miss, price(50, 500))
}

// TestNegativeFlood: many keys that are not there cost a load each, a bounded number at a time, and what the process
// keeps of them does not grow with their number. FLOOD=long has it be a hundred thousand.
func TestNegativeFlood(t *testing.T) { //nolint:paralleltest // the heap is that of all tests that run
	w := newWorld(t, options{})
	var now, most atomic.Int64
	loader := &slow{Loader: w.loader}
	loader.before = func(context.Context) {
		n := now.Add(1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
	}
	loader.after = func(context.Context) { now.Add(-1) }
	entries := policed(fill.Policy{})
	for name, e := range entries {
		e.LoadTimeout = time.Minute // it is about how much is loaded, not about how fast that is
		entries[name] = e
	}
	w.batches()
	r := w.readerOf(nil, loader, entries)
	const alone, together, readers = 10_000, 100, 64
	keys := 20_000
	if os.Getenv("FLOOD") == "long" {
		keys = 100_000
	}
	flood := func(from, to int) {
		var group sync.WaitGroup
		var next atomic.Int64
		next.Store(int64(from))
		for range readers {
			group.Go(func() {
				for id := next.Add(1); id <= int64(to) && !t.Failed(); id = next.Add(1) {
					v, err := r.Get(t.Context(), "product", arg(strconv.FormatInt(id, 10)), nil)
					if err != nil || v.Found {
						t.Errorf("product %d: %v, %v", id, v.Found, err)
					}
				}
			})
		}
		group.Wait()
	}
	many := func(from, to int) {
		var group sync.WaitGroup
		var next atomic.Int64
		next.Store(int64(from))
		for range readers {
			group.Go(func() {
				for last := next.Add(together); last <= int64(to) && !t.Failed(); last = next.Add(together) {
					ids := make([]int, together)
					for i := range ids {
						ids[i] = int(last) - together + i + 1
					}
					for i, a := range r.GetMany(t.Context(), "product", numbered(ids...), &fill.Demand{}) {
						if a.Err != nil || a.Value.Found {
							t.Errorf("product %d: %v, %v", ids[i], a.Value.Found, a.Err)
						}
					}
				}
			})
		}
		group.Wait()
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	flood(1000, 6000)
	before := heap()
	flood(6000, 1000+alone)
	many(1000+alone, 1000+keys)
	after := heap()
	if most.Load() > 32 {
		t.Errorf("%d loads at a time", most.Load())
	}
	if after > before+16<<20 {
		t.Errorf("the heap grew from %d to %d bytes over %d keys", before, after, keys)
	}
	if s := r.Stats(); s.Loads < uint64(alone+(keys-alone)/together) || s.Loads > uint64(keys+readers) || s.Fills != uint64(keys) {
		t.Errorf("%d loads of %d keys, of which %d are stored", s.Loads, keys, s.Fills)
	}
}

// TestBreaker: a database that does not answer is asked now and then, and hits go on; once it answers, so do reads.
func TestBreaker(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{ownPostgres: true})
	loader := &slow{Loader: w.loader}
	r := w.under(loader, fill.Policy{})
	read(t, r, 1, fill.Miss, price(1, 10))
	w.pg.Stop(t)
	for range 200 {
		if _, err := r.Get(t.Context(), "product", arg("2"), nil); !errors.Is(err, fill.ErrUnavailable) {
			t.Fatal(err)
		}
		read(t, r, 1, fill.Hit, price(1, 10))
	}
	s := r.Stats()
	if !s.Database.Open || s.Database.Opened != 1 || s.Database.Refused < 100 || loader.count.Load() > 60 {
		t.Errorf("%d loads were sent: %+v", loader.count.Load(), s.Database)
	}
	w.pg.Start(t)
	eventually(t, func() error {
		v, err := r.Get(t.Context(), "product", arg("2"), nil)
		if err == nil && string(v.Payload) != price(2, 20) {
			err = fmt.Errorf("%s", v.Payload)
		}
		return err
	})
	if s := r.Stats(); s.Database.Open {
		t.Errorf("after a load that was answered: %+v", s.Database)
	}
}

// TestBreakerIgnoresAnswers: an error that the database answers with is one statement's, however often it comes.
func TestBreakerIgnoresAnswers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.loads = hurried
	r := w.under(nil, fill.Policy{})
	for i := range 50 {
		id := strconv.Itoa(i)
		if _, err := getCode(t.Context(), r, id, func(ctx context.Context, q pgload.Querier) ([]byte, bool, error) {
			var n int
			return nil, false, q.QueryRow(ctx, "SELECT 1/0").Scan(&n)
		}); err == nil {
			t.Fatal("no error")
		}
	}
	// Nor does code that takes its whole time, with whatever that may be.
	r = w.readerOf(nil, nil, impatient())
	for range 3 {
		var loaders sync.WaitGroup
		for i := range w.loader.Most() {
			loaders.Go(func() {
				_, err := getCode(t.Context(), r, strconv.Itoa(i), func(ctx context.Context, _ pgload.Querier) ([]byte, bool, error) {
					<-ctx.Done()
					return nil, false, ctx.Err()
				})
				if !errors.Is(err, fill.ErrTimeout) {
					t.Error(err)
				}
			})
		}
		loaders.Wait()
	}
	if s := r.Stats(); s.Database.Opened != 0 {
		t.Errorf("%+v", s.Database)
	}
}

// impatient are entries whose loads are given up early.
func impatient() map[string]fill.Entry {
	entries := policed(fill.Policy{})
	for name, e := range entries {
		e.LoadTimeout = 500 * time.Millisecond
		entries[name] = e
	}
	return entries
}

// TestBusyPool: that all connections of the pool are in use says nothing of the database; and no more loads are let run, unless somebody says
// so, than there are connections for.
func TestBusyPool(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	var held []*pgxpool.Conn
	for range w.loader.Most() {
		conn, err := w.db.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, conn)
	}
	free := func() {
		for _, conn := range held {
			conn.Release()
		}
		held = nil
	}
	defer free()
	r, err := fill.New(fill.Options{Namespace: w.namespace, Store: w.store, Loader: w.loader, Entries: impatient(), MaxLoads: 32, Patience: w.patience})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	var readers sync.WaitGroup
	for i := range 32 {
		readers.Go(func() {
			if _, err := r.Get(t.Context(), "product", arg(strconv.Itoa(i)), nil); !errors.Is(err, fill.ErrTimeout) {
				t.Error(err)
			}
		})
	}
	readers.Wait()
	eventually(t, func() error { // loads end later than who waits for them
		if s := r.Stats(); s.LoadErrors+s.Database.Refused < 32 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	if s := r.Stats(); s.Database.Opened != 0 {
		t.Errorf("the database counts as one that does not answer: %+v", s.Database)
	}
	limited := w.readerOf(nil, nil, impatient())
	for i := range 32 {
		readers.Go(func() {
			_, err := limited.Get(t.Context(), "product", arg(strconv.Itoa(i)), nil)
			if !errors.Is(err, fill.ErrTimeout) && !errors.Is(err, fill.ErrOverloaded) {
				t.Error(err)
			}
		})
	}
	readers.Wait()
	if s := limited.Stats(); s.Loads > uint64(w.loader.Most()) {
		t.Errorf("%d loads ran, with %d connections", s.Loads, w.loader.Most())
	}
	free()
	eventually(t, func() error {
		_, err := limited.Get(t.Context(), "product", arg("1"), nil)
		return err
	})
}

// TestEagerRefresh: a value that is read near the end of its time is loaded again beside the read, once in the fleet; one that is
// not read expires.
func TestEagerRefresh(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{ownRedis: true})
	loader := &slow{Loader: w.loader}
	entries := policed(fill.Policy{Eager: 0.5})
	for name, e := range entries {
		e.TTL, e.LoadUnproved = 6*time.Second, false
		entries[name] = e
	}
	r, other := w.readerOf(nil, loader, entries), w.readerOf(nil, loader, entries)
	read(t, r, 1, fill.Miss, price(1, 10))
	read(t, r, 2, fill.Miss, price(2, 20))
	// Where the machine stands still for as long as a value is due before its time is over, nobody reads it in time.
	began, last, stood := time.Now(), time.Now(), uint64(0)
	for time.Since(began) < 15*time.Second {
		for _, one := range []*fill.Reader{r, other} {
			v, err := one.Get(t.Context(), "product", arg("1"), nil)
			if err != nil || string(v.Payload) != price(1, 10) || v.Status != fill.Hit && time.Since(last) < time.Second {
				t.Fatalf("%v %s, %v", v.Status, v.Payload, err)
			}
			if v.Status != fill.Hit {
				stood++
			}
			last = time.Now()
		}
	}
	var s, o fill.Stats
	eventually(t, func() error {
		if s, o = r.Stats(), other.Stats(); s.Eager+o.Eager != s.EagerStored+o.EagerStored {
			return fmt.Errorf("%d refreshes, %d stored", s.Eager+o.Eager, s.EagerStored+o.EagerStored)
		}
		return nil
	})
	stored := s.EagerStored + o.EagerStored
	if stored+stood < 3 || stored > 6 || s.Unchanged+o.Unchanged != stored || s.Misses+o.Misses != 2+stood {
		t.Errorf("%d refreshes within 15 s: %+v, %+v", stored, s, o)
	}
	read(t, r, 2, fill.Miss, price(2, 20))
}
