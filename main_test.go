package freshet_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/config"
	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/localserver"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/mvcc"
)

// servers are what examples, which have no testing.TB, and tests share.
var servers struct {
	postgres *localserver.Postgres
	redis    *localserver.Redis
	dir      string
	count    atomic.Int64
}

func TestMain(m *testing.M) {
	if err := startServers(context.Background()); err != nil {
		panic(err)
	}
	if err := openExample(context.Background()); err != nil {
		panic(err)
	}
	testkit.Main(m)
}

func startServers(ctx context.Context) (err error) {
	if servers.postgres, err = localserver.StartPostgres(ctx, localserver.PostgresOptions{}); err != nil {
		return err
	}
	testkit.AtEnd(servers.postgres.Close)
	if servers.redis, err = localserver.StartRedis(ctx, localserver.RedisOptions{}); err != nil {
		return err
	}
	testkit.AtEnd(servers.redis.Close)
	if servers.dir, err = os.MkdirTemp("", "freshet-test-"); err != nil {
		return err
	}
	testkit.AtEnd(func() error { return os.RemoveAll(servers.dir) })
	return nil
}

// shop is a database of products with a configuration file for it, and the daemon's part of the store: what planning
// the file's entries gives is written by hand here, since this package must not know the planner.
type shop struct {
	namespace, file, url string
	redis                string
	head                 fence.Head
}

// A machine that is busy with other tests may stand still for seconds, which is no database that does not answer.
const entries = `
defaults: {load_timeout: 8s}
entries:
  product:
    key: product:{id}
    query: SELECT id, name, price FROM products WHERE id = @id
  line:
    key: order:{order_id}:line:{number}
    query: SELECT order_id, number, sku FROM lines WHERE order_id = @order_id AND number = @number
  stage:
    key: stage:{stage}
    query: SELECT id FROM products WHERE stage = @stage ORDER BY id
    result: many
  total:
    key: total:{order_id}
    depends_on:
      - {table: lines, key: "{order_id}"}
  profile:
    key: profile:{id}
    depends_on: []
    tags: by_hand
  weather:
    key: weather:{city}
    depends_on: []
    covers: none
  report:
    key: report:{id}
    depends_on: []
    compress_above: 100B
`

// newShop makes a shop. It panics where a test would fail, since examples have none.
func newShop(ctx context.Context, name string) *shop {
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	s := &shop{namespace: fmt.Sprintf("%s-%d", name, servers.count.Add(1)), redis: servers.redis.URL()}
	database := strings.ReplaceAll(s.namespace, "-", "_")
	admin, err := pgx.Connect(ctx, servers.postgres.URL("postgres"))
	must(err)
	_, err = admin.Exec(ctx, "CREATE DATABASE "+database)
	must(err)
	must(admin.Close(ctx))
	s.url = servers.postgres.URL(database)
	conn, err := pgx.Connect(ctx, s.url)
	must(err)
	_, err = conn.Exec(ctx, `CREATE TYPE stage AS ENUM ('new', 'sold');
		CREATE TABLE products (id int8 PRIMARY KEY, name text, price numeric, stage stage);
		CREATE TABLE lines (order_id int4, number int2, sku text, PRIMARY KEY (order_id, number));
		INSERT INTO products VALUES (1, 'kettle', 24.50, 'new'), (2, 'cup', 3.00, 'sold');
		INSERT INTO lines VALUES (7, 1, 'K-1'), (7, 2, 'C-2')`)
	must(err)
	must(conn.Close(ctx))
	s.file = s.write("freshet.yaml", servers.redis.URL())
	return s
}

func (s *shop) write(name, redis string) string {
	text := fmt.Sprintf("namespace: %s\ndatabase: {url: %q}\nsource: {postgres: {}}\nregions: [{name: local, redis: {url: %q}}]\n%s",
		s.namespace, s.url, redis, entries)
	path := filepath.Join(servers.dir, s.namespace+"-"+name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		panic(err)
	}
	return path
}

