package freshet_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/internal/testkit"
)

// inTx is InTx and InTxSQL, for tests of what they have in common: write runs statements, each of which may fail.
type inTx func(ctx context.Context, write func(exec func(statement string) error) ([]freshet.Key, error)) (freshet.Token, error)

func bothInTx(t *testing.T, s *shop, cache *freshet.Cache) map[string]inTx {
	t.Helper()
	p := pool(t, s.url)
	db := stdlib.OpenDBFromPool(p)
	t.Cleanup(func() { _ = db.Close() })
	// A transaction that is left open fails its test. It is not to keep the pool from closing as well, which would wait for it without end.
	after := func(end func(context.Context) error) {
		t.Cleanup(func() { _ = end(context.WithoutCancel(t.Context())) })
	}
	return map[string]inTx{
		"pgx": func(ctx context.Context, write func(exec func(statement string) error) ([]freshet.Key, error)) (freshet.Token, error) {
			return cache.InTx(ctx, p, func(tx pgx.Tx) ([]freshet.Key, error) {
				after(tx.Rollback)
				return write(func(statement string) error { _, err := tx.Exec(ctx, statement); return err })
			})
		},
		"sql": func(ctx context.Context, write func(exec func(statement string) error) ([]freshet.Key, error)) (freshet.Token, error) {
			return cache.InTxSQL(ctx, db, func(tx *sql.Tx) ([]freshet.Key, error) {
				after(func(context.Context) error { return tx.Rollback() })
				return write(func(statement string) error { _, err := tx.ExecContext(ctx, statement); return err })
			})
		},
	}
}

// TestInTx: what write did is committed together with the keys that it returns.
func TestInTx(t *testing.T) {
	t.Parallel()
	s := published(t)
	log, p := follow(t, s), pool(t, s.url)
	cache := open(t, freshet.Options{Config: s.file})
	products := entry[int64, Product](t, cache, "product")
	for name, do := range bothInTx(t, s, cache) {
		token, err := do(t.Context(), func(exec func(string) error) ([]freshet.Key, error) {
			return []freshet.Key{products.Key(1), products.Key(2)}, exec(`UPDATE products SET name = name || '+'`)
		})
		if err != nil || token.IsZero() || status(t, p, token) != "committed" {
			t.Fatalf("%s: %v, %v", name, token, err)
		}
		want := []string{token.XID.String() + ` {"v":1,"entry":"product","keys":[["1"],["2"]]}`}
		if got := log.messages(t); !slices.Equal(got, want) {
			t.Errorf("%s: messages %q, want %q", name, got, want)
		}
		// Without keys there is a token all the same, and none when nothing was written.
		if token, err := do(t.Context(), func(exec func(string) error) ([]freshet.Key, error) {
			return nil, exec(`UPDATE products SET name = name`)
		}); err != nil || token.IsZero() {
			t.Errorf("%s, without keys: %v, %v", name, token, err)
		}
		if token, err := do(t.Context(), func(exec func(string) error) ([]freshet.Key, error) {
			return nil, exec(`SELECT 1`)
		}); err != nil || !token.IsZero() {
			t.Errorf("%s, nothing written: %v, %v", name, token, err)
		}
	}
}

