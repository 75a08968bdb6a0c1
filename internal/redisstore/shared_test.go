package redisstore

import (
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/freshet/freshet/internal/testkit/redistest"
)

// received is how often the server has read something from a connection.
func received(t *testing.T, s *Store) int {
	t.Helper()
	text, err := s.client.Do(t.Context(), s.client.B().Info().Section("stats").Build()).ToString()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(text) {
		if count, ok := strings.CutPrefix(strings.TrimSpace(line), "total_reads_processed:"); ok {
			n, err := strconv.Atoi(count)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("the server does not count what it reads")
	return 0
}

// TestReadersShareWrites: readers that read at the same time send together, as the server sees it.
func TestReadersShareWrites(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Start(t))
	const readers, reads, enough = 64, 500, 4
	name := s.testName("a")
	before := received(t, s)
	var all sync.WaitGroup
	for range readers {
		all.Go(func() {
			for range reads {
				if _, err := s.Read(t.Context(), name); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	each := float64(readers*reads) / float64(received(t, s)-before)
	t.Logf("%.1f commands came together", each)
	if each < enough {
		t.Errorf("%.1f commands came together, want %d", each, enough)
	}
}