// publish does what a daemon does when it starts: a new generation and its roster.
func (s *shop) publish(ctx context.Context) error {
	loader, err := pgload.Open(ctx, s.url)
	if err != nil {
		return err
	}
	defer loader.Close()
	system, _, err := loader.System(ctx)
	if err != nil {
		return err
	}
	loaded, err := loader.Load(ctx, "SELECT pg_current_wal_insert_lsn()::text AS lsn", rule.One, nil)
	if err != nil {
		return err
	}
	at, err := mvcc.ParseLSN(strings.Trim(strings.TrimPrefix(string(loaded.Payload), `{"lsn":`), `"}`))
	if err != nil {
		return err
	}
	s.head = fence.Head{
		Generation: "00000000000000aa", Term: fence.NewTerm(1, 1), System: system, Timeline: 1, Wi: at, Wc: at, Si: loaded.Coverage.Snapshot,
	}
	return s.daemon(ctx, func(d *redisstore.Conn) error {
		if _, _, err := d.Claim(ctx, s.head.Term); err != nil {
			return err
		}
		if err := d.NewGeneration(ctx, s.head); err != nil {
			return err
		}
		if err := d.DrawTick(ctx); err != nil {
			return err
		}
		return d.Move(ctx, s.expected(), s.roster().Text(), 1, "p")
	})
}

// answer does what a daemon does that follows while nothing is written: HEAD answers the counts that readers ask for.
func (s *shop) answer(ctx context.Context) error {
	return s.daemon(ctx, func(d *redisstore.Conn) error {
		if _, _, err := d.Claim(ctx, s.head.Term); err != nil {
			return err
		}
		ticks, err := d.Ticks(ctx)
		if err != nil {
			return err
		}
		_, err = d.Apply(ctx, redisstore.Batch{
			Expect: s.expected(), Wi: s.head.Wi, Si: s.head.Si, Advance: s.head.Wc, Sa: s.head.Si, Ticks: ticks,
		})
		return err
	})
}

func (s *shop) expected() redisstore.Expected {
	return redisstore.Expected{Generation: s.head.Generation, Term: s.head.Term, Wc: s.head.Wc}
}

func (s *shop) daemon(ctx context.Context, do func(*redisstore.Conn) error) error {
	store, err := redisstore.Open(ctx, redisstore.Options{URL: s.redis, Namespace: s.namespace})
	if err != nil {
		return err
	}
	defer store.Close()
	d, err := store.Connect(ctx)
	if err != nil {
		return err
	}
	defer d.Close()
	return do(d)
}

func (s *shop) roster() *rule.Roster {
	file, err := config.Load(s.file, os.LookupEnv)
	if err != nil {
		panic(err)
	}
	plans := map[string]struct {
		sql    string
		params []rule.Param
	}{
		"product": {"SELECT id, name, price FROM public.products WHERE id = $1", []rule.Param{{Name: "id", Type: keytext.Int8}}},
		"line": {
			"SELECT order_id, number, sku FROM public.lines WHERE order_id = $1 AND number = $2",
			[]rule.Param{{Name: "order_id", Type: keytext.Int4}, {Name: "number", Type: keytext.Int2}},
		},
		"stage":   {"SELECT id FROM public.products WHERE stage = $1 ORDER BY id", []rule.Param{{Name: "stage", Type: keytext.Enum}}},
		"total":   {"", []rule.Param{{Name: "order_id", Type: keytext.Int4}}},
		"profile": {"", []rule.Param{{Name: "id", Type: keytext.Unknown}}},
		"weather": {"", []rule.Param{{Name: "city", Type: keytext.Unknown}}},
		"report":  {"", []rule.Param{{Name: "id", Type: keytext.Unknown}}},
	}
	r := &rule.Roster{
		Format: rule.RosterFormat, Generation: s.head.Generation, Term: string(s.head.Term), Revision: 1, Entries: map[string]*rule.Entry{},
	}
	for _, d := range file.Declared() {
		p := plans[d.Name]
		e := &rule.Entry{Name: d.Name, Definition: d.Digest(), Key: d.Key, Params: p.params, SQL: p.sql, Result: d.Result, Activation: "00000000000000bb", Tags: d.Tags}
		e.Version = e.Hash()
		r.Entries[d.Name] = e
	}
	return r
}
