package redisstore

import (
	"errors"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/redistest"
)

// noticed is when a reader must know that the store hangs, on a machine that has other things to do as well.
const noticed = 2*pingGap + readTimeout + 500*time.Millisecond

// A server that stands still keeps its connections, and no error tells. Readers that share the connection learn soon, as
// does whoever comes alone or has a connection to make.
func TestReadersOfAFrozenServer(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := open(t, server)
	name := s.testName("k")
	leased(t, s, name, token('a'))
	together, alone := time.Hour, time.Hour
	for try := 0; try < 5 && max(together, alone) > noticed; try++ { // a busy machine is late as well, but not each time
		a, b := frozen(t, server, s, name)
		together, alone = min(together, a), min(alone, b)
	}
	if together > noticed {
		t.Errorf("readers waited %v for a frozen server", together)
	}
	if alone > noticed {
		t.Errorf("a new connection to a frozen server took %v", alone)
	}
}

// frozen has readers come together to a server that stands still, and then one alone, and returns how long they waited.
func frozen(t *testing.T, server *redistest.Server, s *Store, name string) (together, alone time.Duration) {
	t.Helper()
	server.Freeze(t)
	began := time.Now()
	const readers = 8
	failures := make(chan error, 2*readers)
	for range readers {
		go func() {
			_, err := s.Read(t.Context(), name)
			failures <- err
		}()
		go func() {
			_, err := s.Lease(t.Context(), name, token('b'), time.Minute)
			failures <- err
		}()
	}
	for range 2 * readers {
		if err := <-failures; !errors.Is(err, ErrUnavailable) {
			t.Errorf("an answer of a frozen server: %v", err)
		}
	}
	together = time.Since(began)
	began = time.Now()
	if _, err := s.Read(t.Context(), name); !errors.Is(err, ErrUnavailable) {
		t.Errorf("an answer over a new connection to a frozen server: %v", err)
	}
	alone = time.Since(began)
	server.Thaw(t)
	testkit.Eventually(t, 10*time.Second, func() error {
		_, err := s.Read(t.Context(), name)
		return err
	})
	return together, alone
}

// A pause that readers do not wait for is nothing to the daemon: its Conn outlives it, and so does what it confirms.
func TestConnOutlivesAPause(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := open(t, server)
	c := connect(t, s)
	head := begin(t, c, fence.NewTerm(1, 10))
	server.Freeze(t)
	applied := make(chan error, 1)
	go func() {
		_, err := c.Apply(t.Context(), Batch{Expect: expect(head), Wi: 200, Si: sees(20), Advance: 200, Sa: sees(20)})
		applied <- err
	}()
	if _, err := s.Read(t.Context(), "k"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("an answer of a frozen server: %v", err)
	}
	select {
	case err := <-applied:
		t.Fatalf("Apply on a frozen server = %v before its timeout", err)
	default:
	}
	server.Thaw(t)
	if err := <-applied; err != nil {
		t.Fatalf("Apply after a pause = %v", err)
	}
	testkit.Eventually(t, 10*time.Second, func() error {
		h, _, err := s.Head(t.Context())
		if err == nil && h.Wc != 200 {
			t.Fatalf("HEAD = %+v", h)
		}
		return err
	})
}

// A batch that a frozen server does not answer in time fails, and its Conn with it: nothing is believed to be confirmed,
// whatever the server does with it later. A new Conn goes on from what HEAD then says.
func TestConnToAFrozenServer(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := open(t, server)
	c := connect(t, s)
	term := fence.NewTerm(1, 10)
	head := begin(t, c, term)
	name := s.testName("k")
	leased(t, s, name, token('a'))
	if outcome := filled(t, s, name, token('a'), 10); outcome != fence.Filled {
		t.Fatalf("Fill = %v", outcome)
	}
	batch := Batch{Expect: expect(head), Wi: 200, Si: sees(20), Names: []string{name}, Advance: 200, Sa: sees(20)}
	server.Freeze(t)
	began := time.Now()
	if _, err := c.Apply(t.Context(), batch); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("Apply on a frozen server = %v", err)
	}
	if took := time.Since(began); took < readTimeout || took > 3*replyTimeout {
		t.Errorf("Apply on a frozen server took %v", took)
	}
	server.Thaw(t)
	testkit.Eventually(t, 10*time.Second, func() error {
		_, _, err := s.Head(t.Context())
		return err
	})
	for range 3 {
		if _, err := c.Apply(t.Context(), batch); !errors.Is(err, ErrUnavailable) {
			t.Fatalf("Apply over the old connection = %v", err)
		}
	}
	again := connect(t, s)
	found, ok, err := again.Claim(t.Context(), term)
	if err != nil || !ok {
		t.Fatalf("Claim = %v, %v", ok, err)
	}
	batch.Expect = expect(found)
	batch.Wi, batch.Advance = 300, 300
	if _, err := again.Apply(t.Context(), batch); err != nil {
		t.Fatalf("Apply over a new connection = %v", err)
	}
	if h, _, err := s.Head(t.Context()); err != nil || h.Wc != 300 {
		t.Errorf("HEAD = %+v, %v", h, err)
	}
	if r, err := s.Get(t.Context(), name); err != nil || r.State != fence.None {
		t.Errorf("the record after the batch = %+v, %v", r, err)
	}
}

// A Store that is closed makes no connection any more.
func TestConnectAfterClose(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Shared(t))
	connect(t, s).Close()
	s.Close()
	if _, err := s.Connect(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Connect after Close = %v", err)
	}
}
