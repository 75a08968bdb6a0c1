package fill_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/memstore"
	"github.com/freshet/freshet/internal/redisstore"
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

// TestWaitersOverOneMemory: two readers share a store in memory, as a service and the gateway of the daemon inside it do. One of them waits for
// the other's load, and is told.
func TestWaitersOverOneMemory(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	memory := memstore.New(memstore.Options{Namespace: w.namespace})
	conn, err := memory.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	if _, _, err := conn.Claim(t.Context(), w.head.Term); err != nil {
		t.Fatal(err)
	}
	if err := conn.NewGeneration(t.Context(), w.head); err != nil {
		t.Fatal(err)
	}
	roster := w.newRoster(1)
	expected := redisstore.Expected{Generation: w.head.Generation, Term: w.head.Term, Wc: w.head.Wc}
	if err := conn.Move(t.Context(), expected, roster.Text(), roster.Revision, "p"); err != nil {
		t.Fatal(err)
	}
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
