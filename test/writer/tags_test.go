package writer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/internal/testkit"
)

// profiles is an entry of which the code ties each value to its tenant; the tenant of a profile is what comes before its colon.
func (b *bank) profiles(loads *atomic.Int64) *freshet.Typed[string, int] {
	b.t.Helper()
	profiles, err := freshet.Entry(b.cache, "profile", freshet.Load(func(ctx context.Context, q freshet.Querier, id string) (value int, err error) {
		loads.Add(1)
		tenant, _, _ := strings.Cut(id, ":")
		if err := freshet.Tag(ctx, "tenant:"+tenant); err != nil {
			return 0, err
		}
		err = q.QueryRow(ctx, `SELECT value FROM rates WHERE currency = $1`, tenant).Scan(&value)
		return value, err
	}))
	if err != nil {
		b.t.Fatal(err)
	}
	return profiles
}

// hit reads until a read is a hit with that value.
func (b *bank) hit(e *freshet.Typed[string, int], key string, want int) {
	b.t.Helper()
	testkit.Eventually(b.t, patience, func() error {
		hits := b.cache.Stats().Hits
		got, err := e.Get(b.t.Context(), key)
		if err == nil && (got != want || b.cache.Stats().Hits == hits) {
			err = fmt.Errorf("%s: %d, want a hit with %d", key, got, want)
		}
		return err
	})
}

// TestTagsByHand: what a transaction says of a tag goes for every value that is tied to it, with its commit and not without; from Go, and
// from SQL as documented; and what cannot be read, for all of them.
func TestTagsByHand(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	var loads atomic.Int64
	profiles := b.profiles(&loads)
	b.exec(`INSERT INTO rates VALUES ('7', 1), ('8', 1)`)
	all := func(seven, eight int) {
		t.Helper()
		for _, key := range []string{"7:a", "7:b"} {
			b.hit(profiles, key, seven)
		}
		b.hit(profiles, "8:a", eight)
	}
	all(1, 1)
	begin := func() (commit func(keys ...freshet.Key) error, rollback func()) {
		t.Helper()
		tx, err := b.pool.Begin(t.Context())
		if err == nil {
			_, err = tx.Exec(t.Context(), `UPDATE rates SET value = value + 1 WHERE currency IN ('7', '8')`)
		}
		if err != nil {
			t.Fatal(err)
		}
		return func(keys ...freshet.Key) error {
				_, err := b.cache.Commit(t.Context(), tx, keys...)
				return err
			}, func() {
				if err := b.cache.Intent(t.Context(), tx, b.cache.Tagged("tenant:7")); err != nil {
					t.Fatal(err)
				}
				if err := tx.Rollback(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
	}
	_, rollback := begin()
	rollback()
	b.settled()
	before := loads.Load()
	all(1, 1)
	if loads.Load() != before {
		t.Error("a transaction that was rolled back has taken values out of use")
	}
	commit, _ := begin()
	if err := commit(b.cache.Tagged("tenant:7"), b.rates.Key("7")); err != nil {
		t.Fatal(err)
	}
	b.settled()
	all(2, 1) // nobody has said anything of tenant 8
	for _, key := range []freshet.Key{
		b.cache.Tagged(""), b.cache.Tagged(strings.Repeat("x", 513)), b.cache.Tagged("a\x00"), b.cache.Tagged("tenant:7").With(freshet.Strict()), b.cache.Tagged("tenant:7").With(freshet.Refresh()),
	} {
		commit, _ := begin()
		if err := commit(key); !errors.Is(err, freshet.ErrKey) || !errors.Is(err, freshet.ErrNotCommitted) {
			t.Errorf("Commit = %v", err)
		}
	}
	b.exec(`UPDATE rates SET value = 5 WHERE currency IN ('7', '8')`)
	b.exec(statement(t, `'tags'`))
	b.settled()
	all(5, 1)
	b.exec(`UPDATE rates SET value = 6 WHERE currency IN ('7', '8')`)
	b.exec(`SELECT pg_logical_emit_message(true, 'freshet', '{"v":1,"tags":[7]}')`)
	b.settled()
	all(6, 6)
}

// TestOneWriteEndsManyValues: 10,000 values are tied to one tag. One intent ends them all, and no record is touched for it: they are there,
// and no hits.
func TestOneWriteEndsManyValues(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	var loads atomic.Int64
	profiles := b.profiles(&loads)
	b.exec(`INSERT INTO rates VALUES ('7', 1)`)
	const values = 10_000
	keys := make([]string, values)
	for i := range keys {
		keys[i] = fmt.Sprintf("7:%d", i)
	}
	// pass reads all of them, and says how many it loaded. Those that went past the cache, which a busy machine has happen, do not count.
	pass := func(want int) (n int64) {
		t.Helper()
		before, stats := loads.Load(), b.cache.Stats()
		for some := range slices.Chunk(keys, 1000) {
			results, err := profiles.GetMany(t.Context(), some)
			if err != nil {
				t.Fatal(err)
			}
			for i, r := range results {
				if r.Value != want {
					t.Fatalf("%s is %d, want %d", some[i], r.Value, want)
				}
			}
		}
		return loads.Load() - before - int64(past(b.cache.Stats())-past(stats))
	}
	b.hit(profiles, "7:0", 1)
	testkit.Eventually(t, patience, func() error {
		if n := pass(1); n > 0 {
			return fmt.Errorf("%d loads of values that should be cached", n)
		}
		return nil
	})
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{b.redis}, DisableCache: true})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	records := func() (n int) {
		keys, err := client.Do(t.Context(), client.B().Keys().Pattern("f:"+b.namespace+":*:profile:*").Build()).AsStrSlice()
		if err != nil {
			t.Fatal(err)
		}
		return len(keys)
	}
	kept := records()
	b.exec(`UPDATE rates SET value = 2 WHERE currency = '7'`)
	b.exec(statement(t, `'tags'`))
	b.settled()
	if n := records(); kept != values || n != values {
		t.Errorf("%d records, and %d after the tag has ended, want %d", kept, n, values)
	}
	if n := pass(2); n != values {
		t.Errorf("%d loads, want %d", n, values)
	}
}

func past(s freshet.Stats) (n uint64) {
	for _, some := range s.Bypassed {
		n += some
	}
	return n
}
