package redisstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/fence"
)

// Node is what the check command asks a node of a cluster about.
type Node struct {
	Address  string
	Of       string // address of the master that it follows; empty: it is one
	Lanes    []int
	Slots    int
	Failed   bool // as the other nodes see it
	Info     Info
	Settings map[string]string // as those of Store.Settings
	Err      error             // it could not be asked
}

// Nodes asks every node of the cluster; nil when the store is no cluster.
func (s *Store) Nodes(ctx context.Context) ([]Node, error) {
	if s.cluster == nil {
		return nil, nil
	}
	s.cluster.look(ctx)
	t := s.cluster.table.Load()
	if len(t.members) == 0 {
		return nil, fmt.Errorf("read the cluster's nodes: %w", t.why)
	}
	addresses := map[string]string{}
	for _, m := range t.members {
		addresses[m.id] = m.address
	}
	nodes := make([]Node, len(t.members))
	var asking sync.WaitGroup
	for i, m := range t.members {
		n := &nodes[i]
		*n = Node{Address: m.address, Of: addresses[m.of], Slots: m.slots, Failed: m.failed}
		for lane, o := range &t.lanes {
			if o.id == m.id {
				n.Lanes = append(n.Lanes, lane)
			}
		}
		client, err := s.cluster.reach(m.address)
		if err != nil {
			n.Err = err
			continue
		}
		asking.Go(func() {
			if n.Info, n.Err = infoOf(ctx, client); n.Err == nil {
				n.Settings, n.Err = settingsOf(ctx, client)
			}
		})
	}
	asking.Wait()
	return nodes, nil
}

// reach is client for who does not hold mu.
func (c *cluster) reach(address string) (rueidis.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.client(address)
}

// Clustered reports whether the address names nodes of a cluster.
func (s *Store) Clustered() bool { return s.cluster != nil }

// NotClustered reports whether an error is that of a server which is no node of a cluster.
func NotClustered(err error) bool {
	return errors.Is(err, ErrRefused) && strings.Contains(err.Error(), "cluster support disabled")
}

// SlotsOf is the number of slots that the nodes' masters have together, and that there are.
func SlotsOf(nodes []Node) (assigned, all int) {
	for i := range nodes {
		assigned += nodes[i].Slots
	}
	return assigned, fence.Slots
}
