package redisstore

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/redistest"
)

// openURL opens a store by its address.
func openURL(tb testing.TB, url string) *Store {
	tb.Helper()
	s, err := Open(tb.Context(), Options{URL: url, Namespace: redistest.Namespace(tb)})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Close)
	return s
}

// TestSentinelFailover has Sentinels promote a replica that missed a confirm. Readers follow; the daemon's connection
// ends and does not become another; on a new one HEAD is what the new master has, under another name of its history.
func TestSentinelFailover(t *testing.T) {
	t.Parallel()
	master := redistest.Start(t)
	replica := master.Replica(t)
	sentinels := master.Watch(t, 3, 1)
	s := openURL(t, sentinels.URL)
	c := connect(t, s)
	head := begin(t, c, fence.NewTerm(1, 10))
	name := s.testName("k")
	leased(t, s, name, token('a'))
	master.CaughtUp(t, replica)

	master.ShutOut(t)
	if _, err := c.Apply(t.Context(), Batch{Expect: expect(head), Wi: 200, Si: sees(20), Names: []string{name}, Advance: 200}); err != nil {
		t.Fatal(err)
	}
	master.Kill(t)
	sentinels.Master(t, replica)
	testkit.Eventually(t, 10*time.Second, func() error {
		h, found, err := s.Head(t.Context())
		if err == nil && (!found || h.Wc != 100) {
			err = fmt.Errorf("readers find HEAD %+v, want the replica's", h)
		}
		return err
	})
	if got := filled(t, s, name, token('a'), 10); got != fence.Filled {
		t.Fatalf("Fill under the lost confirm = %v: the test does not show what it is about", got)
	}
	for range 3 {
		if _, err := c.Apply(t.Context(), Batch{Expect: expect(head), Wi: 300, Si: sees(30), Advance: 300}); !errors.Is(err, ErrUnavailable) {
			t.Fatalf("Apply over the old master's connection = %v", err)
		}
	}
	next := connect(t, s)
	got, found, err := next.Claim(t.Context(), head.Term)
	if err != nil || !found || got.Wc != 100 || next.Replid() == c.Replid() {
		t.Fatalf("Claim on the new master = %+v, %v, %v, history %s after %s", got, found, err, next.Replid(), c.Replid())
	}
}

// TestSentinelSwitchUnderConnections switches while the old master lives: whoever is connected to it is led away,
// although it answers. One that is cut off from the Sentinels cannot be told to refuse.
func TestSentinelSwitchUnderConnections(t *testing.T) {
	t.Parallel()
	master := redistest.Start(t)
	replica := master.Replica(t)
	sentinels := master.Watch(t, 1, 1)
	s := openURL(t, sentinels.URL)
	c := connect(t, s)
	begin(t, c, fence.NewTerm(1, 10))
	master.CaughtUp(t, replica)
	before, err := s.Replid(t.Context())
	if err != nil || before != c.Replid() {
		t.Fatalf("Replid = %s, %v, want the daemon's %s", before, err, c.Replid())
	}
	// As if the old master never heard of it: it refuses the Sentinels, and keeps all its connections.
	master.Do(t, "ACL", "SETUSER", "default", "-replicaof", "-slaveof", "-multi", "-exec")
	sentinels.Failover(t, replica)
	testkit.Eventually(t, 5*time.Second, func() error {
		now, err := s.Replid(t.Context())
		if err == nil && now == before {
			err = errors.New("readers are still at the old master")
		}
		return err
	})
	testkit.Eventually(t, 5*time.Second, func() error {
		if err := c.Ping(t.Context()); !errors.Is(err, ErrUnavailable) {
			return fmt.Errorf("Ping over the old master's connection = %w", err)
		}
		return nil
	})
	next := connect(t, s)
	if _, _, err := next.Claim(t.Context(), fence.NewTerm(1, 11)); err != nil {
		t.Fatal(err)
	}
}

// TestSentinelsAreAway opens a store before there is any Sentinel, and has one of three die.
func TestSentinelsAreAway(t *testing.T) {
	t.Parallel()
	master := redistest.Start(t)
	sentinels := master.Watch(t, 2, 0)
	for _, sentinel := range sentinels.Servers {
		sentinel.Stop(t)
	}
	s := openURL(t, sentinels.URL)
	if _, _, err := s.Head(t.Context()); !errors.Is(err, ErrUnavailable) || !errors.Is(err, errNoSentinel) {
		t.Errorf("Head without a sentinel = %v", err)
	}
	if _, err := s.Connect(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Connect without a sentinel = %v", err)
	}
	sentinels.Servers[1].Start(t)
	testkit.Eventually(t, 10*time.Second, func() error {
		_, _, err := s.Head(t.Context())
		return err
	})
	begin(t, connect(t, s), fence.NewTerm(1, 10))
	// Whatever became of the Sentinels, a master that answers is gone on with.
	sentinels.Servers[1].Stop(t)
	if _, found, err := s.Head(t.Context()); err != nil || !found {
		t.Errorf("Head after the last sentinel died = %t, %v", found, err)
	}
	facts := s.Sentinels(t.Context())
	if facts.Named != 2 || len(facts.Silent) != 2 || facts.Address != "" {
		t.Errorf("Sentinels() = %+v", facts)
	}
}

// TestSentinelOfTheLatestConfiguration hears, after a switch, what a Sentinel says that was cut off before it.
func TestSentinelOfTheLatestConfiguration(t *testing.T) {
	t.Parallel()
	master := redistest.Start(t)
	replica := master.Replica(t)
	sentinels := master.Watch(t, 1, 1)
	s := openURL(t, sentinels.URL)
	sentinels.Failover(t, replica)
	got, err := s.sentinels.present(t.Context())
	if err != nil || got != replica.Addr {
		t.Errorf("present() = %s, %v, want %s", got, err, replica.Addr)
	}
	// An answer of before changes nothing.
	if got := s.sentinels.learn(sentinelReply{address: master.Addr, epoch: 0}); got != replica.Addr {
		t.Errorf("learn() of an old configuration = %s, want %s", got, replica.Addr)
	}
}

// TestSentinelNeedsAPassword asks Sentinels that have users.
func TestSentinelNeedsAPassword(t *testing.T) {
	t.Parallel()
	master := redistest.Start(t)
	sentinels := master.Watch(t, 1, 0)
	sentinels.Servers[0].Do(t, "ACL", "SETUSER", "look", "on", ">secret", "+hello", "+auth", "+ping", "+client|setname", "+sentinel|master", "+sentinel|get-master-addr-by-name")
	for password, want := range map[string]error{"secret": nil, "wrong": ErrNoPermission} {
		s, err := Open(t.Context(), Options{
			URL: sentinels.URL, SentinelUsername: "look", SentinelPassword: password, Namespace: redistest.Namespace(t),
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.Head(t.Context()); !errors.Is(err, want) {
			t.Errorf("Head with the password %s = %v, want %v", password, err, want)
		}
		s.Close()
	}
}
