package writer

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshet/freshet"
)

// TestStrictUnderReaders: while a key is read all the time by others, no read that begins after a strict commit has
// returned gets an older value; and the key is cached in between.
func TestStrictUnderReaders(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, option string
		commits      int
	}{
		{"held in memory", "", 8}, // each waits until nobody holds what it changes any more, which is a second
		{"in the store alone", ", l1: off", 150},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			strictUnderReaders(t, tt.option, tt.commits)
		})
	}
}

func strictUnderReaders(t *testing.T, option string, commits int) {
	t.Helper()
	b := newBank(t)
	b.exec(`INSERT INTO rates VALUES ('EUR', 0)`)
	file := b.withRate(option)
	writer, err := freshet.Open(t.Context(), freshet.Options{Config: file, Database: b.pool})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(writer.Close)
	written, err := openRates(writer, "")
	if err != nil {
		t.Fatal(err)
	}
	const readers = 3
	var (
		newest atomic.Int64
		hits   atomic.Uint64
		done   = make(chan struct{})
		group  sync.WaitGroup
	)
	for range readers {
		cache, err := freshet.Open(t.Context(), freshet.Options{Config: file, Database: b.pool})
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
				case <-time.After(100 * time.Microsecond): // the writer is to run as well
				}
				want := newest.Load()
				if got, err := rates.Get(t.Context(), "EUR"); err != nil || int64(got) < want {
					t.Errorf("%d is read after %d was committed, %v", got, want, err)
					return
				}
			}
		})
	}
	refused := 0
	for n := 0; n < commits; n++ {
		tx, err := b.pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), `UPDATE rates SET value = value + 1 WHERE currency = 'EUR'`); err != nil {
			t.Fatal(err)
		}
		_, err = writer.Commit(t.Context(), tx, written.Key("EUR", freshet.Strict()))
		if errors.Is(err, freshet.ErrNotCommitted) && refused < 10 { // the machine stood still for longer than a writer waits for the store
			refused++
			n--
			continue
		}
		if err != nil {
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
