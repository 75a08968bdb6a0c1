package freshet_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/localserver"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/mvcc"
)

// pausedTx does something just before its COMMIT.
type pausedTx struct {
	pgx.Tx
	before func()
}

func (tx pausedTx) Commit(ctx context.Context) error {
	tx.before()
	return tx.Tx.Commit(ctx)
}

// TestStrict: there is no daemon that would invalidate anything, and yet no read that begins after Commit gets an older
// value. Without Strict it does.
func TestStrict(t *testing.T) {
	t.Parallel()
	s := published(t)
	p := pool(t, s.url)
	writer, reader := open(t, freshet.Options{Config: s.file}), open(t, freshet.Options{Config: s.file})
	written, read := entry[int64, Product](t, writer, "product"), entry[int64, Product](t, reader, "product")
	old := Product{ID: 1, Name: "kettle", Price: 24.5}
	get(t, read, 1, old)
	if _, err := writer.Commit(t.Context(), begin(t, p, `UPDATE products SET name = 'pot' WHERE id = 1`), written.Key(1)); err != nil {
		t.Fatal(err)
	}
	get(t, read, 1, old) // the test would show nothing otherwise

	for i := range 3 {
		name := fmt.Sprint("pot ", i)
		tx := pausedTx{begin(t, p, `UPDATE products SET name = '`+name+`' WHERE id = 1`), func() {
			forgets(t, reader)
			before := reader.Stats()
			for range 2 {
				if v, err := read.Get(t.Context(), 1); err != nil || v.Name == name {
					t.Errorf("before COMMIT: %+v, %v", v, err)
				}
			}
			if after := reader.Stats(); after.Fills != before.Fills || after.Hits != before.Hits || after.Refused["not_covering"] != before.Refused["not_covering"]+2 {
				t.Errorf("before COMMIT: from %+v to %+v", before, after)
			}
		}}
		if _, err := writer.Commit(t.Context(), tx, written.Key(1, freshet.Strict())); err != nil {
			t.Fatal(err)
		}
		want := Product{ID: 1, Name: name, Price: 24.5}
		before := reader.Stats()
		get(t, read, 1, want)
		get(t, read, 1, want)
		if after := reader.Stats(); after.Fills != before.Fills+1 || after.Hits != before.Hits+1 {
			t.Errorf("after COMMIT: from %+v to %+v", before, after)
		}
	}
	if _, err := writer.Commit(t.Context(), begin(t, p, rename), written.Key(1, freshet.Strict(), freshet.Refresh())); err != nil {
		t.Fatal(err)
	}
	before := reader.Stats()
	get(t, read, 1, Product{ID: 1, Name: "pot 2!", Price: 24.5})
	if after := reader.Stats(); after.Hits != before.Hits+1 {
		t.Errorf("after a refresh: from %+v to %+v", before, after)
	}
}

// forgets waits until a process has heard that what it holds in memory is over.
func forgets(t *testing.T, reader *freshet.Cache) {
	t.Helper()
	testkit.Eventually(t, 10*time.Second, func() error {
		if s := reader.Stats(); s.L1.Records != 0 {
			return fmt.Errorf("%+v", *s.L1)
		}
		return nil
	})
}

// TestStrictFencesEveryVersion: processes with another file read another version of the entry, and must not get an older
// value from it either.
func TestStrictFencesEveryVersion(t *testing.T) {
	t.Parallel()
	s := published(t)
	p := pool(t, s.url)
	store, err := redisstore.Open(t.Context(), redisstore.Options{URL: s.redis, Namespace: s.namespace})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	publish := func(revision uint64, key string, params ...rule.Param) string {
		t.Helper()
		roster := s.roster()
		other := *roster.Entries["product"]
		other.Definition, other.Activation, other.Retained, other.Key = "00000000000000dd", "00000000000000ee", 1, key
		other.Params = append(slices.Clone(other.Params), params...)
		roster.Revision, roster.Retained = revision, []*rule.Entry{&other}
		err := s.daemon(t.Context(), func(d *redisstore.Conn) error {
			if _, _, err := d.Claim(t.Context(), s.head.Term); err != nil {
				return err
			}
			return d.Move(t.Context(), s.expected(), roster.Text(), revision, "p")
		})
		if err != nil {
			t.Fatal(err)
		}
		return rule.KeyPrefix(s.namespace, roster.Generation, &other) + "product:1"
	}
	name := publish(2, "product:{id}")
	token := fence.Token(strings.Repeat("a", 32))
	if reply, err := store.Lease(t.Context(), name, token, time.Minute); err != nil || !reply.Granted {
		t.Fatal(reply, err)
	}
	before := fence.Coverage{Snapshot: mvcc.Snapshot{Xmin: 3, Xmax: 3}}
	outcome, err := store.Fill(t.Context(), name, redisstore.FillRequest{
		Token: token, Coverage: before, State: fence.Live, Payload: []byte("{}"), TTL: time.Hour,
	})
	if err != nil || outcome != fence.Filled {
		t.Fatal(outcome, err)
	}
	writer := open(t, freshet.Options{Config: s.file})
	written := entry[int64, Product](t, writer, "product").Key(1, freshet.Strict())
	if _, err := writer.Commit(t.Context(), begin(t, p, rename), written); err != nil {
		t.Fatal(err)
	}
	if record, err := store.Get(t.Context(), name); err != nil || record.State != fence.None || len(record.Fences) != 1 {
		t.Errorf("the other version's record is %+v, %v, want a fence alone", record, err)
	}

	// A key with other parameters cannot be spelled by this writer.
	publish(3, "product:{id}:{shop}", rule.Param{Name: "shop", Type: keytext.Int4})
	late := open(t, freshet.Options{Config: s.file})
	_, err = late.Commit(t.Context(), begin(t, p, rename), entry[int64, Product](t, late, "product").Key(1, freshet.Strict()))
	if !errors.Is(err, freshet.ErrNotFenced) || !errors.Is(err, freshet.ErrNotCommitted) {
		t.Errorf("Commit() = %v, want it refused", err)
	}
}

