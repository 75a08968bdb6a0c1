package fill_test

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/freshet/freshet/internal/fill"
)

const (
	briefly = 4 * time.Second // the load timeout of who reads from a store that hangs
	// atMost is what a read may take of it: the load timeout, and a margin for a machine that has other things to do.
	atMost = 2 * briefly
)

// brief opens a reader whose loads may take no longer than briefly.
func (w *world) brief(store fill.Store, loader fill.Loader) *fill.Reader {
	w.t.Helper()
	return w.readerOf(store, loader, map[string]fill.Entry{
		"product": {Declared: declarations()["product"], TTL: time.Minute, LoadTimeout: briefly},
	})
}

// warm has all connections made that loads may use: on a busy machine the database is not also to start a process for each of them.
func (w *world) warm() {
	w.t.Helper()
	pool := w.loader.Pool()
	var held []*pgxpool.Conn
	for range pool.Config().MaxConns {
		conn, err := pool.Acquire(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		held = append(held, conn)
	}
	for _, conn := range held {
		conn.Release()
	}
}

// TestRedisHangs freezes Redis under 16 concurrent readers, half of which would hit. The database answers them all soon,
// and whoever comes after them at once; what changed meanwhile is what is read ever after. How long the database takes is not what is
// measured: the load timeout leaves it time, and of those who come later it is taken off.
func TestRedisHangs(t *testing.T) {
	t.Parallel()
	for name, idle := range map[string]time.Duration{"busy": 0, "idle": trust + 200*time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, options{ownRedis: true, away: true})
			var asked time.Time
			var answered time.Duration // in; of who reads alone
			loader := &slow{Loader: w.loader}
			r := w.readerOf(nil, loader, map[string]fill.Entry{
				"product": {Declared: declarations()["product"], TTL: time.Minute, LoadTimeout: 4 * briefly},
			})
			w.warm()
			eventually(t, hits(t, r, price(1, 10)))
			pause(t, idle)
			w.redis.Freeze(t)
			w.reprice()
			const readers = 16
			failures := make(chan error, readers)
			for i := range readers {
				go func() { failures <- bypassed(t.Context(), r, 1+i%2*i, atMost) }()
			}
			for range readers {
				if err := <-failures; err != nil {
					t.Error(err)
				}
			}
			loader.before = func(context.Context) { asked = time.Now() }
			loader.after = func(context.Context) { answered = time.Since(asked) }
			// For longer than the store is left alone, so that it is tried in between.
			for start := time.Now(); time.Since(start) < trust; {
				began := time.Now()
				if err := bypassed(t.Context(), r, 1, 4*briefly); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(began) - answered; took > briefly/2 {
					t.Fatalf("a reader who comes later takes %v besides the database's %v", took, answered)
				}
			}
			w.redis.Thaw(t)
			w.confirm(w.name("product", "1"))
			eventually(t, hits(t, r, price(1, 11)))
			for range 20 {
				read(t, r, 1, fill.Hit, price(1, 11))
			}
		})
	}
}

// bypassed reads a product past a store that hangs.
func bypassed(ctx context.Context, r *fill.Reader, id int, within time.Duration) error {
	want := price(id, 10*id)
	if id == 1 {
		want = price(1, 11)
	}
	start := time.Now()
	v, err := r.Get(ctx, "product", arg(strconv.Itoa(id)), nil)
	took := time.Since(start)
	if err != nil {
		return fmt.Errorf("product %d after %v: %w", id, took, err)
	}
	if v.Status != fill.Bypass || v.Reason != "store_unavailable" || string(v.Payload) != want {
		return fmt.Errorf("product %d = %v (%s) %s, want %s", id, v.Status, v.Reason, v.Payload, want)
	}
	if took > within {
		return fmt.Errorf("product %d took %v, longer than %v", id, took, within)
	}
	return nil
}

// TestRedisHangsBeforeTheLease: the GET is answered, the LEASE is not.
func TestRedisHangsBeforeTheLease(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{ownRedis: true, away: true})
	store := &hooks{Store: w.store}
	r := w.brief(store, nil)
	read(t, r, 1, fill.Miss, price(1, 10))
	store.afterGet = func(string) { w.redis.Freeze(t) }
	if err := bypassed(t.Context(), r, 2, atMost); err != nil {
		t.Error(err)
	}
	w.redis.Thaw(t)
}

// TestRedisHangsBeforeTheFill: the row is there, and is not withheld because it cannot be stored.
func TestRedisHangsBeforeTheFill(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{ownRedis: true, away: true})
	loader := &slow{Loader: w.loader}
	r := w.brief(nil, loader)
	read(t, r, 1, fill.Miss, price(1, 10))
	loader.after = func(context.Context) { w.redis.Freeze(t) } //nolint:contextcheck // it does not depend on the load
	start := time.Now()
	if v := read(t, r, 2, fill.Miss, price(2, 20)); v.Reason != "store_error" {
		t.Errorf("%+v", v)
	}
	if took := time.Since(start); took > atMost {
		t.Errorf("took %v", took)
	}
	w.redis.Thaw(t)
}

// TestRedisHangsUnderAWaiter: a process that waits for another one's load gives up in time to load by itself.
func TestRedisHangsUnderAWaiter(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{ownRedis: true, away: true})
	held := newValve()
	defer close(held.open)
	holder := w.brief(nil, &slow{Loader: w.loader, before: held.pass})
	background(t.Context(), holder, "2")
	<-held.reached
	r := w.brief(nil, nil)
	read(t, r, 1, fill.Miss, price(1, 10))
	start := time.Now()
	done := background(t.Context(), r, "2")
	eventually(t, func() error {
		if s := r.Stats(); s.Waits != 1 {
			return fmt.Errorf("%d wait", s.Waits)
		}
		return nil
	})
	w.redis.Freeze(t)
	a := <-done
	if a.err != nil || a.value.Status != fill.Bypass || string(a.value.Payload) != price(2, 20) {
		t.Errorf("%+v %s, %v", a.value, a.value.Payload, a.err)
	}
	if took := time.Since(start); took > atMost {
		t.Errorf("took %v", took)
	}
	w.redis.Thaw(t)
}

// held is the real store, with a step before each GET.
type held struct {
	fill.Store
	beforeGet func(context.Context)
}

func (h *held) Read(ctx context.Context, name string) ([]byte, error) {
	h.beforeGet(ctx)
	return h.Store.Read(ctx, name)
}

// TestRedisHangsAfterAConfirmation: who learns that the store hangs tells the others, also when the names have been
// confirmed since that reader began.
func TestRedisHangsAfterAConfirmation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{ownRedis: true, away: true})
	first := newValve()
	heads := &hooks{Store: w.store}
	r := w.brief(&held{Store: heads, beforeGet: first.pass}, nil)
	done := background(t.Context(), r, "1")
	<-first.reached
	begun := heads.heads.Load()
	eventually(t, func() error {
		if _, err := r.Get(t.Context(), "product", arg("2"), nil); err != nil {
			return err
		}
		if heads.heads.Load() == begun {
			return fmt.Errorf("the names were confirmed %d times", begun)
		}
		return nil
	})
	pause(t, trust/10) // for its answer
	w.redis.Freeze(t)
	w.reprice()
	close(first.open)
	if a := <-done; a.err != nil || a.value.Status != fill.Bypass || string(a.value.Payload) != price(1, 11) {
		t.Errorf("%+v %s, %v", a.value, a.value.Payload, a.err)
	}
	if err := bypassed(t.Context(), r, 2, briefly/2); err != nil {
		t.Error(err)
	}
	w.redis.Thaw(t)
}
