package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/config"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/faultproxy"
	"github.com/freshet/freshet/internal/testkit/redistest"
)

// looked is what check says about a Redis.
func looked(t *testing.T, address string) *checked {
	t.Helper()
	text := "namespace: check\ndatabase: {url: \"postgres://db/x\"}\nsource: {postgres: {}}\nregions: [{name: local, redis: {url: \"" + address +
		"\"}}]\nentries: {e: {key: \"e:{id}\", query: \"SELECT 1 WHERE 1 = @id\"}}\n"
	c, err := config.Parse("freshet.yaml", []byte(text), func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	r := &checked{conf: c}
	r.checkRedis(t.Context())
	return r
}

// says holds what check found against what it should: each of want is in a finding that says why and what to do.
func says(t *testing.T, kind string, found []finding, want ...string) {
	t.Helper()
	for _, text := range want {
		var hit bool
		for _, f := range found {
			if strings.Contains(f.What, text) {
				hit = true
				if f.Do == "" {
					t.Errorf("%s %q does not say what to do", kind, f.What)
				}
			}
		}
		if !hit {
			t.Errorf("no %s says %q, but %+v", kind, text, found)
		}
	}
	if len(found) != len(want) {
		t.Errorf("%d of kind %s, want %d: %+v", len(found), kind, len(want), found)
	}
}

func TestCheckOfRedisSettings(t *testing.T) {
	t.Parallel()
	bounded := []string{"--maxmemory", "100mb", "--maxmemory-policy"}
	for _, tt := range []struct {
		name string
		args []string
		want string // a note; empty: none
	}{
		{"no bound", nil, "maxmemory sets no limit"},
		{"noeviction", append(bounded, "noeviction"), "maxmemory-policy is noeviction"},
		{"allkeys-lru", append(bounded, "allkeys-lru"), "allkeys-lru may evict"},
		{"allkeys-lfu", append(bounded, "allkeys-lfu"), "allkeys-lfu may evict"},
		{"allkeys-random", append(bounded, "allkeys-random"), "allkeys-random evicts"},
		{"volatile-lru", append(bounded, "volatile-lru"), ""},
		{"volatile-lfu", append(bounded, "volatile-lfu"), ""},
		{"volatile-random", append(bounded, "volatile-random"), ""},
		{"volatile-ttl", append(bounded, "volatile-ttl"), ""},
		{"an old dump", append(bounded, "volatile-lru", "--save", "3600 1 60 1000"), "may be older than 1h"},
		{"a dump that is young enough", append(bounded, "volatile-lru", "--save", "20 1"), ""},
		{"fsync always", append(bounded, "volatile-lru", "--appendonly", "yes", "--appendfsync", "always"), "appendfsync is always"},
		{"fsync never", append(bounded, "volatile-lru", "--appendonly", "yes", "--appendfsync", "no"), "appendfsync is no"},
		{"fsync every second", append(bounded, "volatile-lru", "--appendonly", "yes", "--save", "3600 1"), ""},
		{"too few replicas", append(bounded, "volatile-lru", "--min-replicas-to-write", "1"), "min-replicas-to-write is 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := looked(t, redistest.Start(t, append([]string{}, tt.args...)...).URL)
			says(t, "problem", r.Problems)
			if tt.want == "" {
				says(t, "note", r.Notes)
			} else {
				says(t, "note", r.Notes, tt.want)
			}
		})
	}
}

