package pgtest_test

import (
	"testing"
	"time"

	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/pgtest"
)

func TestStandby(t *testing.T) {
	t.Parallel()
	primary := pgtest.Start(t, pgtest.Options{})
	url := primary.Database(t)
	primary.Exec(t, url, `CREATE TABLE t (n int)`, `INSERT INTO t VALUES (1)`)
	standby := pgtest.Standby(t, primary, pgtest.Options{})
	there := standby.URL(primary.Ask(t, url, `SELECT current_database()::text`))
	count := func() string { return standby.Ask(t, there, `SELECT count(*)::text FROM t`) }
	if got := count(); got != "1" {
		t.Errorf("the standby has %s rows, want 1", got)
	}
	standby.Pause(t)
	before := standby.Replayed(t)
	primary.Exec(t, url, `INSERT INTO t VALUES (2)`)
	if got := count(); got != "1" || standby.Replayed(t) != before {
		t.Errorf("the paused standby has %s rows, want 1", got)
	}
	standby.Resume(t)
	standby.CatchUp(t)
	if got := count(); got != "2" {
		t.Errorf("the standby has %s rows, want 2", got)
	}
	standby.Kill(t)
	standby.Start(t)
	standby.CatchUp(t)
	if got := standby.Ask(t, there, `SELECT pg_is_in_recovery()::text`); got != "true" {
		t.Errorf("in recovery after a restart: %s", got)
	}
	standby.Cut(t)
	primary.Exec(t, url, `INSERT INTO t VALUES (3)`)
	standby.Promote(t)
	if got := count(); got != "2" {
		t.Errorf("the standby has %s rows after it was cut off, want 2", got)
	}
	standby.Exec(t, there, `INSERT INTO t VALUES (3)`)
	if got := primary.Ask(t, url, `SELECT count(*)::text FROM t`); got != "3" {
		t.Errorf("the left primary has %s rows, want 3", got)
	}
}

func TestDelayedStandby(t *testing.T) {
	t.Parallel()
	primary := pgtest.Start(t, pgtest.Options{})
	url := primary.Database(t)
	standby := pgtest.Standby(t, primary, pgtest.Options{Settings: map[string]string{"recovery_min_apply_delay": "300ms"}})
	there := standby.URL(primary.Ask(t, url, `SELECT current_database()::text`))
	began := time.Now()
	primary.Exec(t, url, `CREATE TABLE t (n int)`)
	testkit.Eventually(t, time.Minute, func() error {
		if standby.Ask(t, there, `SELECT count(*)::text FROM pg_class WHERE relname = 't'`) != "1" {
			return errNotYet
		}
		return nil
	})
	if took := time.Since(began); took < 300*time.Millisecond {
		t.Errorf("the standby was there after %v", took)
	}
}

// TestReplaceBy restores a backup in the place of a server.
func TestReplaceBy(t *testing.T) {
	t.Parallel()
	primary := pgtest.Start(t, pgtest.Options{})
	url := primary.Database(t)
	primary.Exec(t, url, `CREATE TABLE t (n int)`, `INSERT INTO t VALUES (1)`)
	backup := pgtest.Standby(t, primary, pgtest.Options{})
	backup.Promote(t)
	backup.Stop(t)
	primary.Exec(t, url, `INSERT INTO t VALUES (2)`)
	primary.Stop(t)
	primary.ReplaceBy(t, backup.Server)
	primary.Start(t)
	if got := primary.Ask(t, url, `SELECT count(*)::text FROM t`); got != "1" {
		t.Errorf("the restored server has %s rows, want 1", got)
	}
}
