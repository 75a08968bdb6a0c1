package fill_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/near"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/testkit/faultproxy"
)

// slack is what a busy machine takes for the rest of a read.
const (
	slack = 100 * time.Millisecond
)

// memory is a process that holds values in its memory, behind a network that the test decides of.
type memory struct {
	*world
	*fill.Reader
	near  *near.Store
	store *redisstore.Store
	proxy *faultproxy.Proxy
}

func (w *world) memory(user string, wrap func(*redisstore.Store) fill.Store) *memory {
	w.t.Helper()
	return w.memoryOf(user, wrap, policed(fill.Policy{}))
}

func (w *world) memoryOf(user string, wrap func(*redisstore.Store) fill.Store, entries map[string]fill.Entry) *memory {
	w.t.Helper()
	m := &memory{world: w, near: near.New(1 << 20), proxy: faultproxy.Start(w.t, w.redis.Addr)}
	var err error
	m.store, err = redisstore.Open(w.t.Context(), redisstore.Options{URL: "redis://" + user + m.proxy.Addr, Namespace: w.namespace, Near: m.near, Patience: w.patience})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(m.store.Close)
	var kept fill.Store = m.store
	if wrap != nil {
		if kept = wrap(m.store); !tells(kept) {
			kept = &telling{Store: kept, Tells: m.store}
		}
	}
	for name, e := range entries {
		e.Near = true
		entries[name] = e
	}
	m.Reader = w.open(fill.Options{Store: kept, Entries: entries, Near: m.near})
	return m
}

// telling is a Store that tells as another one does.
type telling struct {
	fill.Store
	fill.Tells
}

func tells(s fill.Store) bool { _, ok := s.(fill.Tells); return ok }

// holds has the process hold product id, which costs 10 each.
func (m *memory) holds(id int) {
	m.t.Helper()
	eventually(m.t, func() error {
		before := m.Stats().HitsL1
		if _, err := m.Get(m.t.Context(), "product", arg(strconv.Itoa(id)), nil); err != nil {
			return err
		}
		if m.Stats().HitsL1 == before {
			return fmt.Errorf("it is not held: %+v", *m.Stats().L1)
		}
		return nil
	})
}

// sees has the process read the price eventually.
func (m *memory) sees(id, p int) {
	m.t.Helper()
	eventually(m.t, func() error {
		v, err := m.Get(m.t.Context(), "product", arg(strconv.Itoa(id)), nil)
		if err == nil && string(v.Payload) != price(id, p) {
			err = fmt.Errorf("%s", v.Payload)
		}
		return err
	})
}

