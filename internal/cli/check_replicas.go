package cli

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/wal"
)

// replicaFacts are what check saw of one of database.replicas.
type replicaFacts struct {
	Replica    string  `json:"replica"` // its address
	SystemID   string  `json:"system_identifier"`
	Database   string  `json:"database"`
	Timeline   int64   `json:"timeline"`
	InRecovery bool    `json:"in_recovery"` // it is a standby
	Paused     bool    `json:"paused"`
	LagBytes   int64   `json:"lag_bytes"` // written on the primary and not replayed
	LagSeconds float64 `json:"lag_seconds"`
	Feedback   bool    `json:"hot_standby_feedback"`
	role       string
}

// checkReplicas judges whether loads may go to the replicas.
func (r *checked) checkReplicas(ctx context.Context, primary *pgx.Conn, entries []planned) {
	for i, url := range r.conf.Database.Replicas {
		key := fmt.Sprintf("database.replicas.%d", i)
		conn, err := dial(ctx, "replica "+key, key, url)
		if err != nil {
			r.problem("postgres", err.Error(), "loads that could go to it go to the primary", tryOf(err))
			continue
		}
		facts := replicaFacts{Replica: fmt.Sprintf("%s:%d", conn.Config().Host, conn.Config().Port)}
		if err := facts.look(ctx, conn, primary); err != nil {
			r.problem("postgres", key+": "+err.Error(), "", "")
		} else {
			r.Replicas = append(r.Replicas, facts)
			if r.judgeReplica(key, &facts) {
				r.checkLoader(ctx, conn, facts.role, key, entries)
			}
		}
		closeConn(ctx, conn)
	}
}

// look asks the replica what it is. Its lag is against a position that the primary is asked for before.
func (f *replicaFacts) look(ctx context.Context, conn, primary *pgx.Conn) error {
	var written string
	if err := primary.QueryRow(ctx, `SELECT pg_current_wal_flush_lsn()::text`).Scan(&written); err != nil {
		return fmt.Errorf("look at the primary's log: %w", err)
	}
	const query = `
SELECT s.system_identifier::text, current_database()::text, current_user::text, r.standby,
       CASE WHEN r.standby THEN greatest(c.timeline_id, v.min_recovery_end_timeline)::int8
            ELSE ` + wal.TimelineSQL + ` END,
       r.standby AND pg_get_wal_replay_pause_state() <> 'not paused',
       CASE WHEN r.standby THEN greatest(pg_wal_lsn_diff($1::text::pg_lsn, pg_last_wal_replay_lsn()), 0)::int8 ELSE 0 END,
       CASE WHEN r.standby AND pg_last_wal_replay_lsn() < $1::text::pg_lsn
            THEN coalesce(greatest(extract(epoch FROM now() - pg_last_xact_replay_timestamp()), 0), 0)::float8 ELSE 0 END,
       current_setting('hot_standby_feedback') = 'on'
  FROM pg_control_system() s, pg_control_checkpoint() c, pg_control_recovery() v, (SELECT pg_is_in_recovery() AS standby) r`
	err := conn.QueryRow(ctx, query, written).Scan(&f.SystemID, &f.Database, &f.role, &f.InRecovery, &f.Timeline, &f.Paused,
		&f.LagBytes, &f.LagSeconds, &f.Feedback)
	if err != nil {
		return fmt.Errorf("look at the replica: %w", err)
	}
	return nil
}

// judgeReplica reports whether loads can go to the replica at all.
func (r *checked) judgeReplica(key string, f *replicaFacts) bool {
	primary := r.Postgres
	what := fmt.Sprintf("%s (%s)", key, f.Replica)
	switch {
	case f.SystemID != primary.SystemID:
		r.problem("postgres", fmt.Sprintf("%s is no standby of this database: its system identifier is %s, the primary's %s", what, f.SystemID, primary.SystemID),
			"what it has says nothing about the database whose log is followed: nothing that it loads is ever stored",
			"name a physical standby of the primary, or remove it from "+key)
		return false
	case f.Database != primary.Database:
		r.problem("postgres", fmt.Sprintf("%s leads to database %q, not %q", what, f.Database, primary.Database),
			"its rows would be those of another database", "name the same database in "+key)
		return false
	case !f.InRecovery && f.Timeline != primary.timeline:
		r.problem("postgres", fmt.Sprintf("%s is not a standby any more: it was promoted, to timeline %d", what, f.Timeline),
			"its history is not the one that is followed: nothing that it loads is ever stored",
			"make it a standby of the primary again, or remove it from "+key)
		return false
	case !f.InRecovery:
		r.note("postgres", what+" is the primary itself", "loads gain nothing by it", "name a standby, or remove it from "+key)
		return true
	case f.Timeline != primary.timeline:
		r.note("postgres", fmt.Sprintf("%s shows timeline %d, the primary is on %d", what, f.Timeline, primary.timeline),
			"until it shows the primary's, nothing that it loads is stored",
			"if it follows the primary, run CHECKPOINT on it, or let its role be a member of pg_read_all_stats; otherwise have it follow")
	case f.Paused:
		r.note("postgres", fmt.Sprintf("%s stands still: its replay is paused, %s behind", what, bytesText(f.LagBytes)),
			"what was written since is loaded from the primary", "run there: SELECT pg_wal_replay_resume()")
	}
	if !f.Feedback {
		r.note("postgres", what+": hot_standby_feedback is off", "replay may cancel loads that need rows which the primary has cleaned up; they go to the primary then",
			"set hot_standby_feedback = on there if that happens often; it keeps dead rows on the primary for longer")
	}
	return true
}
