package pgload_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/testkit/pgtest"
)

type textArg = keytext.Arg

var errNotYet = errors.New("not yet")

func port(s *pgtest.Server) string { return strconv.Itoa(s.Port) }

// TestPooler loads through a PgBouncer in transaction mode, with more clients than it has servers: all kinds of loads
// work, and no session's settings are changed under others.
func TestPooler(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{Settings: map[string]string{"timezone": "Asia/Tokyo", "intervalstyle": "iso_8601"}})
	url := server.Database(t)
	server.Exec(t, url, tables)
	pooler := pgtest.Pooler(t, server)
	through := pooler.URL(server.Ask(t, url, "SELECT current_database()::text"))
	owned, err := pgload.Open(t.Context(), through)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(owned.Close)
	config, err := pgxpool.ParseConfig(through)
	if err != nil {
		t.Fatal(err)
	}
	config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	theirs, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(theirs.Close)
	for name, l := range map[string]*pgload.Loader{"owned": owned, "theirs": pgload.New(theirs)} {
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for i := range 20 {
					if err := loadThrough(t.Context(), l, i); err != nil {
						t.Errorf("%s: %v", name, err)
						return
					}
				}
			})
		}
		all.Wait()
		if types, err := l.Types(t.Context(), "SELECT 1 WHERE $1 = 1::int8"); err != nil || len(types) != 1 || types[0] != keytext.Int8 {
			t.Errorf("%s: Types = %v, %v", name, types, err)
		}
		if system, _, err := l.System(t.Context()); err != nil || len(system) < 15 {
			t.Errorf("%s: System = %q, %v", name, system, err)
		}
	}
	conn, err := theirs.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	for range 20 { // any of the pooler's servers
		var zone, style string
		if err := conn.QueryRow(t.Context(), "SELECT current_setting('TimeZone'), current_setting('IntervalStyle')").Scan(&zone, &style); err != nil {
			t.Fatal(err)
		}
		if zone != "Asia/Tokyo" || style != "iso_8601" {
			t.Fatalf("a pooled session has TimeZone %s and IntervalStyle %s: a load left them behind", zone, style)
		}
	}
}

func loadThrough(ctx context.Context, l *pgload.Loader, i int) error {
	sql := fmt.Sprintf("SELECT made, %d AS i, '90 minutes'::interval AS v FROM public.product WHERE id = $1", i%5)
	want := fmt.Sprintf(`{"made":"2024-01-01T08:00:00+00:00","i":%d,"v":"01:30:00"}`, i%5)
	got, err := l.Load(ctx, sql, rule.One, texts("1"))
	if err != nil || string(got.Payload) != want || got.Refuse != "" || got.Server.Timeline != 1 || got.Coverage.Snapshot.IsZero() {
		return fmt.Errorf("Load = %s %+v, %w", got.Payload, got, err)
	}
	got, err = l.LoadFunc(ctx, func(ctx context.Context, q pgload.Querier) (text []byte, found bool, err error) {
		err = q.QueryRow(ctx, "SELECT made::text FROM product WHERE id = $1 AND $2 = $2::int", 1, i).Scan(&text)
		return text, true, err
	})
	if err != nil || string(got.Payload) != "2024-01-01 08:00:00+00" || got.Refuse != "" || got.Server.Timeline != 1 {
		return fmt.Errorf("LoadFunc = %s %+v, %w", got.Payload, got, err)
	}
	return nil
}

// TestPoolerSwapsTheServer is T25: the pooler leads to another server after the connection was introduced. Each load
// says where it ran itself.
func TestPoolerSwapsTheServer(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.rename(t, "first")
	p.standby.CatchUp(t)
	p.standby.Pause(t)
	p.rename(t, "second")
	other := pgtest.Start(t, pgtest.Options{})
	other.Exec(t, other.URL("postgres"), "CREATE DATABASE "+p.name)
	other.Exec(t, other.URL(p.name), tables, "UPDATE product SET name = 'other' WHERE id = 1")
	pooler := pgtest.Pooler(t, p.primary)
	l, err := pgload.Open(t.Context(), pooler.URL(p.name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	r := p.replica(t, pooler.URL(p.name))
	byCode := func() pgload.Loaded {
		got, err := l.LoadFunc(t.Context(), func(ctx context.Context, q pgload.Querier) (text []byte, found bool, err error) {
			err = q.QueryRow(ctx, "SELECT name FROM product WHERE id = 1").Scan(&text)
			return text, true, err
		})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	first := loadName(t, l)
	if string(first.Payload) != `{"name":"second"}` || first.Refuse != "" {
		t.Fatalf("Load = %s %+v", first.Payload, first)
	}
	if got := loadName(t, r); got.Refuse != "" || got.Coverage.Snapshot.IsZero() || got.Server != first.Server {
		t.Errorf("a replica that is the primary: Load = %+v", got)
	}
	for range 2 {
		got, err := r.LoadFunc(t.Context(), func(context.Context, pgload.Querier) ([]byte, bool, error) {
			t.Error("code ran where two statements may run on two servers")
			return nil, false, nil
		}, func(*pgload.Loaded) bool { return true })
		if err != nil || !strings.Contains(got.Refuse, "pooler") || !got.Coverage.IsZero() {
			t.Errorf("code for a replica behind a pooler: LoadFunc = %+v, %v", got, err)
		}
	}
	connections := l.Pool().Stat().NewConnsCount()

	pooler.Lead(t, p.standby.Server)
	if got := loadName(t, l); string(got.Payload) != `{"name":"first"}` || !strings.Contains(got.Refuse, "standby") || !got.Coverage.IsZero() {
		t.Errorf("on the standby: Load = %s %+v", got.Payload, got)
	}
	if got := byCode(); string(got.Payload) != "first" || !strings.Contains(got.Refuse, "standby") {
		t.Errorf("on the standby: LoadFunc = %s %+v", got.Payload, got)
	}
	if got := loadName(t, r); string(got.Payload) != `{"name":"first"}` || got.Refuse != "" || !got.Coverage.Standby() || got.Server != first.Server {
		t.Errorf("on the standby: the replica's Load = %s %+v", got.Payload, got)
	}

	pooler.Lead(t, other)
	for what, got := range map[string]pgload.Loaded{"Load": loadName(t, l), "the replica's Load": loadName(t, r)} {
		if string(got.Payload) != `{"name":"other"}` || got.Server.System == first.Server.System {
			t.Errorf("on another database: %s = %s %+v", what, got.Payload, got)
		}
	}
	if got := byCode(); string(got.Payload) != "other" || got.Server.System == first.Server.System {
		t.Errorf("on another database: LoadFunc = %s %+v", got.Payload, got)
	}

	pooler.Lead(t, p.primary)
	p.standby.Promote(t)
	pooler.Lead(t, p.standby.Server)
	if got := loadName(t, l); got.Server.System != first.Server.System || got.Server.Timeline != 2 {
		t.Errorf("on a promoted standby: Load = %s %+v", got.Payload, got)
	}
	if n := l.Pool().Stat().NewConnsCount(); n != connections {
		t.Errorf("%d connections were made, then %d: the pooler did not swap the server under one", connections, n)
	}
}
