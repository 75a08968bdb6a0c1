package history

import (
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/faultproxy"
	"github.com/freshet/freshet/internal/testkit/redistest"
)

// What docs/operations.md says about connections that hang: how long until the daemon has noticed, and how long after
// the fault has ended until it is fresh again.
const (
	redisNoticed    = 8 * time.Second
	postgresNoticed = 14 * time.Second
	mended          = 10 * time.Second
)

// proxied is the address through a proxy that is started before its server.
func proxied(t *testing.T, address string) (proxy *faultproxy.Proxy, through string) {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	p := faultproxy.Start(t, u.Host)
	u.Host = p.Addr
	return p, u.String()
}

// noticed waits until the daemon does not believe itself fresh any more.
func (w *world) noticed(within time.Duration) {
	w.t.Helper()
	began := time.Now()
	testkit.Eventually(w.t, within, func() error {
		s, err := w.daemon.Status(w.t.Context())
		if err == nil && s.Phase == "streaming" {
			err = fmt.Errorf("the daemon is %s", s.Phase)
		}
		return err
	})
	w.t.Logf("noticed after %v", time.Since(began).Round(time.Millisecond))
}

// freshAgain waits until the daemon follows the log, and what is committed now is applied.
func (w *world) freshAgain(within time.Duration) {
	w.t.Helper()
	began := time.Now()
	testkit.Eventually(w.t, within, func() error { return w.daemon.Live(w.t.Context()) })
	w.t.Logf("streaming again after %v", time.Since(began).Round(time.Millisecond))
}

// TestNetworkBetweenDaemonAndRedis cuts, holds and delays what goes between them, while readers reach Redis.
func TestNetworkBetweenDaemonAndRedis(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	proxy, address := proxied(t, redis.URL)
	w := newWorld(t, redis, options{daemon: func(database, _ string) (string, string) { return database, address }})
	before := w.live().Generation
	for _, tt := range []struct {
		name  string
		fault func()
	}{
		{"cut", func() { proxy.Cut(); w.noticed(redisNoticed); proxy.Heal() }},
		// The commands arrive: what became of them the daemon never hears.
		{"half open", func() { proxy.Hold(faultproxy.ToClient); w.noticed(redisNoticed); proxy.Heal() }},
		{"delayed", func() { proxy.Delay(300 * time.Millisecond); wait(t.Context(), 1500*time.Millisecond); proxy.Heal() }},
	} {
		w.under(func() { tt.fault(); w.freshAgain(mended) })
		if after := w.settle(tt.name); after.Generation != before {
			t.Errorf("%s: a new generation began, although nothing was lost", tt.name)
		}
	}
}

// TestNetworkBetweenDaemonAndPostgreSQL does the same to the stream and to the daemon's other sessions.
func TestNetworkBetweenDaemonAndPostgreSQL(t *testing.T) {
	t.Parallel()
	var proxy *faultproxy.Proxy
	w := newWorld(t, redistest.Start(t), options{daemon: func(database, redis string) (string, string) {
		var address string
		proxy, address = proxied(t, database)
		return address, redis
	}})
	before := w.live().Generation
	for _, tt := range []struct {
		name  string
		fault func()
	}{
		{"cut", func() { proxy.Cut(); w.noticed(postgresNoticed); proxy.Heal() }},
		{"half open", func() { proxy.Hold(faultproxy.Both); w.noticed(postgresNoticed); proxy.Heal() }},
		{"delayed", func() { proxy.Delay(300 * time.Millisecond); wait(t.Context(), 1500*time.Millisecond); proxy.Heal() }},
	} {
		w.under(func() { tt.fault(); w.freshAgain(mended + 5*time.Second) })
		if after := w.settle(tt.name); after.Generation != before {
			t.Errorf("%s: a new generation began, although nothing was lost", tt.name)
		}
	}
}

// TestNetworkBetweenReadersAndRedis does the same to readers: they are answered all the while, by the database.
func TestNetworkBetweenReadersAndRedis(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	proxy, address := proxied(t, redis.URL)
	w := newWorld(t, redis, options{library: func(database, _ string) (string, string) { return database, address }})
	read := func() (longest time.Duration) {
		t.Helper()
		for id := range int64(10) {
			began := time.Now()
			if _, err := w.queried.Get(t.Context(), id+1); err != nil {
				t.Errorf("a read failed: %v", err)
			}
			longest = max(longest, time.Since(began))
		}
		return longest
	}
	for _, tt := range []struct {
		name  string
		fault func()
	}{
		{"cut", proxy.Cut},
		{"half open", func() { proxy.Hold(faultproxy.ToClient) }},
		{"delayed", func() { proxy.Delay(50 * time.Millisecond) }},
	} {
		w.under(func() {
			tt.fault()
			longest := read()
			if longest > 2*time.Second {
				t.Errorf("%s: a read took %v", tt.name, longest)
			}
			t.Logf("%s: the longest read took %v", tt.name, longest.Round(time.Millisecond))
			proxy.Heal()
			hits := w.cache.Stats().Hits
			testkit.Eventually(t, patience, func() error { // and then use the cache again
				if now := w.cache.Stats().Hits; now < hits+20 {
					return fmt.Errorf("%d hits since", now-hits)
				}
				return nil
			})
		})
		w.settle(tt.name)
	}
}

// TestAddressLeadsElsewhere has the address of Redis lead to a promoted replica from one moment to the next, as a name in
// DNS or a floating address does, while the old master goes on answering the connections that it has.
func TestAddressLeadsElsewhere(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	replica := redis.Replica(t)
	proxy, address := proxied(t, redis.URL)
	w := newWorld(t, redis, options{redis: address})
	redis.CaughtUp(t, replica)
	term := w.term()
	w.under(func() {
		replica.Promote(t)
		proxy.Lead(replica.Addr)
		w.redis = replica
		w.claimedAgain(term) // by itself: no connection was ended
		proxy.Reset()        // readers have no such watch; their connections end sooner or later
	})
	w.settle("the address leads to another server")
}