// TestHeldInMemory: what is held is read without the store, until it changes, by whomever; "no such row" is held as well.
func TestHeldInMemory(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	calls := new(atomic.Int64)
	m := w.memory("", func(s *redisstore.Store) fill.Store {
		return &hooks{Store: s, afterGet: func(string) { calls.Add(1) }}
	})
	m.holds(1)
	m.holds(1000)
	before := calls.Load()
	for range 10 {
		read(t, m.Reader, 1, fill.Hit, price(1, 10))
		read(t, m.Reader, 1000, fill.Hit, "")
	}
	if n := calls.Load() - before; n != 0 {
		t.Errorf("%d GETs", n)
	}
	w.change()
	m.sees(1, 11)
	m.holds(1)
	if s := m.Stats(); s.HitsL1 < 21 || s.Hits <= s.HitsL1 || s.L1.Pushed == 0 {
		t.Errorf("Stats = %+v, %+v", s, *s.L1)
	}
	w.raw.Do(t.Context(), w.raw.B().Del().Key(w.name("product", "1")).Build())
	eventually(t, func() error {
		if s := m.near.Stats(); s.Records != 1 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	w.begin() // names move, and nobody says anything of the old ones
	pause(t, trust+slack)
	read(t, m.Reader, 1, fill.Miss, price(1, 11))
}

// TestHungConnection: what is held is not served for longer than T_r when nothing is heard any more, and nobody says so; neither when
// the server hangs. Then it is the database's turn.
func TestHungConnection(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		what string
		hang func(m *memory)
	}{
		{"network", func(m *memory) { m.proxy.Hold(faultproxy.ToClient) }},
		{"network, both ways", func(m *memory) { m.proxy.Hold(faultproxy.Both) }},
	} {
		t.Run(tt.what, func(t *testing.T) {
			t.Parallel()
			// On a busy machine what is held may be over by the time that it has changed.
			for range 5 {
				if servedInTheDark(t, tt.hang) > 0 {
					return
				}
			}
			t.Error("nothing was served in the dark: the test does not show what it is about")
		})
	}
}

func servedInTheDark(t *testing.T, hang func(m *memory)) (old int) {
	t.Helper()
	w := newWorld(t, options{away: true})
	m := w.memory("", nil)
	m.holds(1)
	held, err := m.Get(t.Context(), "product", arg("1"), nil)
	memory, ok := held.Memory()
	if err != nil || !ok {
		t.Fatalf("%+v, %v", held, err)
	}
	hang(m)
	w.change()
	changed := time.Now()
	for time.Since(changed) < 2*trust {
		began := time.Now()
		if again := m.Again(&memory); again && began.Sub(changed) > trust {
			t.Fatalf("old after %v, had again", began.Sub(changed))
		}
		v, err := m.Get(t.Context(), "product", arg("1"), nil)
		if err != nil {
			t.Fatal(err)
		}
		if string(v.Payload) == price(1, 11) {
			continue
		}
		old++
		if began.Sub(changed) > trust {
			t.Fatalf("old after %v, as %v", began.Sub(changed), v.Status)
		}
	}
	m.proxy.Heal()
	m.holds(1)
	return old
}

// stuck is a store whose confirmations stop on their way, as where nothing in this process but the reader goes on.
type stuck struct {
	telling

	gate atomic.Pointer[chan struct{}]
}

func (s *stuck) Heads(ctx context.Context) []redisstore.LaneHead {
	if gate := s.gate.Load(); gate != nil {
		<-*gate
	}
	return s.telling.Heads(ctx)
}

// TestConfirmationsEndByThemselves: what is held is not served for longer than T_r after the last confirmation was sent, though nobody
// has noticed that there is no other: each hit looks itself.
func TestConfirmationsEndByThemselves(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	s := &stuck{}
	m := w.memory("", func(kept *redisstore.Store) fill.Store {
		s.telling = telling{Store: kept, Tells: kept}
		return s
	})
	m.holds(1)
	v, err := m.Get(t.Context(), "product", arg("1"), nil)
	held, ok := v.Memory()
	if err != nil || !ok {
		t.Fatalf("%+v, %v", v, err)
	}
	gate := make(chan struct{})
	s.gate.Store(&gate)
	defer close(gate)
	last := time.Now() // no confirmation is sent later
	before := m.Stats().HitsL1
	for began := last; began.Sub(last) < 2*trust; began = time.Now() {
		if m.Again(&held) && began.Sub(last) > trust {
			t.Fatalf("served %v after the last confirmation", began.Sub(last))
		}
	}
	if m.Stats().HitsL1 == before {
		t.Error("nothing was served without a confirmation on its way: the test does not show what it is about")
	}
}

// TestServerThatHangs: a server that is stopped vouches for nothing, T_r after it last did.
func TestServerThatHangs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{ownRedis: true, away: true})
	m := w.memory("", nil)
	m.holds(1)
	w.redis.Freeze(t)
	pause(t, trust)
	if v, err := m.Get(t.Context(), "product", arg("1"), nil); err != nil || v.Status != fill.Bypass {
		t.Errorf("%+v, %v", v, err)
	}
	w.redis.Thaw(t)
	m.holds(1)
}

