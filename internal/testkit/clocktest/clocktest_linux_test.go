package clocktest_test

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/localserver"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/clocktest"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/internal/testkit/redistest"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func TestServersSeeTheJumps(t *testing.T) {
	t.Parallel()
	clock := clocktest.New(t)
	redis := redistest.StartWith(t, localserver.RedisOptions{Env: clock.Env})
	pg := pgtest.Start(t, pgtest.Options{Env: clock.Env})
	conn, err := pgx.Connect(t.Context(), pg.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	for _, by := range []time.Duration{0, time.Hour, -time.Hour, 0} {
		clock.Shift(t, by)
		want := time.Now().Add(by)
		parts, err := redis.Ask(t, "TIME").AsStrSlice()
		if err != nil {
			t.Fatal(err)
		}
		seconds, err := strconv.ParseInt(parts[0], 10, 64)
		if off := time.Unix(seconds, 0).Sub(want).Abs(); err != nil || off > time.Minute {
			t.Errorf("shifted by %v, Redis' clock is %v off, %v", by, off, err)
		}
		var now time.Time
		if err := conn.QueryRow(t.Context(), "SELECT clock_timestamp()").Scan(&now); err != nil {
			t.Fatal(err)
		}
		if off := now.Sub(want).Abs(); off > time.Minute {
			t.Errorf("shifted by %v, PostgreSQL's clock is %v off", by, off)
		}
	}
}
