package redistest

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"

	"github.com/freshet/freshet/internal/localserver"
	"github.com/freshet/freshet/internal/testkit"
)

// Cluster is a private Redis Cluster: masters that share the slots evenly, and one replica of each.
type Cluster struct {
	Masters  []*Server
	Replicas []*Server // of the master with the same number; none when there are none
	URL      string    // names all of them
}

const (
	slots = 16384
	// nodeTimeout is after how long a node that does not answer counts as failed, in milliseconds.
	nodeTimeout = "1000"
)

// StartCluster starts one for this test alone, and returns when all nodes agree on it.
func StartCluster(tb testing.TB, masters int, withReplicas bool, args ...string) *Cluster {
	tb.Helper()
	return startCluster(tb, nil, masters, withReplicas, args...)
}

// StartTLSCluster is StartCluster for nodes that speak TLS, with each other as well.
func StartTLSCluster(tb testing.TB, masters int, withReplicas bool, args ...string) *Cluster {
	tb.Helper()
	s := certificates(tb)
	return startCluster(tb, &s, masters, withReplicas, append([]string{"--tls-cluster", "yes"}, args...)...)
}

// Patient has nodes wait longer than usual for one another, where none is to fail over: on a busy machine they are slow.
func Patient() []string { return []string{"--cluster-node-timeout", "15000"} }

