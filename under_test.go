package freshet_test

import (
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet"
)

// reprice sets the price of the kettle, and returns the transaction's token.
func (s *shop) reprice(t *testing.T, price float64) freshet.Token {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	var text string
	err = conn.QueryRow(t.Context(), `WITH x AS (UPDATE products SET price = $1 WHERE id = 1)
		SELECT system_identifier || '.' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) || '.' || pg_current_xact_id()
		FROM pg_control_system()`, price).Scan(&text)
	if err != nil {
		t.Fatal(err)
	}
	token, err := freshet.ParseToken(text)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// TestReadOptions reads through every option, and through several at once. No daemon deletes anything here: what is cached
// stays, unless a read that asks for more replaces it.
func TestReadOptions(t *testing.T) {
	t.Parallel()
	s := published(t)
	cache := open(t, freshet.Options{Config: s.file})
	products := entry[int64, Product](t, cache, "product")
	under := func(want float64, options ...freshet.ReadOption) {
		t.Helper()
		if p, err := products.Get(t.Context(), 1, options...); err != nil || p.Price != want {
			t.Errorf("price %v, %v, want %v", p.Price, err, want)
		}
	}
	get(t, products, 1, Product{ID: 1, Name: "kettle", Price: 24.5})
	token := s.reprice(t, 25)
	under(24.5)
	under(25, freshet.Bypass())
	under(24.5)
	under(25, freshet.After(token))
	under(25)
	s.reprice(t, 26)
	under(25, freshet.After(token))
	under(26, freshet.MaxStale(time.Hour)) // there is no daemon that could prove anything
	session := cache.Session()
	under(26, freshet.Through(session))
	session.Observe(s.reprice(t, 27))
	under(26)
	under(27, freshet.Through(session))
	under(27, freshet.Through(session), freshet.After(token), freshet.MaxStale(0), freshet.MaxStale(time.Hour))
	under(28, freshet.After(s.reprice(t, 28)), freshet.Through(session), freshet.Bypass())
	if _, err := products.Get(t.Context(), 99, freshet.After(token)); !errors.Is(err, freshet.ErrNotFound) {
		t.Errorf("no such row: %v", err)
	}
	foreign := token
	foreign.System = "7"
	if _, err := products.Get(t.Context(), 1, freshet.After(foreign)); !errors.Is(err, freshet.ErrForeignToken) {
		t.Errorf("a token of another cluster: %v", err)
	}
	future := token
	future.XID += 1 << 40
	if _, err := products.Get(t.Context(), 1, freshet.After(token), freshet.After(future)); !errors.Is(err, freshet.ErrTokenNotReached) {
		t.Errorf("a token of the future: %v", err)
	}
	under(28, freshet.After(freshet.Token{})) // names no transaction
	s.reprice(t, 29)
	under(28)
	under(29, freshet.Revalidate())
	under(29)
	loads := cache.Stats()
	under(29, freshet.Revalidate())
	under(29, freshet.Revalidate(), freshet.MaxStale(time.Hour), freshet.Through(session))
	if s := cache.Stats(); s.Unchanged != loads.Unchanged+2 || s.Renewals != loads.Renewals+2 {
		t.Errorf("two reads of what had not changed: %+v, before %+v", s, loads)
	}
	if _, err := products.Get(t.Context(), 99, freshet.Revalidate()); !errors.Is(err, freshet.ErrNotFound) {
		t.Errorf("no such row: %v", err)
	}
}

// TestPlainHitAllocatesNoMore: options cost who uses them.
func TestPlainHitAllocatesNoMore(t *testing.T) { //nolint:paralleltest // the count is the whole process's
	s := published(t)
	cache := open(t, freshet.Options{Config: s.file})
	products := entry[int64, Product](t, cache, "product")
	get(t, products, 1, Product{ID: 1, Name: "kettle", Price: 24.5})
	allocations := testing.AllocsPerRun(2000, func() {
		if _, err := products.Get(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
	})
	const most = 4 // three of its own, and what else the process does meanwhile
	if allocations > most {
		t.Errorf("%v allocations for a hit", allocations)
	}
}