// TestLostConnection: each way in which the server gives up what it kept of the connection, or the connection ends. What is held is
// dropped, and what changes meanwhile is not missed.
func TestLostConnection(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		what  string
		lose  func(m *memory)
		moves bool // the daemon has to begin anew as well
	}{
		{"reset", func(m *memory) { m.proxy.Reset() }, false},
		{"cut", func(m *memory) { m.proxy.Cut() }, false},
		{"killed by the server", func(m *memory) { m.redis.Do(m.t, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes") }, true},
		{"emptied", func(m *memory) { m.redis.FlushAll(m.t) }, true},
		{"restarted", func(m *memory) { m.redis.Restart(m.t) }, true},
	} {
		t.Run(tt.what, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, options{ownRedis: true, away: true})
			m := w.memory("", nil)
			m.holds(1)
			tt.lose(m)
			eventually(t, func() error {
				if s := m.near.Stats(); s.Records != 0 || s.Dropped == 0 {
					return fmt.Errorf("%+v", s)
				}
				return nil
			})
			if tt.moves {
				w.reprice()
				w.begin()
				pause(t, trust+slack) // until then the names are those from before
			} else {
				w.change()
			}
			m.proxy.Heal()
			lost := time.Now()
			for time.Since(lost) < trust/2 {
				if v, err := m.Get(t.Context(), "product", arg("1"), nil); err != nil || string(v.Payload) != price(1, 11) {
					t.Fatalf("%s %v, %v", v.Payload, v.Status, err)
				}
			}
			m.holds(1)
		})
	}
}

// TestChangedWhileItIsRead: the key changes after the server has answered and before the reader has put the answer anywhere, and that is
// heard of.
func TestChangedWhileItIsRead(t *testing.T) {
	t.Parallel()
	// On a busy machine the names' confirmation may be over by the time that the value has changed, and it is read again.
	for range 5 {
		if changedWhileItIsRead(t) {
			return
		}
	}
	t.Error("what was read was dropped each time: the test does not show what it is about")
}

func changedWhileItIsRead(t *testing.T) (shown bool) {
	t.Helper()
	w := newWorld(t, options{})
	var once atomic.Bool
	m := w.memory("", func(s *redisstore.Store) fill.Store {
		return &hooks{Store: s, afterGet: func(string) {
			if w.recorded() && once.CompareAndSwap(false, true) {
				w.change()
				eventually(t, func() error {
					if _, err := s.Read(t.Context(), "f:"+w.namespace+":nothing"); err != nil { // what was said before has been heard
						return err
					}
					return nil
				})
			}
		}}
	})
	read(t, m.Reader, 1, fill.Miss, price(1, 10))
	v, err := m.Get(t.Context(), "product", arg("1"), nil)
	if err == nil && m.Stats().Dropped > 0 {
		return false
	}
	if err != nil || v.Status != fill.Hit || string(v.Payload) != price(1, 10) { // it is true as of when it was read
		t.Fatalf("%v %s, %v", v.Status, v.Payload, err)
	}
	if s := m.near.Stats(); s.Refused != 1 || s.Puts != 0 {
		t.Errorf("%+v", s)
	}
	read(t, m.Reader, 1, fill.Miss, price(1, 11))
	return true
}

func (w *world) recorded() bool {
	r, _ := w.record(w.name("product", "1"))
	return r.State.Live()
}