// TestInTxIsRolledBack by an error, a panic, and whatever keeps it from being committed; and no connection is lost to the pool.
func TestInTxIsRolledBack(t *testing.T) {
	t.Parallel()
	s := published(t)
	log, p := follow(t, s), pool(t, s.url)
	cache := open(t, freshet.Options{Config: s.file})
	products := entry[int64, Product](t, cache, "product")
	if _, err := p.Exec(t.Context(), `CREATE TABLE late (id int, UNIQUE (id) DEFERRABLE INITIALLY DEFERRED)`); err != nil {
		t.Fatal(err)
	}
	ours := errors.New("ours")
	get(t, products, 1, Product{ID: 1, Name: "kettle", Price: 24.5}) // now the types are known
	for name, unbounded := range bothInTx(t, s, cache) {
		do := func(ctx context.Context, write func(exec func(string) error) ([]freshet.Key, error)) (freshet.Token, error) {
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second) // a pool without a connection left would wait for one
			defer cancel()
			return unbounded(ctx, write)
		}
		for range 20 { // more than the pool has connections
			if token, err := do(t.Context(), func(exec func(string) error) ([]freshet.Key, error) {
				return []freshet.Key{products.Key(1)}, errors.Join(exec(rename), ours)
			}); !errors.Is(err, ours) || errors.Is(err, freshet.ErrNotCommitted) || !token.IsZero() {
				t.Fatalf("%s, an error: %v, %v", name, token, err)
			}
			func() {
				defer func() {
					if got := recover(); got != any("ours") {
						t.Errorf("%s: recovered %v", name, got)
					}
				}()
				_, err := do(t.Context(), func(exec func(string) error) ([]freshet.Key, error) {
					if err := exec(rename); err != nil {
						t.Error(err)
					}
					panic("ours")
				})
				t.Errorf("%s, a panic: %v", name, err)
			}()
			if t.Failed() {
				return
			}
		}
		for what, write := range map[string]func(exec func(string) error) ([]freshet.Key, error){
			"a constraint at its end": func(exec func(string) error) ([]freshet.Key, error) {
				return []freshet.Key{products.Key(1)}, errors.Join(exec(rename), exec(`INSERT INTO late VALUES (1), (1)`))
			},
			"an error that write keeps to itself": func(exec func(string) error) ([]freshet.Key, error) {
				_ = exec(`SELECT 1/0`)
				return []freshet.Key{products.Key(1)}, nil
			},
			"a bad key": func(exec func(string) error) ([]freshet.Key, error) {
				return []freshet.Key{entry[string, any](t, cache, "product").Key("x")}, exec(rename)
			},
		} {
			token, err := do(t.Context(), write)
			if !errors.Is(err, freshet.ErrNotCommitted) || errors.Is(err, freshet.ErrOutcomeUnknown) || !token.IsZero() {
				t.Errorf("%s, %s: %v, %v", name, what, token, err)
			}
		}
	}
	var names string
	if err := p.QueryRow(t.Context(), `SELECT string_agg(name, ' ' ORDER BY id) FROM products`).Scan(&names); err != nil || names != "kettle cup" {
		t.Errorf("something was committed: %q, %v", names, err)
	}
	outer := begin(t, p)
	if _, err := cache.InTx(t.Context(), outer, func(pgx.Tx) ([]freshet.Key, error) {
		t.Error("it runs in a savepoint")
		return nil, nil
	}); !errors.Is(err, freshet.ErrSavepoint) {
		t.Errorf("within a transaction: %v", err)
	}
	if err := outer.Commit(t.Context()); err != nil {
		t.Errorf("the transaction around it: %v", err)
	}
	if got := log.messages(t); len(got) > 0 {
		t.Errorf("messages %q", got)
	}
}

// TestCommitSQLOutcome: what a transaction that was ended by somebody else is told, and one whose connection is lost during COMMIT.
func TestCommitSQLOutcome(t *testing.T) {
	t.Parallel()
	s := published(t)
	p := pool(t, s.url)
	cache := open(t, freshet.Options{Config: s.file})
	products := entry[int64, Product](t, cache, "product")
	config, err := pgx.ParseConfig(s.url)
	if err != nil {
		t.Fatal(err)
	}
	var cut atomic.Bool
	config.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		return cutConn{conn, &cut}, err
	}
	db := stdlib.OpenDB(*config)
	defer func() { _ = db.Close() }()
	ended, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := ended.Commit(); err != nil {
		t.Fatal(err)
	}
	if _, err := cache.CommitSQL(t.Context(), ended, products.Key(1)); !errors.Is(err, sql.ErrTxDone) || errors.Is(err, freshet.ErrNotCommitted) || errors.Is(err, freshet.ErrOutcomeUnknown) {
		t.Errorf("a transaction that was committed before: %v", err)
	}
	// A trigger that waits for the test gives it the time to cut the connection while the server commits.
	if _, err := p.Exec(t.Context(), `CREATE TABLE slow (id int);
		CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NULL; END $$;
		CREATE CONSTRAINT TRIGGER hold AFTER INSERT ON slow DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION hold()`); err != nil {
		t.Fatal(err)
	}
	lock := begin(t, p, `SELECT pg_advisory_xact_lock(7)`)
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.ExecContext(t.Context(), `INSERT INTO slow VALUES (1)`); err != nil {
		t.Fatal(err)
	}
	type outcome struct {
		token freshet.Token
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		token, err := cache.CommitSQL(t.Context(), tx, products.Key(1))
		done <- outcome{token, err}
	}()
	testkit.Eventually(t, 10*time.Second, func() error {
		var n int
		if err := p.QueryRow(t.Context(), `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted`).Scan(&n); err != nil || n != 1 {
			return fmt.Errorf("%d wait, %w", n, err)
		}
		return nil
	})
	cut.Store(true)
	if err := lock.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := <-done
	if !errors.Is(got.err, freshet.ErrOutcomeUnknown) || errors.Is(got.err, freshet.ErrNotCommitted) || got.token.IsZero() {
		t.Fatalf("got %v, %v", got.token, got.err)
	}
	testkit.Eventually(t, 10*time.Second, func() error {
		if is := status(t, p, got.token); is != "committed" {
			return fmt.Errorf("it is %s", is)
		}
		return nil
	})
}
