package chaos

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/testkit/faultproxy"
)

// links are the ways between freshet and its servers, each with a proxy of its own. What the test does by itself does
// not go through them.
type links struct {
	daemonRedis, daemonDatabase, daemonReplica *faultproxy.Proxy // to Redis only where it is one server
	readerRedis, readerDatabase, readerReplica *faultproxy.Proxy // of applications
	replication                                *faultproxy.Proxy // between the replica and the database
}

func newLinks(t *testing.T, redis, database string) *links {
	t.Helper()
	to := func(address string) *faultproxy.Proxy { return faultproxy.Start(t, address) }
	return &links{
		daemonRedis: to(redis), daemonDatabase: to(database), daemonReplica: to(""),
		readerRedis: to(redis), readerDatabase: to(database), readerReplica: to(""),
		replication: to(database),
	}
}

// throughProxy is the database's URL with a proxy in the place of the server.
func (w *world) throughProxy(p *faultproxy.Proxy) string {
	return strings.Replace(w.url, fmt.Sprintf("127.0.0.1:%d", w.pg.Port), p.Addr, 1)
}

// A link is one of them, by what it is called.
type link struct {
	name string
	of   func(*links) *faultproxy.Proxy
}

// networkFaults does everything to every way to Redis and to the database, and something to those to the replica.
func networkFaults() (all []fault) {
	for _, l := range []link{
		{"the daemon and Redis", func(l *links) *faultproxy.Proxy { return l.daemonRedis }},
		{"the daemon and the database", func(l *links) *faultproxy.Proxy { return l.daemonDatabase }},
		{"applications and Redis", func(l *links) *faultproxy.Proxy { return l.readerRedis }},
		{"applications and the database", func(l *links) *faultproxy.Proxy { return l.readerDatabase }},
	} {
		for _, h := range harms() {
			all = append(all, fault{name: "between " + l.name + ": " + h.name, do: network(l, h)})
		}
	}
	for _, l := range []link{
		{"the daemon and the replica", func(l *links) *faultproxy.Proxy { return l.daemonReplica }},
		{"applications and the replica", func(l *links) *faultproxy.Proxy { return l.readerReplica }},
		{"the replica and the database", func(l *links) *faultproxy.Proxy { return l.replication }},
	} {
		all = append(all, fault{name: "between " + l.name + ": one of these", do: func(w *world, r *rand.Rand) error {
			h := harms()[r.IntN(len(harms()))]
			w.counts.fault("between " + l.name + ": " + h.name)
			return network(l, h)(w, r)
		}})
	}
	return all
}

// harm is what a network does to connections.
type harm struct {
	name string
	do   func(*faultproxy.Proxy)
}

func harms() []harm {
	hold := func(d faultproxy.Direction) func(*faultproxy.Proxy) {
		return func(p *faultproxy.Proxy) { p.Hold(d) }
	}
	return []harm{
		{"cut", (*faultproxy.Proxy).Cut},
		{"nothing arrives", hold(faultproxy.Both)},
		{"no answer arrives", hold(faultproxy.ToClient)},
		{"no question arrives", hold(faultproxy.ToServer)},
		{"all is slow", func(p *faultproxy.Proxy) { p.Delay(100 * time.Millisecond) }},
	}
}

// network does harm to a link for a while: at times longer than anybody waits for an answer.
func network(l link, h harm) func(*world, *rand.Rand) error {
	return func(w *world, r *rand.Rand) error {
		p := l.of(w.links)
		h.do(p)
		wait(w.t.Context(), 500*time.Millisecond)
		w.some(r, 2*time.Second)
		if r.IntN(4) == 0 {
			wait(w.t.Context(), 6*time.Second)
		}
		p.Heal()
		return nil
	}
}

// redisURL is that of Redis with a proxy in the place of the server. Nodes of a cluster say themselves where they are.
func (w *world) redisURL(p *faultproxy.Proxy) string {
	if w.nodes != nil {
		return w.nodes.URL
	}
	return strings.Replace(w.redis.URL, w.redis.Addr, p.Addr, 1)
}

// configure is a configuration for those who reach the servers through the proxies.
func (w *world) configure(redis, database *faultproxy.Proxy, replicas ...*faultproxy.Proxy) string {
	urls := make([]string, len(replicas))
	for i, p := range replicas {
		urls[i] = strconv.Quote(w.throughProxy(p))
	}
	return fmt.Sprintf("namespace: %s\ndatabase: {url: %q, replicas: [%s]}\nsource: {postgres: {slot: %s, publication: chaos, rewind: {time: 10s}}}\n"+
		"regions: [{name: local, redis: {url: %q}}]\nlisten: 127.0.0.1:0\n%s", namespace, w.throughProxy(database), strings.Join(urls, ", "), slot,
		w.redisURL(redis), entries)
}