// TestStrictRollback: fences of a transaction that is over are in nobody's way.
func TestStrictRollback(t *testing.T) {
	t.Parallel()
	s := published(t)
	p := pool(t, s.url)
	cache := open(t, freshet.Options{Config: s.file})
	products := entry[int64, Product](t, cache, "product")
	if _, err := p.Exec(t.Context(), `CREATE TABLE late (id int, UNIQUE (id) DEFERRABLE INITIALLY DEFERRED)`); err != nil {
		t.Fatal(err)
	}
	_, err := cache.Commit(t.Context(), begin(t, p, rename, `INSERT INTO late VALUES (1), (1)`), products.Key(1, freshet.Strict()))
	if !errors.Is(err, freshet.ErrNotCommitted) {
		t.Fatal(err)
	}
	get(t, products, 1, Product{ID: 1, Name: "kettle", Price: 24.5})
	get(t, products, 1, Product{ID: 1, Name: "kettle", Price: 24.5})
	if s := cache.Stats(); s.Fills != 1 || s.Hits != 1 {
		t.Errorf("Stats = %+v", s)
	}
}

// TestStrictWhenTheFenceIsLost: what got in between the fence and COMMIT, because the fence was gone or names moved, is
// out again when Commit returns.
func TestStrictWhenTheFenceIsLost(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(t *testing.T, s *shop){
		"evicted": func(t *testing.T, s *shop) {
			t.Helper()
			store, err := redisstore.Open(t.Context(), redisstore.Options{URL: s.redis, Namespace: s.namespace})
			if err != nil {
				t.Fatal(err)
			}
			defer store.Close()
			if n, err := store.Sweep(t.Context(), func() redisstore.Live { return redisstore.Live{} }); err != nil || n != 1 {
				t.Errorf("%d records, %v, want the fence's", n, err)
			}
		},
		"under other names": func(t *testing.T, s *shop) {
			t.Helper()
			roster := s.roster()
			roster.Revision = 2
			for _, e := range roster.Entries {
				e.Activation = "00000000000000cc"
			}
			err := s.daemon(t.Context(), func(d *redisstore.Conn) error {
				if _, _, err := d.Claim(t.Context(), s.head.Term); err != nil {
					return err
				}
				return d.Move(t.Context(), s.expected(), roster.Text(), 2, "p")
			})
			if err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := published(t)
			p := pool(t, s.url)
			writer := open(t, freshet.Options{Config: s.file})
			get(t, entry[int64, Product](t, writer, "product"), 1, Product{ID: 1, Name: "kettle", Price: 24.5})
			var read *freshet.Typed[int64, Product]
			tx := pausedTx{begin(t, p, `UPDATE products SET name = 'pot' WHERE id = 1`), func() {
				lose(t, s)
				reader := open(t, freshet.Options{Config: s.file})
				read = entry[int64, Product](t, reader, "product")
				get(t, read, 1, Product{ID: 1, Name: "kettle", Price: 24.5})
				if reader.Stats().Fills != 1 {
					t.Errorf("the old row was not stored: %+v", reader.Stats())
				}
			}}
			if _, err := writer.Commit(t.Context(), tx, entry[int64, Product](t, writer, "product").Key(1, freshet.Strict())); err != nil {
				t.Fatal(err)
			}
			get(t, read, 1, Product{ID: 1, Name: "pot", Price: 24.5})
		})
	}
}

// TestStrictWithoutStore: what cannot be fenced is not committed, and nobody waits for long to hear it.
func TestStrictWithoutStore(t *testing.T) {
	t.Parallel()
	s := newShop(t.Context(), "strict")
	p := pool(t, s.url)
	redis, err := localserver.StartRedis(t.Context(), localserver.RedisOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = redis.Close() }()
	s.redis = redis.URL()
	if err := s.publish(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, url := range map[string]string{"away": "redis://127.0.0.1:1", "frozen": redis.URL()} {
		func() {
			cache := open(t, freshet.Options{Config: s.write(name+".yaml", url)})
			products := entry[int64, Product](t, cache, "product")
			if name == "frozen" {
				get(t, products, 1, Product{ID: 1, Name: "kettle", Price: 24.5}) // names are confirmed, for a second
				if err := redis.Freeze(); err != nil {
					t.Fatal(err)
				}
				defer func() { _ = redis.Thaw() }()
			}
			began := time.Now()
			token, err := cache.Commit(t.Context(), begin(t, p, rename), products.Key(1, freshet.Strict()))
			if !errors.Is(err, freshet.ErrNotFenced) || !errors.Is(err, freshet.ErrNotCommitted) || !token.IsZero() {
				t.Errorf("%s: Commit() = %v, %v", name, token, err)
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("%s: it took %s", name, took)
			}
			var is string
			if err := p.QueryRow(t.Context(), `SELECT name FROM products WHERE id = 1`).Scan(&is); err != nil || is != "kettle" {
				t.Errorf("%s: the row is %q, %v", name, is, err)
			}
			if _, err := cache.Commit(t.Context(), begin(t, p, `SELECT 1`), products.Key(1)); err != nil {
				t.Errorf("%s: without Strict: %v", name, err)
			}
		}()
	}
}
