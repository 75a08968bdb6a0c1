package redisstore

import (
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/testkit/redistest"
)

// nameIn is a record's name in a lane of a cluster.
func (s *Store) nameIn(c *Conn, lane int, key string) string {
	for i := 0; ; i++ {
		if text := key + strconv.Itoa(i); fence.LaneOf(text) == lane {
			return s.laneKey(lane, c.Generations()[lane]+":e.v.a:"+text)
		}
	}
}

func TestClusterReadThrough(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 3, false)
	s, err := Open(t.Context(), Options{URL: cluster.URL, Namespace: redistest.Namespace(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	c := connect(t, s)
	head := begin(t, c, fence.NewTerm(1, 10))
	var names []string
	for lane := range fence.Lanes {
		name := s.nameIn(c, lane, "k")
		reply := leased(t, s, name, token('a'))
		if !reply.HeadFound || reply.Head.Generation != generation || reply.Head.Lane != c.Generations()[lane] {
			t.Fatalf("lane %d: LEASE answers HEAD %+v", lane, reply.Head)
		}
		if got := filled(t, s, name, token('a'), 10); got != fence.Filled {
			t.Fatalf("lane %d: Fill = %v", lane, got)
		}
		names = append(names, name)
	}
	result, err := c.Apply(t.Context(), Batch{Expect: expect(head), Wi: 200, Si: sees(20), Names: names, Advance: 200, Sa: sees(20)})
	if err != nil || result.Removed != fence.Lanes {
		t.Fatalf("Apply = %+v, %v", result, err)
	}
	for lane, name := range names {
		h, found, text, err := s.ReadWithHead(t.Context(), name)
		if err != nil || !found || h.Wc != 200 || text != nil {
			t.Errorf("lane %d: HEAD %+v, %v, record %q, %v", lane, h, found, text, err)
		}
	}
	joined, found, err := s.Head(t.Context())
	if err != nil || !found || joined.Wc != 200 || len(joined.Lanes) != fence.Lanes {
		t.Errorf("HEAD = %+v, %v, %v", joined, found, err)
	}
}

func TestNodesOfACluster(t *testing.T) {
	t.Parallel()
	const text = "txt:aa 10.0.0.1:6379@16379,one.example master - 0 1 7 connected 0-600 900 [1536->-bb]\n" +
		"bb :6380@16380 myself,master - 0 0 8 connected 601-899 901-16383 [1536-<-aa]\n" +
		"cc [fd00::2]:6379@16379 slave aa 0 1 7 connected\n" +
		"dd 10.0.0.4:6379@16379 master,fail - 1 1 3 disconnected\n"
	got, err := parseNodes(text, "host")
	want := []member{
		{id: "aa", address: "10.0.0.1:6379", epoch: 7, slots: 602, owns: [fence.Lanes]bool{true}},
		{id: "bb", address: "host:6380", epoch: 8, slots: 299 + 15483},
		{id: "cc", address: "[fd00::2]:6379", of: "aa", epoch: 7},
		{id: "dd", address: "10.0.0.4:6379", epoch: 3, failed: true},
	}
	for lane := 1; lane < fence.Lanes; lane++ {
		want[1].owns[lane] = true
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(member{})); diff != "" || err != nil {
		t.Errorf("nodes (-want +got), %v:\n%s", err, diff)
	}
	for _, wrong := range []string{"aa 10.0.0.1:6379@1 master - 0 1 7\n", "aa nowhere master - 0 1 7 connected\n", "aa h:1@2 master - 0 1 x connected\n", "aa h:1@2 master - 0 1 7 connected a-b\n"} {
		if got, err := parseNodes(wrong, "host"); err == nil {
			t.Errorf("%q is read as %+v", wrong, got)
		}
	}
}

// TestLatestOwnerIsBelieved: of two nodes that claim a lane, the one with the later configuration has it, whoever is asked first; an
// earlier one only when the later is in doubt.
func TestLatestOwnerIsBelieved(t *testing.T) {
	t.Parallel()
	claim := func(id string, epoch uint64) []member {
		return []member{{id: id, epoch: epoch, owns: [fence.Lanes]bool{3: true}}}
	}
	for _, order := range [][]string{{"old", "new"}, {"new", "old"}} {
		var now table
		for _, id := range order {
			believe(&now, claim(id, map[string]uint64{"old": 1, "new": 2}[id]))
		}
		if got := now.lanes[3].id; got != "new" {
			t.Errorf("asked %v, lane 3 is %q's", order, got)
		}
		now.lanes[3].epoch = 0 // in doubt
		if believe(&now, claim("old", 1)); now.lanes[3].id != "old" {
			t.Errorf("in doubt lane 3 is %q's", now.lanes[3].id)
		}
	}
}
