package redisstore

import (
	"strconv"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/testkit/redistest"
	"github.com/freshet/freshet/mvcc"
)

// BenchmarkApply is a whole batch against one pipelined UNLINK of the same names, which is what it cannot go below.
func BenchmarkApply(b *testing.B) {
	for _, n := range []int{0, 1, 500, 20_000} {
		names := make([]string, n)
		for i := range names {
			names[i] = "f:bench:" + generation + ":e.v.a:" + strconv.Itoa(i)
		}
		b.Run("names="+strconv.Itoa(n), func(b *testing.B) {
			s := open(b, redistest.Shared(b))
			c := connect(b, s)
			h := begin(b, c, fence.NewTerm(1, 10))
			b.ReportAllocs()
			for b.Loop() {
				next := h.Wc + 1
				if _, err := c.Apply(b.Context(), Batch{Expect: expect(h), Wi: next, Si: sees(mvcc.XID(next)), Names: names, Advance: next}); err != nil {
					b.Fatal(err)
				}
				h.Wc = next
			}
		})
		if n != 1 {
			continue
		}
		b.Run("unlink=1", func(b *testing.B) {
			s := open(b, redistest.Shared(b))
			for b.Loop() {
				if err := s.client.Do(b.Context(), s.client.B().Unlink().Key(names...).Build()).Error(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkApplyCluster is a whole batch in sixteen lanes on three masters, in three phases, against the same on one server.
func BenchmarkApplyCluster(b *testing.B) {
	for _, n := range []int{0, 1, 10, 500, 20_000} {
		for _, kind := range []string{"server", "cluster"} {
			b.Run(kind+"/names="+strconv.Itoa(n), func(b *testing.B) {
				server := redistest.Start(b)
				url, servers := server.URL, []*redistest.Server{server}
				if kind == "cluster" {
					cluster := redistest.StartCluster(b, 3, false)
					url, servers = cluster.URL, cluster.Masters
				}
				work := func() (all float64) {
					for _, s := range servers {
						all += cpu(b, s)
					}
					return all
				}
				s, err := Open(b.Context(), Options{URL: url, Namespace: redistest.Namespace(b)})
				if err != nil {
					b.Fatal(err)
				}
				b.Cleanup(s.Close)
				c := connect(b, s)
				h := begin(b, c, fence.NewTerm(1, 10))
				names := make([]string, n)
				for i := range names {
					key := "e:" + strconv.Itoa(i)
					prefixes := fence.LanePrefixes(s.namespace, generation, c.Generations(), "e.v.a:")
					names[i] = prefixes[fence.LaneOf(key)%len(prefixes)] + key
				}
				b.ReportAllocs()
				before := work()
				for b.Loop() {
					next := h.Wc + 1
					if _, err := c.Apply(b.Context(), Batch{Expect: expect(h), Wi: next, Si: sees(mvcc.XID(next)), Names: names, Advance: next}); err != nil {
						b.Fatal(err)
					}
					h.Wc = next
				}
				b.ReportMetric((work()-before)/float64(b.N)*1e6, "server-us/op")
			})
		}
	}
}

func BenchmarkHit(b *testing.B) {
	s := open(b, redistest.Shared(b))
	name := s.testName("k")
	leased(b, s, name, token('a'))
	filled(b, s, name, token('a'), 10)
	b.Run("get", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if r, err := s.Get(b.Context(), name); err != nil || !r.State.Live() {
				b.Fatal(err)
			}
		}
	})
	b.Run("plain", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := s.client.Do(b.Context(), s.client.B().Get().Key(name).Build()).Error(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkMiss(b *testing.B) {
	s := open(b, redistest.Shared(b))
	begin(b, connect(b, s), fence.NewTerm(1, 10))
	i := 0
	for b.Loop() {
		i++
		name := s.testName(strconv.Itoa(i))
		if reply, err := s.Lease(b.Context(), name, token('a'), time.Minute); err != nil || !reply.Granted {
			b.Fatal(err)
		}
		if filled(b, s, name, token('a'), 10) != fence.Filled {
			b.Fatal("not filled")
		}
	}
}
