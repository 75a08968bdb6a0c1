package fill_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/mvcc"
)

// TestStrictWhileNamesMove: what a writer finds between roster and HEAD says nothing of the names that other processes go on hitting under. It
// waits for the move's end, and fails when there is none; before, it fenced nothing and said that it had.
func TestStrictWhileNamesMove(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	trusting := w.reader(nil, nil)
	read(t, trusting, 1, fill.Miss, price(1, 10))
	written := []fill.Written{{Entry: "product", Key: key(arg("1"))}}
	x := w.reprice()
	w.setHead("rev", "0000000000000063") // a daemon is on its way there
	for what, fence := range map[string]func(r *fill.Reader, ctx context.Context, x mvcc.XID, keys []fill.Written) error{
		"before the commit": (*fill.Reader).Fence, "after it": (*fill.Reader).FenceAgain,
	} {
		if err := fence(w.reader(nil, nil), t.Context(), x, written); !errors.Is(err, fill.ErrNotFenced) {
			t.Errorf("%s, while names do not settle: %v, want ErrNotFenced", what, err)
		}
	}
	done := make(chan error, 1)
	writer := w.reader(nil, nil)
	go func() { done <- writer.Fence(t.Context(), x, written) }()
	select {
	case err := <-done:
		t.Errorf("Fence() = %v before names had settled", err)
	case <-time.After(50 * time.Millisecond):
		w.setHead("rev", "0000000000000001")
		if err := <-done; err != nil {
			t.Errorf("Fence() = %v when names had settled", err)
		}
	}
	if record, _ := w.record(w.name("product", "1")); record.State.Live() || len(record.Fences) != 1 {
		t.Errorf("the record is %+v, want a fence alone", record)
	}
}

// TestReadWhileNamesMove: a process that meets a move reads through the cache again as soon as that is over, and not when it would look anyway.
func TestReadWhileNamesMove(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	read(t, w.reader(nil, nil), 1, fill.Miss, price(1, 10))
	soon(t, 400*time.Millisecond, func(int) time.Duration { // without looking sooner it takes half a second
		w.setHead("rev", "0000000000000063")
		r := w.reader(nil, nil)
		began := time.Now()
		read(t, r, 1, fill.Bypass, price(1, 10))
		w.setHead("rev", "0000000000000001")
		eventually(t, func() error {
			if v, err := r.Get(t.Context(), "product", arg("1"), nil); err != nil || v.Status != fill.Hit {
				return errors.Join(errors.New("a "+v.Status.String()), err)
			}
			return nil
		})
		return time.Since(began)
	})
}
