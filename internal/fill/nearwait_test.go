package fill_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/redisstore"
)

// TestWaiterIsTold: whoever waits for another process's load is told when it is there, and does not look again and again.
func TestWaiterIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	looks := new(atomic.Int64)
	m := w.memory("", func(s *redisstore.Store) fill.Store {
		return &hooks{Store: s, afterGet: func(string) { looks.Add(1) }}
	})
	m.holds(2) // the connection tells
	other := fence.Token(strings.Repeat("0", 32))
	w.lease(other, "1")
	looks.Store(0)
	late := background(t.Context(), m.Reader, "1")
	eventually(t, waiting(m.Reader, 1))
	pause(t, 400*time.Millisecond)
	if n := looks.Load(); n > 4 {
		t.Errorf("%d looks in 400 ms", n)
	}
	w.fill(other, "1")
	filled := time.Now()
	a := <-late
	if a.err != nil || a.value.Status != fill.Hit || string(a.value.Payload) != price(1, 10) {
		t.Errorf("got %+v, %v", a.value, a.err)
	}
	if took := time.Since(filled); took > 100*time.Millisecond {
		t.Errorf("told after %v", took)
	}
}

// TestWaiterLooksWhereNobodyTells: where the store does not tell of changes, or nothing is to be held, whoever waits for another process's
// load looks for it, after pauses that grow to 50 ms.
func TestWaiterLooksWhereNobodyTells(t *testing.T) {
	t.Parallel()
	for _, silent := range []bool{false, true} {
		w := newWorld(t, options{ownRedis: true})
		looks := new(atomic.Int64)
		wrap := func(s *redisstore.Store) fill.Store { return &hooks{Store: s, afterGet: func(string) { looks.Add(1) }} }
		var r *fill.Reader
		if silent {
			w.redis.Do(t, "ACL", "SETUSER", "plain", "on", ">secret", "~*", "&*", "+@all", "-client|tracking")
			r = w.memory("plain:secret@", wrap).Reader
		} else {
			r = w.reader(wrap(w.store), nil)
		}
		other := fence.Token(strings.Repeat("0", 32))
		w.lease(other, "1")
		late := background(t.Context(), r, "1")
		eventually(t, waiting(r, 1))
		eventually(t, func() error {
			if n := looks.Load(); n < 8 { // by then it has paused for as long as it ever does
				return fmt.Errorf("%d looks", n)
			}
			return nil
		})
		w.fill(other, "1")
		filled := time.Now()
		a := <-late
		if a.err != nil || a.value.Status != fill.Hit || string(a.value.Payload) != price(1, 10) {
			t.Errorf("silent %t: got %+v, %v", silent, a.value, a.err)
		}
		if took := time.Since(filled); took > 50*time.Millisecond+slack {
			t.Errorf("silent %t: seen after %v", silent, took)
		}
	}
}
