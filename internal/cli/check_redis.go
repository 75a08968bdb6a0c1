package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/freshet/freshet/internal/redisstore"
)

// redisFacts are what check saw of the store.
type redisFacts struct {
	Server    string         `json:"server"`
	Version   string         `json:"version"`
	Role      string         `json:"role"`
	MaxMemory int64          `json:"maxmemory"`
	Policy    string         `json:"maxmemory_policy"`
	Namespace string         `json:"namespace"`
	Sentinel  *sentinelFacts `json:"sentinel,omitempty"`
	Nodes     []nodeFacts    `json:"nodes,omitempty"` // of a Redis Cluster
}

// nodeFacts are what check saw of a node of a Redis Cluster.
type nodeFacts struct {
	Address   string `json:"address"`
	Of        string `json:"of,omitempty"` // the master that it follows
	Lanes     []int  `json:"lanes"`
	MaxMemory int64  `json:"maxmemory"`
	Policy    string `json:"maxmemory_policy"`
}

// sentinelFacts are what check saw of the Sentinels.
type sentinelFacts struct {
	Master   string   `json:"master"`  // its name
	Address  string   `json:"address"` // of the present master
	Named    int      `json:"named"`   // Sentinels that the configuration names
	Silent   []string `json:"silent"`  // those of them that do not answer
	Known    int      `json:"known"`   // Sentinels that know of each other
	Quorum   int      `json:"quorum"`
	Replicas int      `json:"replicas"`
}

func (r *checked) checkRedis(ctx context.Context) {
	ctx, cancel := within(ctx)
	defer cancel()
	namespace := r.conf.Namespace
	if namespace == "" && r.Postgres != nil {
		namespace = r.conf.NamespaceFor(r.Postgres.SystemID, r.Postgres.Database)
	}
	region := r.conf.Regions[0]
	// Without the database the namespace that it gives is not known. The server can be looked at all the same: that
	// touches no key.
	store, err := openStore(ctx, r.conf, cmp.Or(namespace, "unknown"), slog.New(slog.DiscardHandler))
	if err != nil {
		r.problem("redis", err.Error(), "", "correct regions.redis.url")
		return
	}
	defer store.Close()
	if store.Clustered() {
		r.checkCluster(ctx, store, namespace)
		r.judgeDatabase(ctx, store)
		r.judgeTracking(ctx, namespace)
		return
	}
	info, err := store.Info(ctx)
	if err != nil {
		do := "start Redis, or correct regions.redis.url"
		if errors.Is(err, redisstore.ErrNoPermission) {
			do = "correct user and password in regions.redis.url, or give the user what docs/operations.md grants"
		}
		r.problem("redis", fmt.Sprintf("region %s: %v", region.Name, err), "values are cached there", do)
		return
	}
	r.Redis = &redisFacts{
		Server: info.Server, Version: info.Version, Role: info.Role, MaxMemory: info.MaxMemory, Policy: info.MaxMemoryPolicy, Namespace: namespace,
	}
	if why := info.Supported(false); why != "" {
		do := useNewer
		switch info.Mode {
		case "sentinel":
			do = "add master_set=NAME to regions.redis.url; its other Sentinels are named by addr=HOST:PORT"
		case "cluster":
			do = "add ?cluster=true to regions.redis.url, and name further nodes by addr=HOST:PORT"
		}
		r.problem("redis", fmt.Sprintf("region %s: %s", region.Name, why), "", do)
		return
	}
	r.judgeHistory(ctx, store, info)
	r.judgeMemory("", info)
	settings, err := store.Settings(ctx)
	if err != nil {
		r.problem("redis", fmt.Sprintf("region %s: %v", region.Name, err), "", "")
		return
	}
	r.judgeLosses("", settings)
	r.judgeSentinels(store.Sentinels(ctx))
	r.judgeDatabase(ctx, store)
	r.judgeTracking(ctx, namespace)
}

const useNewer = "use Redis 7.0 or Valkey 7.2, or newer: one server, a master that Sentinels watch, or a Redis Cluster"

// judgeHistory refuses what would hide that a server lost history: then nothing could be vouched for.
func (r *checked) judgeHistory(ctx context.Context, store *redisstore.Store, info redisstore.Info) {
	name := r.conf.Regions[0].Name
	if info.Role != "master" {
		r.problem("redis", fmt.Sprintf("region %s: the server is a replica", name),
			"nothing can be written to it, and what is read from it may be as old as its link to the master is broken",
			"name the master in regions.redis.url, or the Sentinels that watch it (master_set)")
		return
	}
	if info.Replid == "" {
		r.problem("redis", fmt.Sprintf("region %s: INFO replication has no master_replid: the server does not name its history", name),
			"a failover could not be noticed, and what was lost in it would be stale for good",
			"let regions.redis.url lead to the server itself, not to a proxy, or use a service that shows INFO replication")
	}
	servers, err := store.Servers(ctx)
	if err != nil {
		r.problem("redis", fmt.Sprintf("region %s: %v", name, err), "", "")
		return
	}
	if len(servers) > 1 {
		r.problem("redis", fmt.Sprintf("region %s: the address leads to %d different servers", name, len(servers)),
			"what is removed from one would still be read from another", "name one master, without a proxy that spreads connections")
	}
}