// TestTableOverflows: a server that keeps account of a few keys only says of the others that they have changed.
func TestTableOverflows(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{ownRedis: true})
	w.redis.Do(t, "CONFIG", "SET", "tracking-table-max-keys", "10")
	m := w.memory("", nil)
	for range 3 {
		for id := range 100 {
			read2(t, m.Reader, id+1)
		}
	}
	eventually(t, func() error {
		if s := m.near.Stats(); s.Pushed < 100 || s.Records > 50 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	w.change()
	m.sees(1, 11)
}

func read2(t *testing.T, r *fill.Reader, id int) {
	t.Helper()
	if v, err := r.Get(t.Context(), "product", arg(strconv.Itoa(id)), nil); err != nil || string(v.Payload) != price(id, 10*id) {
		t.Fatalf("%s, %v", v.Payload, err)
	}
}

// TestServerThatDoesNotTell: where CLIENT TRACKING is refused everything is as without memory.
func TestServerThatDoesNotTell(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{ownRedis: true})
	w.redis.Do(t, "ACL", "SETUSER", "plain", "on", ">secret", "~*", "&*", "+@all", "-client|tracking")
	m := w.memory("plain:secret@", nil)
	read(t, m.Reader, 1, fill.Miss, price(1, 10))
	for range 5 {
		read(t, m.Reader, 1, fill.Hit, price(1, 10))
	}
	w.change()
	read(t, m.Reader, 1, fill.Miss, price(1, 11))
	if s := m.Stats(); s.HitsL1 != 0 || s.L1.Puts != 0 {
		t.Errorf("Stats = %+v, %+v", s, *s.L1)
	}
	if err := m.store.Tracks(t.Context()); err == nil || !strings.Contains(err.Error(), "client|tracking") {
		t.Errorf("Tracks = %v", err)
	}
}

// TestMemoryUnderFaults: prices that only rise, confirmed one after the other, and a process that reads them through a network that
// fails as networks do. No read that begins T_r after a change was confirmed misses it.
func TestMemoryUnderFaults(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{ownRedis: true, away: true})
	m := w.memory("", nil)
	m.holds(1)
	type confirmed struct {
		price int
		at    time.Time
	}
	var log atomic.Pointer[[]confirmed]
	log.Store(&[]confirmed{{10, time.Now()}})
	ctx, stop := context.WithTimeout(t.Context(), 6*time.Second)
	defer stop()
	reads := make(chan error, 1)
	go func() {
		for ctx.Err() == nil {
			began := time.Now()
			v, err := m.Get(context.WithoutCancel(ctx), "product", arg("1"), nil)
			var id, got int
			if err == nil {
				_, err = fmt.Sscanf(string(v.Payload), `{"id":%d,"price":%d}`, &id, &got)
			}
			least := 0
			for _, c := range *log.Load() {
				if began.Sub(c.at) > trust {
					least = c.price
				}
			}
			if err == nil && got < least {
				err = fmt.Errorf("read %d as %v, and %d was confirmed more than %v before it began", got, v.Status, least, trust)
			}
			if err != nil {
				reads <- err
				return
			}
		}
		reads <- nil
	}()
	for p := 11; ctx.Err() == nil; p++ {
		switch rand.IntN(12) {
		case 0:
			m.proxy.Hold(faultproxy.ToClient)
		case 1:
			m.proxy.Reset()
		case 2:
			m.proxy.Delay(time.Duration(rand.IntN(30)) * time.Millisecond)
		case 3, 4:
			m.proxy.Heal()
		}
		w.write(1, p)
		w.confirm(w.name("product", "1"))
		next := append(append([]confirmed(nil), *log.Load()...), confirmed{p, time.Now()})
		log.Store(&next)
		pause(t, time.Duration(rand.IntN(60))*time.Millisecond)
	}
	if err := <-reads; err != nil {
		t.Error(err)
	}
	// What may not have happened to it while something was held happens now.
	m.proxy.Heal()
	m.holds(1)
	w.write(1, 1_000_000)
	w.confirm(w.name("product", "1"))
	eventually(t, func() error {
		if s := m.near.Stats(); s.Pushed == 0 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	for m.Stats().HitsL1 < 100 {
		m.holds(1)
	}
	eventually(t, func() error {
		s := m.near.Stats()
		if s.Dropped > 0 {
			return nil
		}
		m.holds(1)
		m.proxy.Reset()
		return fmt.Errorf("%+v", s)
	})
	if s := m.Stats(); s.HitsL1 < 100 || s.L1.Dropped == 0 || s.L1.Pushed == 0 {
		t.Errorf("Stats = %+v, %+v", s, *s.L1)
	}
}
