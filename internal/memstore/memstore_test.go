package memstore

import (
	"context"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/pipeline"
	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/storetest"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func open(_ testing.TB, _ int) *storetest.Opened {
	s := New(Options{Namespace: "test"})
	return &storetest.Opened{
		Store:   s,
		Connect: func(ctx context.Context) (pipeline.Conn, error) { return s.Connect(ctx) },
		Close:   func() {},
		Prefix:  "f:test:",
		Put: func(name, text string) error {
			part := s.shardOf(name)
			part.mu.Lock()
			defer part.mu.Unlock()
			s.used.Add(part.put(name, []byte(text), s.now()+time.Hour.Microseconds()))
			return nil
		},
		Remove: func(name string) error { s.unlink(name); return nil },
		TTL: func(name string) (time.Duration, error) {
			held, err := s.Held(context.Background(), []string{name})
			return held[0].TTL, err
		},
		Head: func() (map[string]string, error) {
			head, found := s.vouched()
			if !found {
				return map[string]string{}, nil
			}
			return storetest.Fields(&head), nil
		},
		Evict: func() error {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.head.Head, s.head.Found = fence.Head{}, false
			return nil
		},
	}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	storetest.Run(t, open)
}

func TestRecordsEqualFence(t *testing.T) {
	t.Parallel()
	storetest.RecordsEqualFence(t, open)
}

func TestHeadEqualsFence(t *testing.T) {
	t.Parallel()
	storetest.HeadEqualsFence(t, open)
}

// TestListen: whoever listens hears of what is stored and removed, and of nothing else.
func TestListen(t *testing.T) {
	t.Parallel()
	s := New(Options{Namespace: "test"})
	heard := func(l store.Listening) bool {
		select {
		case <-l.Heard():
			return true
		default:
			return false
		}
	}
	write := func(name string) {
		if _, err := s.Lease(t.Context(), name, fence.Token(name), time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	l, other := s.Listen(t.Context(), "a", "b"), s.Listen(t.Context(), "c")
	write("b")
	if !heard(l) || heard(other) {
		t.Errorf("a lease of b: heard %t, of c %t", heard(l), heard(other))
	}
	l.Cancel()
	l = s.Listen(t.Context(), "b")
	s.unlink("b")
	if !heard(l) {
		t.Error("what is removed is not heard of")
	}
	l.Cancel()
	other.Cancel()
	if n := s.ears.Waiting(); n != 0 {
		t.Errorf("%d names are listened to still", n)
	}
}
