package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/testkit/redistest"
)

// nodes are those of a Redis Cluster: three masters in the beginning, each with a replica.
type nodes struct {
	*redistest.Cluster

	clients map[*redistest.Server]rueidis.Client
}

func newNodes(t *testing.T) *nodes {
	t.Helper()
	// Longer than usual, since all of them share a busy machine: none is to fail over that nobody has harmed.
	n := &nodes{redistest.StartCluster(t, 3, true, "--cluster-node-timeout", "3000"), map[*redistest.Server]rueidis.Client{}}
	for _, s := range n.All() {
		client, err := rueidis.NewClient(rueidis.ClientOption{
			InitAddress: []string{s.Addr}, DisableCache: true, ForceSingleClient: true, DisableRetry: true, ConnWriteTimeout: time.Second,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(client.Close)
		n.clients[s] = client
	}
	return n
}

// ask asks one node, which may be away.
func (n *nodes) ask(ctx context.Context, s *redistest.Server, words ...string) rueidis.RedisResult {
	client := n.clients[s]
	return client.Do(ctx, client.B().Arbitrary(words...).Build())
}

// do has the node do it that has the key.
func (n *nodes) do(ctx context.Context, words ...string) error {
	var errs []error
	for _, s := range n.All() {
		err := n.ask(ctx, s, words...).Error()
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("node %s: %w", s.Addr, err))
	}
	return fmt.Errorf("%s: %w", strings.Join(words, " "), errors.Join(errs...))
}

// masters are the nodes that have slots now, as they say themselves.
func (n *nodes) masters(ctx context.Context) (all []*redistest.Server) {
	for _, s := range n.All() {
		if text, err := n.ask(ctx, s, "CLUSTER", "NODES").ToString(); err == nil {
			for line := range strings.Lines(text) {
				const fixed = 8
				if fields := strings.Fields(line); strings.Contains(fields[2], "myself") && strings.Contains(fields[2], "master") && len(fields) > fixed {
					all = append(all, s)
				}
			}
		}
	}
	return all
}

// owner is the node that has a lane.
func (n *nodes) owner(ctx context.Context, lane int) *redistest.Server {
	for _, s := range n.All() {
		err := n.ask(ctx, s, "EXISTS", "f:"+fence.LaneNamespace(namespace, fence.Lanes, lane)+":none").Error()
		if role, roleErr := n.ask(ctx, s, "ROLE").ToArray(); err == nil && roleErr == nil {
			if name, err := role[0].ToString(); err == nil && name == "master" {
				return s
			}
		}
	}
	return nil
}

// agreed waits until there are three masters, which all nodes find well.
func (w *world) agreed() error {
	const masters = 3
	return until(w.t.Context(), func(ctx context.Context) error {
		for _, s := range w.nodes.All() {
			text, err := w.nodes.ask(ctx, s, "CLUSTER", "INFO").ToString()
			if err != nil {
				return err
			}
			if !strings.Contains(text, "cluster_state:ok") || !strings.Contains(text, "cluster_slots_ok:16384") {
				return fmt.Errorf("node %s says %s", s.Addr, text)
			}
		}
		if n := len(w.nodes.masters(ctx)); n != masters {
			return fmt.Errorf("there are %d masters", n)
		}
		return nil
	})
}

// nodeFaults are those of a cluster.
func nodeFaults() []fault {
	return []fault{
		{name: "a slot is moved", do: moveSlot, short: true},
		{name: "a node is frozen", do: freezeNode, short: true, forgets: theStore},
		{name: "a node is killed, and its replica takes its place", do: failNodeOver, short: true, forgets: theStore},
		{name: "a node restarts empty", do: emptyNode, forgets: theStore},
		{name: "a move is given up", do: giveMoveUp},
		{name: "a node is flushed", do: onNode("FLUSHALL")},
		{name: "a node pauses", do: onNode("CLIENT", "PAUSE", "1500", "ALL")},
		{name: "a node kills all connections", do: onNode("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")},
		{name: "a node's scripts are flushed", do: onNode("SCRIPT", "FLUSH")},
		{name: "a lane's HEAD is evicted", do: evictLane("head")},
		{name: "a lane's roster is evicted", do: evictLane("roster")},
		{name: "a lane's count is evicted", do: evictLane("tick")},
		{name: "records are evicted", do: evictRecords},
	}
}

func (w *world) anyMaster(r *rand.Rand) (*redistest.Server, error) {
	if err := w.agreed(); err != nil {
		return nil, err
	}
	all := w.nodes.masters(w.t.Context())
	return all[r.IntN(len(all))], nil
}

func onNode(words ...string) func(*world, *rand.Rand) error {
	return func(w *world, r *rand.Rand) error {
		s, err := w.anyMaster(r)
		if err != nil {
			return err
		}
		if err := w.nodes.ask(w.t.Context(), s, words...).Error(); err != nil {
			return fmt.Errorf("%s on node %s: %w", strings.Join(words, " "), s.Addr, err)
		}
		return nil
	}
}

func evictLane(what string) func(*world, *rand.Rand) error {
	return func(w *world, r *rand.Rand) error {
		return w.do("DEL", "f:"+fence.LaneNamespace(namespace, fence.Lanes, r.IntN(fence.Lanes))+":"+what)
	}
}

// freezeNode has a master stand still; at times for so long that its replica takes its place.
func freezeNode(w *world, r *rand.Rand) error {
	s, err := w.anyMaster(r)
	if err != nil {
		return err
	}
	s.Freeze(w.t)
	wait(w.t.Context(), 300*time.Millisecond)
	w.some(r, 3*time.Second)
	if r.IntN(3) == 0 {
		wait(w.t.Context(), 6*time.Second)
	}
	s.Thaw(w.t)
	return w.agreed()
}

// failNodeOver kills a master, whose replica has missed what it did last.
func failNodeOver(w *world, r *rand.Rand) error {
	s, err := w.anyMaster(r)
	if err != nil {
		return err
	}
	s.ShutOut(w.t)
	w.some(r, 300*time.Millisecond)
	s.Kill(w.t)
	err = until(w.t.Context(), func(ctx context.Context) error {
		const masters = 3
		if n := len(w.nodes.masters(ctx)); n != masters {
			return fmt.Errorf("there are %d masters", n)
		}
		return nil
	})
	s.Start(w.t)
	return errors.Join(err, w.agreed())
}

// emptyNode kills a master, and has it come back at once, as the master of its slots if it is quick enough.
func emptyNode(w *world, r *rand.Rand) error {
	s, err := w.anyMaster(r)
	if err != nil {
		return err
	}
	s.Kill(w.t)
	w.some(r, time.Second)
	s.Start(w.t)
	return w.agreed()
}

// opened begins to move the slot of some lane.
func (w *world) opened(r *rand.Rand) (*redistest.Move, error) {
	if err := w.agreed(); err != nil {
		return nil, err
	}
	lane := r.IntN(fence.Lanes)
	from := w.nodes.owner(w.t.Context(), lane)
	if from == nil {
		return nil, fmt.Errorf("no node has lane %d", lane)
	}
	others := slices.DeleteFunc(w.nodes.masters(w.t.Context()), func(s *redistest.Server) bool { return s == from })
	return w.nodes.Open(w.t, fence.Slot(lane), from, others[r.IntN(len(others))]), nil
}

// moveSlot moves a slot key by key, HEAD when its turn comes.
func moveSlot(w *world, r *rand.Rand) error {
	move, err := w.opened(r)
	if err != nil {
		return err
	}
	for _, key := range move.Keys(w.t) {
		if r.IntN(2) == 0 {
			move.Key(w.t, key, "REPLACE")
			w.some(r, 40*time.Millisecond)
		}
	}
	w.some(r, 500*time.Millisecond)
	move.Finish(w.t)
	return w.agreed()
}

// giveMoveUp moves some keys, and leaves them where they came to. The daemon looks twice a second: it has seen the move.
func giveMoveUp(w *world, r *rand.Rand) error {
	move, err := w.opened(r)
	if err != nil {
		return err
	}
	for _, key := range move.Keys(w.t) {
		if r.IntN(2) == 0 {
			move.Key(w.t, key, "REPLACE")
		}
	}
	wait(w.t.Context(), 2*time.Second)
	move.Cancel(w.t)
	return w.agreed()
}
