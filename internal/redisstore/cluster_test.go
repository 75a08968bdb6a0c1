package redisstore

import (
	"strconv"
	"testing"

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
