package writer

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/freshet/freshet"
)

// TestStrictUnderReaders: while a key is read all the time by others, no read that begins after a strict commit has
// returned gets an older value; and the key is cached in between.
func TestStrictUnderReaders(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	b.exec(`INSERT INTO rates VALUES ('EUR', 0)`)
	const commits, readers = 150, 3
	var (
		newest atomic.Int64
		hits   atomic.Uint64
		done   = make(chan struct{})
		group  sync.WaitGroup
	)
	for range readers {
		cache, err := freshet.Open(t.Context(), freshet.Options{Config: b.config, Database: b.pool})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cache.Close)
		rates, err := openRates(cache, "")
		if err != nil {
			t.Fatal(err)
		}
		group.Go(func() {
			defer func() { hits.Add(cache.Stats().Hits) }()
			for {
				select {
				case <-done:
					return
				default:
				}
				want := newest.Load()
				if got, err := rates.Get(t.Context(), "EUR"); err != nil || int64(got) < want {
					t.Errorf("%d is read after %d was committed, %v", got, want, err)
					return
				}
			}
		})
	}
	for n := range commits {
		tx, err := b.pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), `UPDATE rates SET value = value + 1 WHERE currency = 'EUR'`); err != nil {
			t.Fatal(err)
		}
		if _, err := b.cache.Commit(t.Context(), tx, b.rates.Key("EUR", freshet.Strict())); err != nil {
			t.Fatal(err)
		}
		newest.Store(int64(n) + 1)
		if n%10 == 0 {
			b.cached("EUR")
		}
	}
	close(done)
	group.Wait()
	if hits.Load() == 0 {
		t.Error("the readers never hit: nothing was shown")
	}
}
