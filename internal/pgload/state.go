package pgload

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/wal"
	"github.com/freshet/freshet/mvcc"
)

// forceSettings gives a session the settings that usual checks for.
const forceSettings = `SET TimeZone = 'UTC'; SET DateStyle = 'ISO, MDY'; SET IntervalStyle = 'postgres';
	SET extra_float_digits = 1; SET bytea_output = 'hex'`

// localSettings does the same for the rest of a transaction.
const localSettings = `SELECT pg_catalog.set_config('TimeZone', 'UTC', true), pg_catalog.set_config('DateStyle', 'ISO, MDY', true),
	pg_catalog.set_config('IntervalStyle', 'postgres', true), pg_catalog.set_config('extra_float_digits', '1', true),
	pg_catalog.set_config('bytea_output', 'hex', true)`

// beginReading begins the transaction that keeps several statements on one server, each with a snapshot of its own.
const beginReading = "BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED READ ONLY"

// stateColumns are selected beside every value, in the same statement: behind a transaction pooler, any other
// statement may run on another server. All of them are text.
const stateColumns = `pg_catalog.pg_current_snapshot()::text,
	pg_catalog.pg_is_in_recovery()::text,
	pg_catalog.pg_current_xact_id_if_assigned()::text,
	pg_catalog.current_setting('TimeZone') || '|' || pg_catalog.current_setting('DateStyle') || '|' ||
	pg_catalog.current_setting('IntervalStyle') || '|' || pg_catalog.current_setting('bytea_output') || '|' ||
	pg_catalog.current_setting('extra_float_digits'),
	pg_catalog.pg_backend_pid()::text`

// serverColumns say which server a statement runs on. What a primary writes on is its timeline.
//
// A standby has no function that tells the timeline of what it has replayed. It knows that it has replayed something of a
// timeline when a restart point, or the point that it must reach again after a crash, lies on it; and its receiver is
// only ever asked for a timeline that continues what was replayed. The highest of the three is a timeline of whose
// history all that was replayed is part. The receiver's is shown to members of pg_read_all_stats only; without it a
// standby follows a promotion with its next restart point.
const serverColumns = `(SELECT system_identifier::text FROM pg_catalog.pg_control_system()),
	CASE WHEN pg_catalog.pg_is_in_recovery() THEN
		(SELECT greatest(c.timeline_id, r.min_recovery_end_timeline, w.received_tli)::text
		   FROM pg_catalog.pg_control_checkpoint() c, pg_catalog.pg_control_recovery() r, pg_catalog.pg_stat_get_wal_receiver() w)
	ELSE (` + wal.TimelineSQL + `)::text END,
	` + databaseSQL

// databaseSQL says in which database a statement runs, whatever name a pooler has for it.
const databaseSQL = `(SELECT oid::text || ' ' || datname FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())`

// noServerColumns stand for serverColumns where something comes after them.
const noServerColumns = "NULL::text, " + noVersion

// state is what stateColumns, and serverColumns after them, say, after those a comparison, and after that the tags.
type state struct {
	snapshot, standby, own, settings, pid *string

	system, timeline, database *string

	same, version, rows *string

	found *string // the tags
}

// columns are where it all goes, in the order of the statement.
func (s *state) columns() []**string {
	return []**string{&s.snapshot, &s.standby, &s.own, &s.settings, &s.pid, &s.system, &s.timeline, &s.database, &s.same, &s.version, &s.rows, &s.found}
}

// targets are where a statement's columns go, of which it has so many.
func (s *state) targets(columns int) []any {
	targets := make([]any, columns)
	for i, to := range s.columns()[:columns] {
		targets[i] = to
	}
	return targets
}

// read takes the same from an exchange's row, past its first column.
func (s *state) read(row [][]byte) {
	for i, to := range s.columns() {
		*to = nil
		if i+1 < len(row) && row[i+1] != nil {
			text := string(row[i+1])
			*to = &text
		}
	}
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// server is which server the statement ran on, if it was asked.
func (s *state) server() (Server, error) { return newServer(text(s.system), text(s.timeline)) }

func newServer(system, timeline string) (Server, error) {
	number, err := strconv.ParseUint(timeline, 10, 32)
	if err != nil || system == "" {
		return Server{}, fmt.Errorf("ask which server it is: system %q, timeline %q: %w", system, timeline, err)
	}
	return Server{System: system, Timeline: uint32(number)}, nil
}

// newDatabase reads what databaseSQL says. Nothing is known of a database that is being renamed.
func newDatabase(said string) rule.Database {
	number, name, _ := strings.Cut(said, " ")
	oid, err := strconv.ParseUint(number, 10, 32)
	if err != nil {
		return rule.Database{}
	}
	return rule.Database{OID: uint32(oid), Name: name}
}

// usual reports settings under which values have their usual text.
func usual(settings string) bool {
	for _, zone := range []string{"UTC", "Etc/UTC"} {
		for _, digits := range []string{"1", "3", "2"} { // from 1 on, floats print exactly
			if settings == zone+"|ISO, MDY|postgres|hex|"+digits {
				return true
			}
		}
	}
	return false
}

// judge puts what the statement said about itself beside a value of the primary's.
func (s *state) judge(l *Loaded) {
	snapshot, err := mvcc.ParseSnapshot(text(s.snapshot))
	switch {
	case err != nil:
		l.Refuse = "the server's snapshot is not readable: " + text(s.snapshot)
	case text(s.standby) != "false":
		l.Refuse = "the server is a standby"
	case s.own != nil:
		l.Refuse = "the load ran in transaction " + *s.own + ", which has written: it sees rows that are not committed"
	case !usual(text(s.settings)):
		l.Coverage = fence.Coverage{Snapshot: snapshot}
		l.Refuse = s.unusual()
	default:
		l.Coverage = fence.Coverage{Snapshot: snapshot}
	}
}

func (s *state) unusual() string {
	return "the session's settings (TimeZone|DateStyle|IntervalStyle|bytea_output|extra_float_digits) are " + text(s.settings) +
		"; values would have another text than with UTC|ISO, MDY|postgres|hex|1"
}
