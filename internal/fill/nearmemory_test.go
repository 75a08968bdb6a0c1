package fill_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/memstore"
	"github.com/freshet/freshet/internal/pgload"
)

// glances counts how often records are looked at.
type glances struct {
	*memstore.Store
	reads atomic.Int64
}

func (l *glances) Read(ctx context.Context, name string) ([]byte, error) {
	l.reads.Add(1)
	return l.Store.Read(ctx, name)
}

// inMemory is a store in memory, of a size, with what a daemon writes into it when it starts.
func (w *world) inMemory(size int64) *memstore.Store {
	w.t.Helper()
	memory := memstore.New(memstore.Options{Namespace: w.namespace, Size: size})
	conn, err := memory.Connect(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(conn.Close)
	if _, _, err := conn.Claim(w.t.Context(), w.head.Term); err != nil {
		w.t.Fatal(err)
	}
	if err := conn.NewGeneration(w.t.Context(), w.head); err != nil {
		w.t.Fatal(err)
	}
	roster := w.newRoster(1)
	if err := conn.Move(w.t.Context(), w.expected(), roster.Text(), roster.Revision, "p"); err != nil {
		w.t.Fatal(err)
	}
	return memory
}

// TestTooLargeForMemory: a value that the store keeps nothing of is returned, counted as what it is, and leaves no lease behind.
func TestTooLargeForMemory(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	memory := w.inMemory(1 << 20)
	sized := func(size int) fill.LoadFunc {
		return func(context.Context, pgload.Querier) ([]byte, bool, error) { return make([]byte, size), true, nil }
	}
	reader := w.readerOf(memory, nil, policed(fill.Policy{}))
	for range 2 {
		if v, err := getCode(t.Context(), reader, "1", sized(200_000)); err != nil || v.Status != fill.Miss || len(v.Payload) != 200_000 {
			t.Errorf("%v of %d bytes, %v", v.Status, len(v.Payload), err)
		}
	}
	if s := reader.Stats(); s.Fills != 0 || s.Refused["too_large"] != 2 || s.Waits != 0 {
		t.Errorf("%+v", s)
	}
	if v, err := getCode(t.Context(), reader, "1", sized(1000)); err != nil || v.Status != fill.Miss {
		t.Errorf("a smaller one: %v, %v", v.Status, err)
	}
	if v, err := getCode(t.Context(), reader, "1", sized(1000)); err != nil || v.Status != fill.Hit {
		t.Errorf("a smaller one again: %v, %v", v.Status, err)
	}
}

// TestWaitersOverOneMemory: two readers share a store in memory, as a service and the gateway of the daemon inside it do. One of them waits for
// the other's load, and is told.
func TestWaitersOverOneMemory(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	memory := w.inMemory(0)
	const takes = 600 * time.Millisecond
	loader := &slow{Loader: w.loader, before: func(ctx context.Context) {
		select {
		case <-ctx.Done():
		case <-time.After(takes):
		}
	}}
	first, kept := w.reader(memory, loader), &glances{Store: memory}
	second := w.reader(kept, loader)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, err := first.Get(t.Context(), "product", arg("1"), nil); err != nil {
			t.Error(err)
		}
	}()
	eventually(t, func() error {
		if loader.count.Load() == 0 {
			return errors.New("it is not being loaded")
		}
		return nil
	})
	read(t, second, 1, fill.Hit, price(1, 10))
	<-done
	// The first look, one after 2 ms, and the one that it is told to take. Looking every 50 ms would be a dozen.
	if n := kept.reads.Load(); n > 5 {
		t.Errorf("the record was looked at %d times", n)
	}
	if n := loader.count.Load(); n != 1 {
		t.Errorf("%d loads", n)
	}
}