func startCluster(tb testing.TB, how *secure, masters int, withReplicas bool, args ...string) *Cluster {
	tb.Helper()
	c := &Cluster{}
	for i := range masters {
		c.Masters = append(c.Masters, startNode(tb, how, i+1, args...))
		if withReplicas {
			c.Replicas = append(c.Replicas, startNode(tb, how, masters+i+1, args...))
		}
	}
	for i, m := range c.Masters {
		m.Do(tb, "CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(i*slots/masters), strconv.Itoa((i+1)*slots/masters-1))
	}
	first := c.Masters[0]
	var others []string
	for _, s := range c.All()[1:] {
		host, port, _ := net.SplitHostPort(s.peer())
		first.Do(tb, "CLUSTER", "MEET", host, port, s.bus)
		others = append(others, "addr="+s.peer())
	}
	c.URL = "redis://" + first.peer() + "/0?cluster=true&" + strings.Join(others, "&")
	if how != nil {
		c.URL = "rediss" + strings.TrimPrefix(c.URL, "redis") + "&" + how.query()
	}
	c.agree(tb, len(c.All()))
	for i, r := range c.Replicas {
		r.Do(tb, "CLUSTER", "REPLICATE", c.Masters[i].NodeID(tb))
	}
	for i, r := range c.Replicas {
		c.Masters[i].CaughtUp(tb, r)
	}
	for _, s := range c.All() {
		testkit.Eventually(tb, patience, func() error {
			text, err := s.Ask(tb, "CLUSTER", "NODES").ToString()
			if n := strings.Count(text, "slave "); err != nil || n != len(c.Replicas) {
				return fmt.Errorf("node %s knows %d replicas: %w", s.Addr, n, err)
			}
			return nil
		})
	}
	return c
}

func startNode(tb testing.TB, how *secure, epoch int, args ...string) *Server {
	tb.Helper()
	bus, err := localserver.FreePort()
	if err != nil {
		tb.Fatal(err)
	}
	args = append([]string{
		"--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(bus), "--cluster-node-timeout", nodeTimeout,
		"--user", replicaUser, "on", ">" + replicaPassword, "+psync", "+replconf", "+ping",
		"--masteruser", replicaUser, "--masterauth", replicaPassword, "--repl-diskless-sync-delay", "0", "--cluster-replica-validity-factor", "0", "--cluster-require-full-coverage", "no",
	}, args...)
	var s *Server
	if how == nil {
		s = Start(tb, args...)
	} else {
		s = startSecure(tb, *how, localserver.RedisOptions{Args: args})
	}
	s.bus = strconv.Itoa(bus)
	s.Do(tb, "CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(epoch))
	return s
}

// All are all nodes.
func (c *Cluster) All() []*Server { return append(append([]*Server(nil), c.Masters...), c.Replicas...) }

// agree waits until every node finds the cluster well and knows all nodes.
func (c *Cluster) agree(tb testing.TB, nodes int) {
	tb.Helper()
	for _, s := range c.All() {
		testkit.Eventually(tb, patience, func() error {
			text, err := s.Ask(tb, "CLUSTER", "INFO").ToString()
			if err != nil {
				return err
			}
			if !strings.Contains(text, "cluster_state:ok") || !strings.Contains(text, fmt.Sprintf("cluster_known_nodes:%d\r", nodes)) {
				return fmt.Errorf("node %s says %s", s.Addr, text)
			}
			return nil
		})
	}
}

// NodeID is the server's name in its cluster.
func (s *Server) NodeID(tb testing.TB) string {
	tb.Helper()
	id, err := s.Ask(tb, "CLUSTER", "MYID").ToString()
	if err != nil {
		tb.Fatal(err)
	}
	return id
}

// Owner is the master that has the slot, as the others say.
func (c *Cluster) Owner(slot int) *Server { return c.Masters[slot*len(c.Masters)/slots] }

// Move is a slot on its way from one master to another, step by step as redis-cli takes it.
type Move struct {
	cluster  *Cluster
	slot     string
	from, to *Server
}

// Open begins to move a slot: commands about keys that From does not have are sent to To from now on.
func (c *Cluster) Open(tb testing.TB, slot int, from, to *Server) *Move {
	tb.Helper()
	m := &Move{cluster: c, slot: strconv.Itoa(slot), from: from, to: to}
	to.Do(tb, "CLUSTER", "SETSLOT", m.slot, "IMPORTING", from.NodeID(tb))
	from.Do(tb, "CLUSTER", "SETSLOT", m.slot, "MIGRATING", to.NodeID(tb))
	return m
}

// Cancel leaves the slot with its owner. What was moved stays where it is.
func (m *Move) Cancel(tb testing.TB) {
	tb.Helper()
	m.from.Do(tb, "CLUSTER", "SETSLOT", m.slot, "STABLE")
	m.to.Do(tb, "CLUSTER", "SETSLOT", m.slot, "STABLE")
}

// Keys are the slot's keys that are still where it comes from.
func (m *Move) Keys(tb testing.TB) []string {
	tb.Helper()
	keys, err := m.from.Ask(tb, "CLUSTER", "GETKEYSINSLOT", m.slot, "1000").AsStrSlice()
	if err != nil {
		tb.Fatal(err)
	}
	return keys
}

// Key moves one key, or several. Further words are MIGRATE's, such as COPY, which leaves the key where it was as well.
func (m *Move) Key(tb testing.TB, key string, words ...string) {
	tb.Helper()
	host, port, _ := net.SplitHostPort(m.to.peer())
	m.from.Do(tb, append([]string{"MIGRATE", host, port, key, "0", "5000"}, words...)...)
}

// Finish moves what is left and gives the slot to its new owner.
func (m *Move) Finish(tb testing.TB) {
	tb.Helper()
	for keys := m.Keys(tb); len(keys) > 0; keys = m.Keys(tb) {
		for _, key := range keys {
			m.Key(tb, key, "REPLACE")
		}
	}
	m.Assign(tb)
}

// Assign gives the slot to its new owner, whatever is left.
func (m *Move) Assign(tb testing.TB) {
	tb.Helper()
	id := m.to.NodeID(tb)
	m.to.Do(tb, "CLUSTER", "SETSLOT", m.slot, "NODE", id)
	m.from.Do(tb, "CLUSTER", "SETSLOT", m.slot, "NODE", id)
	for _, s := range m.cluster.Masters {
		if s != m.to && s != m.from {
			_ = s.Ask(tb, "CLUSTER", "SETSLOT", m.slot, "NODE", id).Error() // the others hear of it anyway
		}
	}
}

// FailOver waits until the replica of a master that is gone has taken its place.
func (c *Cluster) FailOver(tb testing.TB, number int) {
	tb.Helper()
	testkit.Eventually(tb, patience, func() error {
		if role := c.Replicas[number].info(tb, "role"); role != "master" {
			return fmt.Errorf("the replica is a %s", role)
		}
		return nil
	})
}
