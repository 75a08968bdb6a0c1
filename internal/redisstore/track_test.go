package redisstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/redistest"
)

// notes is what a store is told of keys that were read.
type notes struct {
	mu    sync.Mutex
	heard []string
	lost  []*store.Wire
}

func (n *notes) Invalidate(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.heard = append(n.heard, name)
}

func (n *notes) Drop(connection *store.Wire) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lost = append(n.lost, connection)
}

func (n *notes) has(name string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Contains(n.heard, name)
}

func (n *notes) hasLost(w *store.Wire) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Contains(n.lost, w) && w.Lost()
}

func openNoting(t *testing.T, url string) (*Store, *notes) {
	t.Helper()
	n := &notes{}
	o := Options{URL: url, Namespace: redistest.Namespace(t), Near: n}
	if url == redistest.Shared(t).URL {
		o.Patience = patience
	}
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, n
}

// wires has every lane answer on a connection that tells.
func wires(t *testing.T, s *Store) []*store.Wire {
	t.Helper()
	all := make([]*store.Wire, s.Lanes())
	testkit.Eventually(t, 15*time.Second, func() error {
		for lane, h := range s.Heads(t.Context()) {
			if h.Err != nil {
				return h.Err
			}
			if all[lane] = h.Wire; h.Wire == nil || h.Wire != s.Wire(lane) || h.Wire.Lost() {
				return fmt.Errorf("lane %d answers on %+v", lane, h.Wire)
			}
		}
		return nil
	})
	return all
}

// TestChangesAreHeardBeforeTheNextAnswer: whatever is asked on the connection after a change, its answer comes after the word of it. That
// is all that anything rests on.
func TestChangesAreHeardBeforeTheNextAnswer(t *testing.T) {
	t.Parallel()
	server := redistest.Shared(t)
	s, n := openNoting(t, server.URL)
	writer := open(t, server)
	wires(t, s)
	for i := range 300 {
		name := s.testName(fmt.Sprint("k", i))
		if _, err := s.Read(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		leased(t, writer, name, token('a'))
		var err error
		if i%2 == 0 {
			_, _, _, err = s.HeadOn(t.Context(), 0)
		} else {
			s.Heads(t.Context())
		}
		if err != nil || !n.has(name) {
			t.Fatalf("%d: not heard of, %v", i, err)
		}
	}
}

// TestWiresOfACluster: every node tells of its own keys, and one that fails over takes down what was read there and nothing else.
func TestWiresOfACluster(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 3, true)
	s, n := openNoting(t, cluster.URL)
	c := connect(t, s)
	begin(t, c, fence.NewTerm(1, 10))
	before := wires(t, s)
	for lane := range fence.Lanes {
		name := s.nameIn(c, lane, "k")
		if _, err := s.Read(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		leased(t, s, name, token('a'))
		if _, _, w, err := s.HeadOn(t.Context(), lane); err != nil || w != before[lane] || !n.has(name) {
			t.Fatalf("lane %d: not heard of, %v", lane, err)
		}
	}
	failed := cluster.Owner(fence.Slot(0))
	number := slices.Index(cluster.Masters, failed)
	failed.Kill(t)
	cluster.FailOver(t, number)
	testkit.Eventually(t, 30*time.Second, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if h := s.Heads(ctx)[0]; h.Err != nil || h.Wire == nil || h.Wire == before[0] {
			return fmt.Errorf("%+v", h)
		}
		return nil
	})
	for lane := range fence.Lanes {
		if was := cluster.Owner(fence.Slot(lane)) == failed; n.hasLost(before[lane]) != was {
			t.Errorf("lane %d: lost %t", lane, !was)
		}
	}
}

// TestWireOfASentinelsMaster: a failover is a lost connection, and the next one tells as well.
func TestWireOfASentinelsMaster(t *testing.T) {
	t.Parallel()
	master := redistest.Start(t)
	replica := master.Replica(t)
	sentinels := master.Watch(t, 3, 1)
	s, n := openNoting(t, sentinels.URL)
	begin(t, connect(t, s), fence.NewTerm(1, 10))
	before := wires(t, s)[0]
	master.CaughtUp(t, replica)
	master.Kill(t)
	sentinels.Master(t, replica)
	if after := wires(t, s)[0]; after == before || !n.hasLost(before) {
		t.Errorf("lost %t", n.hasLost(before))
	}
}

// TestProlong: an epoch is left alone as long as it outlives what is tied to it, since to put off its end is to change it.
func TestProlong(t *testing.T) {
	t.Parallel()
	server := redistest.Shared(t)
	s, n := openNoting(t, server.URL)
	begin(t, connect(t, s), fence.NewTerm(1, 1))
	wires(t, s)
	other := open(t, server)
	name := s.testEpoch("~0")
	pin := func(life time.Duration) {
		t.Helper()
		if _, err := other.Pin(t.Context(), []string{name}, life); err != nil {
			t.Fatal(err)
		}
	}
	pin(time.Minute)
	if ids, err := s.Epochs(t.Context(), []string{name}); err != nil || ids[0] == "" {
		t.Fatal(ids, err)
	}
	pin(time.Minute)
	s.Heads(t.Context())
	if n.has(name) {
		t.Error("a fill has changed the epoch")
	}
	pin(2 * time.Hour)
	s.Heads(t.Context())
	if !n.has(name) {
		t.Error("its end is not put off")
	}
	left, err := s.client.Do(t.Context(), s.client.B().Pttl().Key(name).Build()).AsInt64()
	if err != nil || left < (2*time.Hour).Milliseconds() {
		t.Errorf("it ends in %d ms, %v", left, err)
	}
}

// TestConnectionThatTellsNothing: a server that takes CLIENT TRACKING on a connection on which it cannot tell is found out, and that is said once.
func TestConnectionThatTellsNothing(t *testing.T) {
	t.Parallel()
	var said bytes.Buffer
	s, err := Open(t.Context(), Options{
		URL: redistest.Shared(t).URL + "?protocol=2", Namespace: redistest.Namespace(t), Near: &notes{}, Logger: slog.New(slog.NewTextHandler(&said, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	for range 3 {
		if h := s.Heads(t.Context())[0]; h.Err != nil || h.Wire != nil {
			t.Fatalf("%+v", h)
		}
	}
	if err := s.Tracks(t.Context()); !errors.Is(err, errSilent) || s.Wire(0) != nil {
		t.Errorf("Tracks = %v, on %v", err, s.Wire(0))
	}
	if n := strings.Count(said.String(), "nothing is held in this process's memory"); n != 1 {
		t.Errorf("said %d times:\n%s", n, said.String())
	}
	name := s.testName("k") // and it is read as ever
	leased(t, s, name, token('a'))
	if text, err := s.Read(t.Context(), name); err != nil || text == nil {
		t.Errorf("%q, %v", text, err)
	}
}
