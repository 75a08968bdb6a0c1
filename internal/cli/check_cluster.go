package cli

import (
	"context"
	"fmt"
	"slices"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/redisstore"
)

// checkCluster looks at every node of a Redis Cluster.
func (r *checked) checkCluster(ctx context.Context, store *redisstore.Store, namespace string) {
	name := r.conf.Regions[0].Name
	nodes, err := store.Nodes(ctx)
	if err != nil {
		do := "start the cluster's nodes, or correct regions.redis.url"
		if redisstore.NotClustered(err) {
			do = "remove cluster=true and addr from regions.redis.url: it is a single server"
		}
		r.problem("redis", fmt.Sprintf("region %s: %v", name, err), "values are cached there", do)
		return
	}
	r.Redis = &redisFacts{Namespace: namespace, Nodes: []nodeFacts{}}
	for i := range nodes {
		r.checkNode(&nodes[i])
		replica := func(n redisstore.Node) bool { return n.Of == nodes[i].Address && n.Err == nil }
		if len(nodes[i].Lanes) > 0 && nodes[i].Err == nil && !slices.ContainsFunc(nodes, replica) {
			r.note("redis", "node "+nodes[i].Address+" has no replica", "when it is gone, its keys are read from the database until it is back", "add one")
		}
	}
	if assigned, all := redisstore.SlotsOf(nodes); assigned < all {
		r.problem("redis", fmt.Sprintf("region %s: %d of the cluster's %d slots have no node", name, all-assigned, all),
			"keys in them are read from the database", "redis-cli --cluster fix")
	}
	for lane := range fence.Lanes {
		if !slices.ContainsFunc(nodes, func(n redisstore.Node) bool { return slices.Contains(n.Lanes, lane) }) {
			r.problem("redis", fmt.Sprintf("region %s: slot %d, that of lane %d, has no node", name, fence.Slot(lane), lane),
				"a sixteenth of all keys is read from the database", "redis-cli --cluster fix")
		}
	}
}

// checkNode looks at one node.
func (r *checked) checkNode(n *redisstore.Node) {
	which := "node " + n.Address + ": "
	master := n.Of == ""
	switch {
	case n.Err != nil && master && n.Failed && n.Slots == 0:
		return // it was replaced, and the others have not forgotten it
	case n.Err != nil:
		r.problem("redis", fmt.Sprintf("%s%v", which, n.Err), "what a master holds is read from the database until it, or a replica of it, answers", "start it")
		return
	}
	if r.Redis.Server == "" {
		r.Redis.Server, r.Redis.Version, r.Redis.Role = n.Info.Server, n.Info.Version, "cluster"
		r.Redis.MaxMemory, r.Redis.Policy = n.Info.MaxMemory, n.Info.MaxMemoryPolicy
	}
	r.Redis.Nodes = append(r.Redis.Nodes, nodeFacts{
		Address: n.Address, Of: n.Of, Lanes: n.Lanes, MaxMemory: n.Info.MaxMemory, Policy: n.Info.MaxMemoryPolicy,
	})
	if why := n.Info.Supported(true); why != "" {
		r.problem("redis", which+why, "", useNewer)
		return
	}
	if n.Info.Replid == "" {
		r.problem("redis", which+"INFO replication has no master_replid: the server does not name its history",
			"a failover, or a slot that was moved, could not be noticed, and what was lost in it would be stale for good",
			"use a service that shows INFO replication")
	}
	if master && n.Slots == 0 {
		return // nothing is kept there
	}
	r.judgeMemory(which, n.Info)
	if master {
		r.judgeLosses(which, n.Settings)
		if n.Settings["cluster-require-full-coverage"] == "yes" {
			r.note("redis", which+"cluster-require-full-coverage is yes",
				"while a part of the slots has no master, the whole cluster refuses commands, and everything is read from the database",
				"set it to no: the other lanes go on then")
		}
	}
}
