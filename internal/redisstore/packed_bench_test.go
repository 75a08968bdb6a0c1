package redisstore

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/testkit/redistest"
)

// ordersOf is JSON as an entry with `result: many` has it, of about so many bytes: what differs from row to row is drawn, as it is in a table.
func ordersOf(tb testing.TB, size int) []byte {
	tb.Helper()
	random := rand.New(rand.NewPCG(1, 2)) // the same each time
	pick := func(of ...string) string { return of[random.IntN(len(of))] }
	name := func() string {
		return pick("Ada", "Björn", "Chen", "Dolores", "Efe", "Fatima", "Goran", "Hiroko") + " " + pick("Ivanova", "Jensen", "Kimura", "Lopez", "Meyer", "Nkosi", "Okafor", "Patel")
	}
	var rows []map[string]any
	for length := 2; length < size; {
		placed := time.Date(2026, 11, 1, 0, 0, random.IntN(2_000_000), 0, time.UTC)
		rows = append(rows, map[string]any{
			"id": 4_000_000 + len(rows)*random.IntN(30), "reference": fmt.Sprintf("%016x%016x", random.Uint64(), random.Uint64()), "customer": name(),
			"email": fmt.Sprintf("user%d@%s", random.IntN(100_000), pick("example.com", "example.org", "mail.example.net")), "placed_at": placed.Format(time.RFC3339),
			"status": pick("new", "paid", "sent", "returned"), "total_cents": random.IntN(50_000), "currency": pick("EUR", "EUR", "USD"),
			"address": fmt.Sprintf("%d %s, %05d %s", 1+random.IntN(200), pick("High Street", "Station Road", "Mill Lane"), random.IntN(99_999), pick("Porto", "Lyon", "Graz")),
			"note":    pick("", "", "", "leave it with the neighbours", "gift"),
		})
		row, err := json.Marshal(rows[len(rows)-1])
		if err != nil {
			tb.Fatal(err)
		}
		length += len(row) + 1
	}
	text, err := json.Marshal(rows)
	if err != nil {
		tb.Fatal(err)
	}
	return text
}

// BenchmarkPack is what compression costs whoever stores a value.
func BenchmarkPack(b *testing.B) {
	for _, size := range []int{1 << 10, 10 << 10, 100 << 10} {
		payload := ordersOf(b, size)
		b.Run(fmt.Sprintf("size=%dKiB", size>>10), func(b *testing.B) {
			b.SetBytes(int64(len(payload)))
			b.ReportAllocs()
			for b.Loop() {
				if _, flag := pack(&FillRequest{Payload: payload, CompressAbove: 1}); flag != "z" {
					b.Fatal("it is not compressed")
				}
			}
		})
	}
}

// BenchmarkUnpack is what it costs whoever reads one, without Redis.
func BenchmarkUnpack(b *testing.B) {
	for _, size := range []int{1 << 10, 10 << 10, 100 << 10} {
		payload := ordersOf(b, size)
		frame, flag := pack(&FillRequest{Payload: payload, CompressAbove: 1})
		if flag != "z" {
			b.Fatal("it is not compressed")
		}
		record := append([]byte(packedHeader), frame...)
		b.Run(fmt.Sprintf("size=%dKiB", size>>10), func(b *testing.B) {
			b.SetBytes(int64(len(payload)))
			b.ReportAllocs()
			for b.Loop() {
				if got := unpack(record); len(got) != len(plainHeader)+len(payload) {
					b.Fatal("it does not come back")
				}
			}
		})
	}
}

// BenchmarkReadPacked is a GET of the same value as it is and compressed, and what it takes of Redis' memory (MEMORY USAGE).
func BenchmarkReadPacked(b *testing.B) {
	for _, size := range []int{1 << 10, 10 << 10, 100 << 10} {
		payload := ordersOf(b, size)
		for kind, above := range map[string]int{"plain": 0, "compressed": 1} {
			b.Run(fmt.Sprintf("size=%dKiB/%s", size>>10, kind), func(b *testing.B) {
				s := open(b, redistest.Shared(b))
				name := s.testName("k")
				leased(b, s, name, token('a'))
				outcome, err := s.Fill(b.Context(), name, FillRequest{
					Token: token('a'), Coverage: fence.Coverage{Snapshot: sees(10)}, State: fence.Live, Payload: payload, TTL: time.Hour, CompressAbove: above,
				})
				if err != nil || outcome != fence.Filled {
					b.Fatalf("Fill = %v, %v", outcome, err)
				}
				held, err := s.client.Do(b.Context(), s.client.B().MemoryUsage().Key(name).Build()).AsInt64()
				if err != nil {
					b.Fatal(err)
				}
				b.ReportAllocs()
				for b.Loop() {
					if text, err := s.Read(b.Context(), name); err != nil || len(text) <= len(payload) {
						b.Fatal(len(text), err)
					}
				}
				b.ReportMetric(float64(held), "B-in-redis")
				b.ReportMetric(float64(len(payload)), "B-payload")
			})
		}
	}
}