func TestCheckRefusesServers(t *testing.T) {
	t.Parallel()
	master := redistest.Start(t, "--maxmemory", "100mb", "--maxmemory-policy", "volatile-lru")
	r := looked(t, master.Replica(t, "--maxmemory", "100mb", "--maxmemory-policy", "volatile-lru").URL)
	says(t, "problem", r.Problems, "is a replica")

	r = looked(t, redistest.Start(t, "--cluster-enabled", "yes").URL)
	says(t, "problem", r.Problems, "node of a Redis Cluster")

	r = looked(t, master.URL+"?cluster=true")
	says(t, "problem", r.Problems, "cluster support disabled")

	sentinels := master.Watch(t, 1, 1)
	r = looked(t, sentinels.Servers[0].URL)
	says(t, "problem", r.Problems, "is a Sentinel itself")

	r = looked(t, sentinels.URL+"&addr=127.0.0.1:1")
	says(t, "problem", r.Problems, "sentinel 127.0.0.1:1")
	says(t, "note", r.Notes, "1 sentinel watch")
	if facts := r.Redis.Sentinel; facts == nil || facts.Address != master.Addr || facts.Named != 2 || facts.Replicas != 1 {
		t.Errorf("the sentinels: %+v", facts)
	}

	master.Do(t, "ACL", "SETUSER", "blind", "on", ">pw", "~*", "+@all", "-info")
	r = looked(t, strings.Replace(master.URL, "redis://", "redis://blind:pw@", 1))
	says(t, "problem", r.Problems, "NOPERM")
	if do := r.Problems[0].Do; !strings.Contains(do, "docs/operations.md") {
		t.Errorf("a user without INFO is told: %s", do)
	}

	master.Do(t, "ACL", "SETUSER", "untold", "on", ">pw", "~*", "&*", "+@all", "-client|tracking")
	r = looked(t, strings.Replace(master.URL, "redis://", "redis://untold:pw@", 1))
	says(t, "problem", r.Problems)
	if i := slices.IndexFunc(r.Notes, func(f finding) bool { return strings.Contains(f.What, "does not tell this user of changes") }); i < 0 ||
		!strings.Contains(r.Notes[i].What, "client|tracking") {
		t.Errorf("a user without CLIENT TRACKING is told: %+v", r.Notes)
	}

	master.Do(t, "ACL", "SETUSER", "untold", "+client|tracking", "-client|caching")
	r = looked(t, strings.Replace(master.URL, "redis://", "redis://untold:pw@", 1))
	if i := slices.IndexFunc(r.Notes, func(f finding) bool { return strings.Contains(f.What, "does not tell this user of changes") }); i < 0 ||
		!strings.Contains(r.Notes[i].What, "client|caching") || !strings.Contains(r.Notes[i].Why, "every 2 to 50 ms") {
		t.Errorf("a user without CLIENT CACHING is told: %+v", r.Notes)
	}
	master.Do(t, "ACL", "SETUSER", "untold", "+client|caching")
	r = looked(t, strings.Replace(master.URL, "redis://", "redis://untold:pw@", 1))
	if slices.ContainsFunc(r.Notes, func(f finding) bool { return strings.Contains(f.What, "does not tell this user of changes") }) {
		t.Errorf("a user who may be told is told: %+v", r.Notes)
	}
}

// A cluster: every node has its own policies, and its part of the lanes.
func TestCheckOfCluster(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 3, true, "--maxmemory", "100mb", "--maxmemory-policy", "volatile-lru")
	r := looked(t, cluster.URL)
	says(t, "problem", r.Problems)
	says(t, "note", r.Notes)
	lanes := 0
	for _, n := range r.Redis.Nodes {
		lanes += len(n.Lanes)
	}
	if len(r.Redis.Nodes) != 6 || lanes != 16 || r.Redis.Server == "" {
		t.Errorf("check sees %+v", r.Redis)
	}
	cluster.Masters[1].Do(t, "CONFIG", "SET", "maxmemory-policy", "allkeys-random", "cluster-require-full-coverage", "yes")
	cluster.Replicas[2].Do(t, "CONFIG", "SET", "maxmemory", "0")
	cluster.Replicas[0].Stop(t)
	r = looked(t, cluster.URL)
	says(t, "problem", r.Problems, cluster.Replicas[0].Addr)
	says(t, "note", r.Notes, "node "+cluster.Masters[1].Addr+": maxmemory-policy allkeys-random", cluster.Masters[1].Addr+": cluster-require-full-coverage",
		"node "+cluster.Replicas[2].Addr+": maxmemory sets no limit", "node "+cluster.Masters[0].Addr+" has no replica")
	for _, s := range cluster.All() {
		if s != cluster.Replicas[0] {
			s.Do(t, "CLUSTER", "DELSLOTS", "15872")
		}
	}
	testkit.Eventually(t, 10*time.Second, func() error {
		if r = looked(t, cluster.URL); len(r.Problems) != 3 {
			return fmt.Errorf("problems: %+v", r.Problems)
		}
		return nil
	})
	says(t, "problem", r.Problems, cluster.Replicas[0].Addr, "1 of the cluster's 16384 slots have no node", "slot 15872, that of lane 15")
}

// An address behind which connections are spread over servers that know nothing of each other.
func TestCheckRefusesAnAddressOfSeveralServers(t *testing.T) {
	t.Parallel()
	args := []string{"--maxmemory", "100mb", "--maxmemory-policy", "volatile-lru"}
	one, other := redistest.Start(t, args...), redistest.Start(t, args...)
	proxy := faultproxy.Start(t, one.Addr)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for target := 0; ctx.Err() == nil; target++ {
			proxy.Lead([]string{one.Addr, other.Addr}[target%2])
		}
	}()
	r := looked(t, "redis://"+proxy.Addr)
	for range 20 { // it is by chance where a connection leads
		if len(r.Problems) > 0 {
			break
		}
		r = looked(t, "redis://"+proxy.Addr)
	}
	cancel()
	<-done
	says(t, "problem", r.Problems, "leads to 2 different servers")
}