// judgeMemory says what a full server does under its policy. which names it, where there are several.
func (r *checked) judgeMemory(which string, info redisstore.Info) {
	policy := info.MaxMemoryPolicy
	const do = "set maxmemory-policy to volatile-lru or another volatile one: all cached values have a TTL, and HEAD and roster have none"
	switch {
	case info.MaxMemory == 0:
		r.note("redis", which+"maxmemory sets no limit", "a cache grows until the system stops it", "set maxmemory, and maxmemory-policy to one of the volatile ones")
	case policy == "allkeys-random":
		r.note("redis", which+"maxmemory-policy allkeys-random evicts what the daemon vouches with as readily as anything else",
			"each time it does, a new generation begins and everything cached is given up; nothing is stale by it", do)
	case strings.HasPrefix(policy, "allkeys-"):
		r.note("redis", which+"maxmemory-policy "+policy+" may evict what the daemon vouches with",
			"it is used all the time and so goes late, but Redis only guesses; each time it does, a new generation begins and everything cached is given up; nothing is stale by it", do)
	case policy == "noeviction":
		r.note("redis", which+"maxmemory-policy is noeviction", "once the memory is full no new value is cached; invalidation goes on", do)
	}
}

// judgeLosses says what a restart may lose, and what keeps writes from being taken. Without settings nothing is known.
func (r *checked) judgeLosses(which string, settings map[string]string) {
	rewind := r.conf.Source.Postgres.Rewind.Time
	if oldest := longestSave(settings["save"]); oldest > rewind && settings["appendonly"] == "no" {
		r.note("redis", which+fmt.Sprintf("a restart brings a dump back that may be older than %s (save %q)", oldest, settings["save"]),
			fmt.Sprintf("what it lacks is delivered again up to the rewind depth of %s; beyond that a new generation begins and everything cached is given up. Nothing is stale by it", rewind),
			`raise source.postgres.rewind.time, or have nothing saved (save ""), which a restart comes back from just as empty`)
	}
	if settings["appendonly"] == "yes" {
		switch settings["appendfsync"] {
		case "always":
			r.note("redis", which+"appendfsync is always", "each batch of invalidations waits for Redis' disk", "set appendfsync everysec: what a crash loses of it is delivered again")
		case "no":
			r.note("redis", which+"appendfsync is no", "a crash of the machine may lose half a minute or more: beyond the rewind depth a new generation begins", "set appendfsync everysec")
		}
	}
	if n, err := strconv.Atoi(settings["min-replicas-to-write"]); err == nil && n > 0 {
		r.note("redis", which+fmt.Sprintf("min-replicas-to-write is %d", n),
			"while fewer replicas follow, Redis takes no invalidation, and what is cached grows stale up to its TTL; nothing counts as applied, and it is made up for afterwards",
			"leave it at 0 unless a cut-off master must not take writes at all")
	}
}

// longestSave is the longest of the times after which Redis saves a dump.
func longestSave(save string) time.Duration {
	var longest time.Duration
	for i, word := range strings.Fields(save) {
		if seconds, err := strconv.Atoi(word); err == nil && i%2 == 0 {
			longest = max(longest, time.Duration(seconds)*time.Second)
		}
	}
	return longest
}

// judgeSentinels judges what has to agree before a replica becomes the master.
func (r *checked) judgeSentinels(s *redisstore.Sentinels) {
	if s == nil {
		return
	}
	const enough = 3
	facts := &sentinelFacts{
		Master: s.Master, Address: s.Address, Named: s.Named, Silent: slices.Sorted(maps.Keys(s.Silent)), Known: s.Known, Quorum: s.Quorum, Replicas: s.Replicas,
	}
	r.Redis.Sentinel = facts
	for _, address := range facts.Silent {
		r.problem("redis", fmt.Sprintf("sentinel %s: %v", address, s.Silent[address]),
			"the master is found as long as one of them answers", "start it, or correct regions.redis.url and regions.redis.sentinel")
	}
	if s.Known < enough {
		r.note("redis", fmt.Sprintf("%s watch %s", plural(s.Known, "sentinel"), s.Master),
			"a majority has to agree on a failover: with fewer than three none is left when one is gone", "run three, on machines of their own")
	}
	if s.Named < s.Known {
		r.note("redis", fmt.Sprintf("the URL names %d of %d sentinels", s.Named, s.Known),
			"a process that starts while those are away does not find the master", "name the others too: addr=HOST:PORT")
	}
	if s.Replicas == 0 {
		r.note("redis", s.Master+" has no replica", "there is nothing to fail over to", "add one")
	}
}
