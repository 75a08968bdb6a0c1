package fill_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/testkit/faultproxy"
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
	soon(t, slack, func(n int) time.Duration {
		id := 10 + n
		w.lease(other, strconv.Itoa(id))
		looks.Store(0)
		late := background(t.Context(), m.Reader, strconv.Itoa(id))
		eventually(t, waiting(m.Reader, uint64(n+1)))
		pause(t, 400*time.Millisecond)
		if n := looks.Load(); n > 4 {
			t.Errorf("%d looks in 400 ms", n)
		}
		w.fill(other, strconv.Itoa(id))
		filled := time.Now()
		a := <-late
		if a.err != nil || a.value.Status != fill.Hit || string(a.value.Payload) != price(id, 10*id) {
			t.Errorf("got %+v, %v", a.value, a.err)
		}
		return time.Since(filled)
	})
}

// patient are the entries of processes that hold nothing and wait for long.
func patient() map[string]fill.Entry {
	entries := policed(fill.Policy{})
	for name, e := range entries {
		e.LoadTimeout = 2 * unhurried
		entries[name] = e
	}
	return entries
}

// readings counts how often records were read.
type readings struct {
	*redisstore.Store

	n atomic.Int64
}

func (c *readings) Read(ctx context.Context, name string) ([]byte, error) {
	c.n.Add(1)
	return c.Store.Read(ctx, name)
}

func (c *readings) ReadTied(ctx context.Context, name string, epochs []string) (redisstore.Tied, error) {
	c.n.Add(1)
	return c.Store.ReadTied(ctx, name, epochs)
}

func (c *readings) ReadMany(ctx context.Context, all []redisstore.Reading, head bool) []redisstore.Found {
	c.n.Add(1)
	return c.Store.ReadMany(ctx, all, head)
}

func (c *readings) ReadTold(ctx context.Context, all []redisstore.Reading) []redisstore.Found {
	c.n.Add(1)
	return c.Store.ReadTold(ctx, all)
}

// TestWaiterIsToldWithoutMemory: so is one that holds nothing in memory, of one key and of many: it reads what it waits for when it begins to
// wait and when it is told, and neither one that nobody has to wait for, nor what others read, is told of.
func TestWaiterIsToldWithoutMemory(t *testing.T) {
	t.Parallel()
	for _, many := range []int{1, 3} {
		w := newWorld(t, options{ownRedis: true})
		w.batches()
		kept := &readings{Store: w.as("default", "any")}
		r := w.readerOf(kept, nil, patient())
		read(t, r, 50, fill.Miss, price(50, 500))
		read(t, r, 50, fill.Hit, price(50, 500))
		if n := w.tracked(); n != 0 {
			t.Fatalf("%d keys are told of, and nobody waits", n)
		}
		other := fence.Token(strings.Repeat("0", 32))
		soon(t, slack, func(round int) time.Duration {
			ids, others := upTo(many), w.tracked() // those of the rounds before
			for i := range ids {
				ids[i] += 3 * round
				w.lease(other, strconv.Itoa(ids[i]))
			}
			before, began := kept.n.Load(), time.Now()
			late := make(chan []fill.Answer, 1)
			go func() { late <- r.GetMany(t.Context(), "product", numbered(ids...), &fill.Demand{}) }()
			eventually(t, waiting(r, uint64(len(ids)*(round+1))))
			pause(t, time.Second)
			read(t, r, 50, fill.Hit, price(50, 500))
			if n := w.tracked() - others; n != len(ids) {
				t.Errorf("%d keys are told of, of %d that are waited for", n, len(ids))
			}
			for _, id := range ids {
				w.fill(other, strconv.Itoa(id))
			}
			filled := time.Now()
			for i, a := range <-late {
				if a.Err != nil || a.Value.Status != fill.Hit || string(a.Value.Payload) != price(ids[i], 10*ids[i]) {
					t.Errorf("product %d: %v %s, %v", ids[i], a.Value.Status, a.Value.Payload, a.Err)
				}
			}
			took := time.Since(filled)
			// The read itself and the hit beside it; then a look when the wait begins, after each second, and when it is told, which of many may
			// be before all are there.
			if n := kept.n.Load() - before; n > int64(2+1+seconds(began)+len(ids)) {
				t.Errorf("%d keys: read %d times", len(ids), n)
			}
			return took
		})
	}
}

// tracked is how many keys the server would tell of.
func (w *world) tracked() (n int) {
	w.t.Helper()
	text, err := w.redis.Ask(w.t, "INFO", "stats").ToString()
	if err != nil {
		w.t.Fatal(err)
	}
	for line := range strings.Lines(text) {
		if _, err := fmt.Sscanf(line, "tracking_total_keys:%d", &n); err == nil {
			return n
		}
	}
	w.t.Fatal("the server does not say how many keys it tells of")
	return 0
}

