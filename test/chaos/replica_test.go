package chaos

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/freshet/freshet/internal/testkit/pgtest"
)

// follow starts a replica, which follows the database through a proxy, and leads everybody to it.
func (w *world) follow() {
	w.t.Helper()
	w.replica = pgtest.Standby(w.t, w.pg, pgtest.Options{})
	through := strings.Replace(w.links.replication.Addr, ":", " port=", 1)
	w.replica.Exec(w.t, w.replica.URL("postgres"),
		fmt.Sprintf("ALTER SYSTEM SET primary_conninfo = 'host=%s user=postgres application_name=standby'", through),
		"SELECT pg_reload_conf()")
	address := fmt.Sprintf("127.0.0.1:%d", w.replica.Port)
	w.links.daemonReplica.Lead(address)
	w.links.readerReplica.Lead(address)
}

// replicaFaults are those of the replica. What it does at the end of one, it goes on with until it has caught up.
func replicaFaults() []fault {
	return []fault{
		{name: "the replica lags", do: lagReplica},
		{name: "the replica's replay is paused", do: pauseReplica},
		{name: "the replica restarts", do: func(w *world, _ *rand.Rand) error {
			w.replica.Restart(w.t)
			return nil
		}},
		{name: "the replica is killed", do: func(w *world, r *rand.Rand) error {
			w.replica.Kill(w.t)
			w.some(r, 2*time.Second)
			w.replica.Start(w.t)
			return nil
		}},
		{name: "the replica is frozen", do: func(w *world, r *rand.Rand) error {
			thaw := w.replica.Freeze(w.t)
			defer thaw()
			wait(w.t.Context(), 500*time.Millisecond)
			w.some(r, 3*time.Second)
			return nil
		}},
		{name: "the replica is promoted", do: promoteReplica},
		{name: "commits wait for the replica", do: waitForReplica},
	}
}

// lagReplica has the replica get everything some time later.
func lagReplica(w *world, r *rand.Rand) error {
	w.links.replication.Delay(time.Duration(20+r.IntN(400)) * time.Millisecond)
	wait(w.t.Context(), 2*time.Second)
	w.some(r, 2*time.Second)
	w.links.replication.Heal()
	return nil
}

func pauseReplica(w *world, r *rand.Rand) error {
	w.replica.Pause(w.t)
	wait(w.t.Context(), 500*time.Millisecond)
	w.some(r, 3*time.Second)
	w.replica.Resume(w.t)
	return nil
}

// promoteReplica has the replica go its own way, with rows that the database never had, and then puts another one in its
// place.
func promoteReplica(w *world, r *rand.Rand) error {
	w.replica.Promote(w.t)
	database := w.replica.URL(w.pg.Ask(w.t, w.url, "SELECT current_database()::text"))
	// Prepared transactions are recovered, and hold their rows: nobody will end them there.
	w.replica.Exec(w.t, database, "UPDATE items SET v = 0, name = 'never was' WHERE id IN (SELECT id FROM items FOR UPDATE SKIP LOCKED)")
	wait(w.t.Context(), 500*time.Millisecond)
	w.some(r, time.Second)
	w.replica.Stop(w.t)
	w.follow()
	return nil
}

// waitForReplica has commits wait until the replica has replayed them, which stands still for a while: they are in the
// log, and the daemon reads them, before any reader of the database can see what they did; and readers of the replica
// see it before those.
func waitForReplica(w *world, r *rand.Rand) error {
	w.pg.Exec(w.t, w.url, "ALTER SYSTEM SET synchronous_standby_names = 'standby'", "ALTER SYSTEM SET synchronous_commit = 'remote_apply'",
		"SELECT pg_reload_conf()")
	w.replica.Pause(w.t)
	wait(w.t.Context(), 500*time.Millisecond)
	w.some(r, time.Second)
	w.replica.Resume(w.t)
	w.some(r, time.Second)
	w.pg.Exec(w.t, w.url, "ALTER SYSTEM RESET synchronous_standby_names", "ALTER SYSTEM RESET synchronous_commit", "SELECT pg_reload_conf()")
	return nil
}
