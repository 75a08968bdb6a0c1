package freshet_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/internal/testkit"
)

// log reads what logical messages of a prefix a database's log has.
type messageLog struct {
	conn *pgx.Conn
	slot string
}

func follow(t *testing.T, s *shop) *messageLog {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.url)
	if err != nil {
		t.Fatal(err)
	}
	l := &messageLog{conn: conn, slot: strings.ReplaceAll(s.namespace, "-", "_")}
	if _, err := conn.Exec(t.Context(), `CREATE PUBLICATION p`); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), `SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, l.slot); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := testkit.Context(t)
		defer cancel()
		_, _ = conn.Exec(ctx, `SELECT pg_drop_replication_slot($1)`, l.slot)
		_ = conn.Close(ctx)
	})
	return l
}

// messages are those since the last call, as "xid content".
func (l *messageLog) messages(t *testing.T) (all []string) {
	t.Helper()
	rows, err := l.conn.Query(t.Context(), `SELECT xid::text, data FROM pg_logical_slot_get_binary_changes(slot_name => $1, upto_lsn => NULL, upto_nchanges => NULL, VARIADIC options => ARRAY[
		'proto_version', '1', 'publication_names', 'p', 'messages', 'true'])`, l.slot)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var (
			xid  string
			data []byte
		)
		if err := rows.Scan(&xid, &data); err != nil {
			t.Fatal(err)
		}
		if data[0] != 'M' || data[1] != 1 {
			continue
		}
		prefix, rest, _ := strings.Cut(string(data[1+1+8:]), "\x00")
		if n := binary.BigEndian.Uint32([]byte(rest[:4])); prefix == "freshet" && int(n) == len(rest)-4 {
			all = append(all, xid+" "+rest[4:])
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

func pool(t *testing.T, url string) *pgxpool.Pool {
	t.Helper()
	p, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func begin(t *testing.T, p *pgxpool.Pool, statements ...string) pgx.Tx {
	t.Helper()
	tx, err := p.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range statements {
		if _, err := tx.Exec(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	return tx
}

func status(t *testing.T, p *pgxpool.Pool, token freshet.Token) (is string) {
	t.Helper()
	if err := p.QueryRow(t.Context(), `SELECT pg_xact_status($1::text::xid8)`, token.XID.String()).Scan(&is); err != nil {
		t.Fatal(err)
	}
	return is
}

const rename = `UPDATE products SET name = name || '!' WHERE id = 1`

// TestCommit: the intent is in the log with the transaction, and the token names it.
func TestCommit(t *testing.T) {
	t.Parallel()
	s := published(t)
	log, p := follow(t, s), pool(t, s.url)
	cache := open(t, freshet.Options{Config: s.file})
	products, lines := entry[int64, Product](t, cache, "product"), entry[LineKey, Line](t, cache, "line")
	for _, mode := range []string{"cache_statement", "exec", "simple_protocol", "describe_exec", "cache_describe"} {
		p := pool(t, s.url+"&default_query_exec_mode="+mode)
		token, err := cache.Commit(t.Context(), begin(t, p, rename), products.Key(1), lines.Key(LineKey{7, 2}), products.Key(2))
		if err != nil {
			t.Fatalf("%s: %v", mode, err)
		}
		x := token.XID.String()
		want := []string{x + ` {"v":1,"entry":"product","keys":[["1"],["2"]]}`, x + ` {"v":1,"entry":"line","keys":[["7","2"]]}`}
		if diff := cmp.Diff(want, log.messages(t)); diff != "" {
			t.Errorf("%s: messages (-want +got):\n%s", mode, diff)
		}
		if token.System != s.head.System || token.Timeline != 1 || token.After == 0 || status(t, p, token) != "committed" {
			t.Errorf("%s: token = %v", mode, token)
		}
		if parsed, err := freshet.ParseToken(token.String()); err != nil || parsed != token {
			t.Errorf("ParseToken(%v) = %v, %v", token, parsed, err)
		}
	}
	token, err := cache.Commit(t.Context(), begin(t, p, rename))
	if err != nil || token.IsZero() || token.After == 0 {
		t.Errorf("without keys: %v, %v", token, err)
	}
	token, err = cache.Commit(t.Context(), begin(t, p, `SELECT 1`))
	if err != nil || !token.IsZero() || token.After != 0 {
		t.Errorf("without a write: %v, %v", token, err)
	}
	if got := log.messages(t); len(got) > 0 {
		t.Errorf("without keys: messages %q", got)
	}
}

func TestIntent(t *testing.T) {
	t.Parallel()
	s := published(t)
	log, p := follow(t, s), pool(t, s.url)
	cache := open(t, freshet.Options{Config: s.file})
	key := entry[string, Product](t, cache, "product").Key("007")
	tx := begin(t, p)
	if err := cache.Intent(t.Context(), tx, key, entry[string, any](t, cache, "stage").Key("new")); err != nil {
		t.Fatal(err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := log.messages(t); len(got) > 0 {
		t.Errorf("after a rollback: messages %q", got)
	}
	outer := begin(t, p)
	for i, commit := range []bool{true, false} {
		inner, err := outer.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := cache.Intent(t.Context(), inner, entry[int, Product](t, cache, "product").Key(i)); err != nil {
			t.Fatal(err)
		}
		end := inner.Rollback
		if commit {
			end = inner.Commit
		}
		if err := end(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := outer.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := log.messages(t); len(got) != 1 || !strings.HasSuffix(got[0], `"keys":[["0"]]}`) {
		t.Errorf("a savepoint that was rolled back leaves %q", got)
	}
	if err := cache.Intent(t.Context(), p, key); err != nil {
		t.Fatal(err)
	}
	if got := log.messages(t); len(got) != 1 {
		t.Errorf("outside a transaction: %q", got)
	}
	if err := cache.Intent(t.Context(), p); err != nil || len(log.messages(t)) > 0 {
		t.Errorf("without keys: %v", err)
	}
	if err := cache.Intent(t.Context(), p, entry[int, Product](t, cache, "product").Key(1, freshet.Refresh())); !errors.Is(err, freshet.ErrKey) {
		t.Errorf("a key to be refreshed: %v", err)
	}
}

// TestDatabaseSQL does the same, with a token, by way of database/sql.
func TestDatabaseSQL(t *testing.T) {
	t.Parallel()
	s := published(t)
	log, p := follow(t, s), pool(t, s.url)
	cache := open(t, freshet.Options{Config: s.file})
	db := stdlib.OpenDBFromPool(p)
	defer func() { _ = db.Close() }()
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := cache.Intent(t.Context(), freshet.SQL(tx), entry[int64, Product](t, cache, "product").Key(1)); err != nil {
		t.Fatal(err)
	}
	var text string
	if err := tx.QueryRowContext(t.Context(), freshet.TokenSQL).Scan(&text); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	token, err := freshet.ParseToken(text)
	if err != nil || status(t, p, token) != "committed" {
		t.Errorf("token %q = %v, %v", text, token, err)
	}
	if diff := cmp.Diff([]string{token.XID.String() + ` {"v":1,"entry":"product","keys":[["1"]]}`}, log.messages(t)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestKeysWithoutTypes: without Redis and daemon the database is asked, but only where a Go value does not say what
// text it has.
func TestKeysWithoutTypes(t *testing.T) {
	t.Parallel()
	s := newShop(t.Context(), "untyped")
	log, p := follow(t, s), pool(t, s.url)
	cache := open(t, freshet.Options{Config: s.write("untyped.yaml", "redis://127.0.0.1:1")})
	type label string
	var none *int
	seven := int16(7)
	write := func(keys ...freshet.Key) error { return cache.Intent(t.Context(), p, keys...) }
	err := write(entry[*int, string](t, cache, "total", loaded[*int]()).Key(none), entry[*int16, string](t, cache, "total", loaded[*int16]()).Key(&seven),
		entry[label, any](t, cache, "stage").Key("sold"), entry[uint8, any](t, cache, "product").Key(9))
	if err != nil {
		t.Fatal(err)
	}
	if stats := cache.Stats(); stats.Bypassed["store_unavailable"] > 0 {
		t.Errorf("somebody was asked: %+v", stats)
	}
	if err := write(entry[float64, any](t, cache, "product").Key(5)); !errors.Is(err, freshet.ErrKey) {
		t.Errorf("a float for a bigint: %v", err)
	}
	if err := write(entry[numeric, any](t, cache, "product").Key("5"), entry[time.Duration, any](t, cache, "product").Key(6)); err != nil {
		t.Fatal(err)
	}
	if err := write(entry[time.Time, string](t, cache, "total", loaded[time.Time]()).Key(time.Now())); !errors.Is(err, freshet.ErrKey) || !strings.Contains(err.Error(), "start the daemon first") {
		t.Errorf("a time for a type that nobody knows: %v", err)
	}
	var got []string
	for _, m := range log.messages(t) {
		_, content, _ := strings.Cut(m, " ")
		got = append(got, content)
	}
	want := []string{
		`{"v":1,"entry":"total","keys":[[null],["7"]]}`, `{"v":1,"entry":"stage","keys":[["sold"]]}`,
		`{"v":1,"entry":"product","keys":[["9"]]}`, `{"v":1,"entry":"product","keys":[["5"],["6"]]}`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestKeyByArguments: who writes what he does not read names keys without the code that loads them.
func TestKeyByArguments(t *testing.T) {
	t.Parallel()
	s := published(t)
	log, p := follow(t, s), pool(t, s.url)
	cache := open(t, freshet.Options{Config: s.file})
	keys := []freshet.Key{cache.Key("total", 7), cache.Key("line", int64(7), "02").With(freshet.Strict())}
	for range 2 { // without the types, then with them
		if _, err := cache.Commit(t.Context(), begin(t, p), keys...); err != nil {
			t.Fatal(err)
		}
	}
	get(t, entry[int64, Product](t, cache, "product"), 1, Product{ID: 1, Name: "kettle", Price: 24.5})
	if _, err := cache.Commit(t.Context(), begin(t, p), keys...); err != nil {
		t.Fatal(err)
	}
	last := log.messages(t)
	if len(last) != 6 || !strings.HasSuffix(last[4], `"total","keys":[["7"]]}`) || !strings.HasSuffix(last[5], `"line","keys":[["7","2"]]}`) {
		t.Errorf("messages %q", last)
	}
	for name, bad := range map[string]struct {
		key freshet.Key
		err error
	}{
		"unknown entry":       {cache.Key("nothing", 1), freshet.ErrUnknownEntry},
		"too few arguments":   {cache.Key("line", 1), freshet.ErrKey},
		"none of its type":    {cache.Key("product", "x"), freshet.ErrKey},
		"out of range of int": {cache.Key("line", 1<<40, 1), freshet.ErrKey},
	} {
		if err := cache.Intent(t.Context(), p, bad.key); !errors.Is(err, bad.err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

type numeric string

func (n numeric) String() string { return "the text of " + string(n) }

func loaded[K any]() freshet.Option[K, string] {
	return freshet.Load(func(context.Context, freshet.Querier, K) (string, error) { return "loaded", nil })
}

// TestCommitErrors: whatever fails before COMMIT has returned is rolled back, or said to be unknown.
func TestCommitErrors(t *testing.T) {
	t.Parallel()
	s := published(t)
	log, p := follow(t, s), pool(t, s.url)
	cache := open(t, freshet.Options{Config: s.file})
	other := open(t, freshet.Options{Config: s.file})
	products := entry[int64, Product](t, cache, "product")
	if _, err := p.Exec(t.Context(), `CREATE TABLE late (id int, UNIQUE (id) DEFERRABLE INITIALLY DEFERRED)`); err != nil {
		t.Fatal(err)
	}
	get(t, products, 1, Product{ID: 1, Name: "kettle", Price: 24.5}) // now the types are known
	failed := begin(t, p, rename)
	_, _ = failed.Exec(t.Context(), `SELECT 1/0`)
	late := begin(t, p, `UPDATE products SET name = 'mug' WHERE id = 2`)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, try := range map[string]func() (freshet.Token, error){
		"a bad key": func() (freshet.Token, error) {
			return cache.Commit(t.Context(), begin(t, p, rename), entry[string, any](t, cache, "product").Key("x"))
		},
		"another cache's key": func() (freshet.Token, error) {
			return cache.Commit(t.Context(), begin(t, p, rename), entry[int64, any](t, other, "product").Key(1))
		},
		"a failed transaction": func() (freshet.Token, error) { return cache.Commit(t.Context(), failed, products.Key(1)) },
		"a constraint at its end": func() (freshet.Token, error) {
			return cache.Commit(t.Context(), begin(t, p, rename, `INSERT INTO late VALUES (1), (1)`), products.Key(1))
		},
		"a cancelled context": func() (freshet.Token, error) {
			return cache.Commit(cancelled, late, products.Key(1))
		},
	} {
		if token, err := try(); !errors.Is(err, freshet.ErrNotCommitted) || errors.Is(err, freshet.ErrOutcomeUnknown) || !token.IsZero() {
			t.Errorf("%s: %v, %v", name, token, err)
		}
	}
	var names string
	if err := p.QueryRow(t.Context(), `SELECT string_agg(name, ' ' ORDER BY id) FROM products`).Scan(&names); err != nil || names != "kettle cup" {
		t.Errorf("something was committed: %q, %v", names, err)
	}
	done := begin(t, p)
	if err := done.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := cache.Commit(t.Context(), done, products.Key(1)); !errors.Is(err, pgx.ErrTxClosed) || errors.Is(err, freshet.ErrNotCommitted) || errors.Is(err, freshet.ErrOutcomeUnknown) {
		t.Errorf("a transaction that was committed before: %v", err)
	}
	outer := begin(t, p)
	inner, err := outer.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cache.Commit(t.Context(), inner, products.Key(1)); !errors.Is(err, freshet.ErrSavepoint) {
		t.Errorf("a savepoint: %v", err)
	}
	if err := outer.Commit(t.Context()); err != nil {
		t.Errorf("the transaction around the savepoint: %v", err)
	}
	if got := log.messages(t); len(got) > 0 {
		t.Errorf("messages %q", got)
	}
}

// cutConn sends what follows cut, and hears nothing any more: the server's answer is lost.
type cutConn struct {
	net.Conn
	cut *atomic.Bool
}

func (c cutConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.cut.Load() {
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

// cutTx is cut from its server after COMMIT was sent.
type cutTx struct {
	pgx.Tx
	cut *atomic.Bool
}

func (tx cutTx) Commit(ctx context.Context) error {
	tx.cut.Store(true)
	return tx.Tx.Commit(ctx)
}

// TestOutcomeUnknown: the connection is lost during COMMIT. The token says which transaction to ask for.
func TestOutcomeUnknown(t *testing.T) {
	t.Parallel()
	s := published(t)
	log, p := follow(t, s), pool(t, s.url)
	cache := open(t, freshet.Options{Config: s.file})
	config, err := pgx.ParseConfig(s.url)
	if err != nil {
		t.Fatal(err)
	}
	var cut atomic.Bool
	config.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		return cutConn{conn, &cut}, err
	}
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	token, err := cache.Commit(t.Context(), cutTx{tx, &cut}, entry[int64, Product](t, cache, "product").Key(1))
	if !errors.Is(err, freshet.ErrOutcomeUnknown) || errors.Is(err, freshet.ErrNotCommitted) || token.IsZero() {
		t.Fatalf("Commit() = %v, %v", token, err)
	}
	testkit.Eventually(t, 10*time.Second, func() error {
		if is := status(t, p, token); is != "committed" {
			return fmt.Errorf("the transaction is %s", is)
		}
		return nil
	})
	if got := log.messages(t); len(got) != 1 || !strings.HasPrefix(got[0], token.XID.String()+" ") {
		t.Errorf("messages %q", got)
	}
}

// TestRefresh: what Commit stores was loaded after the commit, and over a live value.
func TestRefresh(t *testing.T) {
	t.Parallel()
	s := published(t)
	p := pool(t, s.url)
	cache := open(t, freshet.Options{Config: s.file})
	products := entry[int64, Product](t, cache, "product")
	get(t, products, 1, Product{ID: 1, Name: "kettle", Price: 24.5})
	if _, err := cache.Commit(t.Context(), begin(t, p, `UPDATE products SET name = 'pot' WHERE id = 1`), products.Key(1, freshet.Refresh())); err != nil {
		t.Fatal(err)
	}
	before := cache.Stats()
	get(t, products, 1, Product{ID: 1, Name: "pot", Price: 24.5})
	if after := cache.Stats(); after.Hits != before.Hits+1 || after.Refreshed != 1 || after.Refreshes != 1 {
		t.Errorf("Stats = %+v", after)
	}
	total := entry[int, string](t, cache, "total", loaded[int]())
	if _, err := cache.Commit(t.Context(), begin(t, p, rename), total.Key(7, freshet.Refresh()), total.Key(8)); err != nil {
		t.Fatal(err)
	}
	get(t, total, 7, "loaded")
	if after := cache.Stats(); after.Refreshed != 2 || after.Hits != before.Hits+2 {
		t.Errorf("Stats = %+v", after)
	}
	// Without Redis the commit is none the worse.
	away := open(t, freshet.Options{Config: s.write("away.yaml", "redis://127.0.0.1:1")})
	token, err := away.Commit(t.Context(), begin(t, p, rename), entry[int64, Product](t, away, "product").Key(1, freshet.Refresh()))
	if stats := away.Stats(); err != nil || token.IsZero() || stats.Refreshes != 1 || stats.Refreshed != 0 {
		t.Errorf("Commit() = %v, %v, %+v", token, err, stats)
	}
}

// TestOtherEncoding: a message is UTF-8 in a database that is not.
func TestOtherEncoding(t *testing.T) {
	t.Parallel()
	s := newShop(t.Context(), "latin")
	const database = "latin1"
	if _, err := pool(t, s.url).Exec(t.Context(), `CREATE DATABASE `+database+` ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0`); err != nil {
		t.Fatal(err)
	}
	s.url = servers.postgres.URL(database)
	log := follow(t, s)
	cache := open(t, freshet.Options{Config: s.write("latin.yaml", "redis://127.0.0.1:1")})
	if err := cache.Intent(t.Context(), pool(t, s.url+"&client_encoding=UTF8"), entry[string, string](t, cache, "total", loaded[string]()).Key("é")); err != nil {
		t.Fatal(err)
	}
	if got := log.messages(t); len(got) != 1 || !strings.HasSuffix(got[0], ` {"v":1,"entry":"total","keys":[["é"]]}`) {
		t.Errorf("messages %q", got)
	}
}