// TestWaiterOfATiedValueIsTold: a value that is tied to epochs is read with them, and waited for like any other.
func TestWaiterOfATiedValueIsTold(t *testing.T) {
	t.Parallel()
	w := newTied(t, options{ownRedis: true})
	kept := &readings{Store: w.as("default", "any")}
	soon(t, slack, func(n int) time.Duration {
		first, v, than := &slow{Loader: w.loader}, newValve(), strconv.Itoa(25+10*n)
		first.before = v.pass
		a, b := w.tiedReader(nil, first), w.tiedReader(kept, nil)
		kept.n.Store(0)
		began := time.Now()
		loading := make(chan fill.Value, 1)
		go func() { loading <- get(t, a, "below", than) }()
		<-v.reached
		late := make(chan fill.Value, 1)
		go func() { late <- get(t, b, "below", than) }()
		eventually(t, waiting(b, 1))
		pause(t, 500*time.Millisecond)
		close(v.open)
		stored := (<-loading).Payload
		filled := time.Now()
		expect(t, <-late, fill.Hit, string(stored))
		took := time.Since(filled)
		// By itself, twice to wait, and once more for another epoch than was known; and after each second.
		if n := kept.n.Load(); n > int64(3+seconds(began)) {
			t.Errorf("read %d times", n)
		}
		return took
	})
}

// TestWaiterHearsOfTheEndOfItsConnection: nobody tells on a connection that is lost. Whoever waits looks at once, on the next one.
func TestWaiterHearsOfTheEndOfItsConnection(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	proxy := faultproxy.Start(t, w.redis.Addr)
	kept, err := redisstore.Open(t.Context(), redisstore.Options{URL: "redis://" + proxy.Addr, Namespace: w.namespace, Patience: w.patience})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kept.Close)
	r := w.readerOf(kept, nil, patient())
	other := fence.Token(strings.Repeat("0", 32))
	soon(t, 500*time.Millisecond, func(n int) time.Duration { // not being told it would look after a second
		id := n + 1
		w.lease(other, strconv.Itoa(id))
		late := background(t.Context(), r, strconv.Itoa(id))
		eventually(t, waiting(r, uint64(n+1)))
		pause(t, 100*time.Millisecond)
		proxy.Reset()
		w.fill(other, strconv.Itoa(id))
		filled := time.Now()
		a := <-late
		if a.err != nil || string(a.value.Payload) != price(id, 10*id) {
			t.Errorf("got %+v, %v", a.value, a.err)
		}
		return time.Since(filled)
	})
}

// TestWaiterLooksWhereNobodyTells: where the store does not tell of changes, whoever waits for another process's load looks for it, after pauses
// that grow to 50 ms, whether values are to be held in memory or not.
func TestWaiterLooksWhereNobodyTells(t *testing.T) {
	t.Parallel()
	for what, tt := range map[string]struct {
		rule   string // of the server's user, beside everything
		memory bool
	}{
		"holds, no tracking":             {"-client|tracking", true},
		"holds nothing, no tracking":     {"-client|tracking", false},
		"holds nothing, chooses nothing": {"-client|caching", false},
	} {
		w := newWorld(t, options{ownRedis: true})
		w.redis.Do(t, "ACL", "SETUSER", "plain", "on", ">secret", "~*", "&*", "+@all", tt.rule)
		var kept *readings
		var r *fill.Reader
		if tt.memory {
			r = w.memory("plain:secret@", func(s *redisstore.Store) fill.Store { kept = &readings{Store: s}; return kept }).Reader
		} else {
			kept = &readings{Store: w.as("plain", "secret")}
			r = w.readerOf(kept, nil, patient())
		}
		other := fence.Token(strings.Repeat("0", 32))
		soon(t, longestLook+slack, func(n int) time.Duration {
			id := n + 1
			w.lease(other, strconv.Itoa(id))
			kept.n.Store(0)
			late := background(t.Context(), r, strconv.Itoa(id))
			eventually(t, waiting(r, uint64(n+1)))
			eventually(t, func() error {
				if n := kept.n.Load(); n < 9 { // by then it has paused for as long as it ever does
					return fmt.Errorf("%s: read %d times", what, n)
				}
				return nil
			})
			w.fill(other, strconv.Itoa(id))
			filled := time.Now()
			a := <-late
			if a.err != nil || a.value.Status != fill.Hit || string(a.value.Payload) != price(id, 10*id) {
				t.Errorf("%s: got %+v, %v", what, a.value, a.err)
			}
			return time.Since(filled)
		})
	}
}
