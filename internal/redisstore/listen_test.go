package redisstore

import (
	"fmt"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/redistest"
)

// listened has a store listen to keys that it has read, on connections that tell.
func listened(t *testing.T, s *Store, names ...string) (l store.Listening) {
	t.Helper()
	testkit.Eventually(t, 15*time.Second, func() error {
		l = s.Listen(t.Context(), names...)
		if l == nil {
			return fmt.Errorf("nobody tells: %w", s.Tracks(t.Context()))
		}
		all := make([]Reading, len(names))
		for i, name := range names {
			all[i].Name = name
		}
		for _, f := range s.ReadTold(t.Context(), all) {
			if f.Err != nil {
				l.Cancel()
				return f.Err
			}
		}
		return nil
	})
	t.Cleanup(l.Cancel)
	return l
}

func heard(l store.Listening, within time.Duration) bool {
	select {
	case <-l.Heard():
		return true
	case <-time.After(within):
		return false
	}
}

// TestListen: whoever has read a key to be told of it hears when it changes, and of nothing else; what is read otherwise on the same
// connection is not told of.
func TestListen(t *testing.T) {
	t.Parallel()
	server := redistest.Shared(t)
	s, writer := open(t, server), open(t, server)
	a, b, c := s.testName("a"), s.testName("b"), s.testName("c")
	both, second := listened(t, s, a, b), listened(t, s, b)
	for _, name := range []string{a, c} {
		if _, err := s.Read(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	others := s.ears.Add(nil, []string{c})
	defer others.Cancel()
	for _, name := range []string{a, c} {
		leased(t, writer, name, token('a'))
	}
	if !heard(both, 5*time.Second) {
		t.Error("a change is not heard of")
	}
	if heard(second, 200*time.Millisecond) || heard(others, 0) {
		t.Error("heard of what was not asked for")
	}
	second.Cancel()
	second.Cancel()
	leased(t, writer, b, token('b'))
	if heard(second, 200*time.Millisecond) {
		t.Error("heard of after it had ended")
	}
	both.Cancel()
	others.Cancel()
	if n := s.ears.Waiting(); n != 0 {
		t.Errorf("%d names are listened to still", n)
	}
}

// TestListenToACluster: each node tells of its own keys, and the end of a connection to any of them is heard of.
func TestListenToACluster(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 3, false)
	s := openURL(t, cluster.URL)
	c := connect(t, s)
	begin(t, c, fence.NewTerm(1, 10))
	names := make([]string, fence.Lanes)
	for lane := range names {
		names[lane] = s.nameIn(c, lane, "k")
	}
	for lane, name := range names {
		l := listened(t, s, names...)
		leased(t, s, name, token('a'))
		if !heard(l, 5*time.Second) {
			t.Errorf("lane %d is not heard of", lane)
		}
	}
	l := listened(t, s, names...)
	cluster.Owner(fence.Slot(fence.Lanes - 1)).Kill(t)
	if !heard(l, 5*time.Second) {
		t.Error("a node that is gone is not heard of")
	}
}

// TestListenToASentinelsMaster: a failover is heard of, and the next connection tells as well.
func TestListenToASentinelsMaster(t *testing.T) {
	t.Parallel()
	master := redistest.Start(t)
	replica := master.Replica(t)
	sentinels := master.Watch(t, 3, 1)
	s := openURL(t, sentinels.URL)
	before := listened(t, s, s.testName("k"))
	master.CaughtUp(t, replica)
	master.Kill(t)
	if !heard(before, 5*time.Second) {
		t.Error("the end of the connection is not heard of")
	}
	sentinels.Master(t, replica)
	after := listened(t, s, s.testName("k"))
	leased(t, s, s.testName("k"), token('a'))
	if !heard(after, 5*time.Second) {
		t.Error("a change on the new master is not heard of")
	}
}

// TestListenWhereNobodyTells: that is found out once for each connection, and reading goes on.
func TestListenWhereNobodyTells(t *testing.T) {
	t.Parallel()
	s := openURL(t, redistest.Shared(t).URL+"?protocol=2")
	name := s.testName("k")
	for range 3 {
		if l := s.Listen(t.Context(), name); l != nil {
			t.Fatal("it listens")
		}
	}
	if err := s.Tracks(t.Context()); err == nil {
		t.Error("nobody tells, and nothing says so")
	}
	leased(t, s, name, token('a'))
	if f := s.ReadTold(t.Context(), []Reading{{Name: name}})[0]; f.Err != nil || f.Text == nil {
		t.Errorf("%q, %v", f.Text, f.Err)
	}
}
