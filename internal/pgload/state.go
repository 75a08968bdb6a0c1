package pgload

import (
	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/mvcc"
)

// forceSettings gives a session the settings that usual checks for.
const forceSettings = `SET TimeZone = 'UTC'; SET DateStyle = 'ISO, MDY'; SET IntervalStyle = 'postgres';
	SET extra_float_digits = 1; SET bytea_output = 'hex'`

// localSettings does the same for the rest of a transaction.
const localSettings = `SELECT pg_catalog.set_config('TimeZone', 'UTC', true), pg_catalog.set_config('DateStyle', 'ISO, MDY', true),
	pg_catalog.set_config('IntervalStyle', 'postgres', true), pg_catalog.set_config('extra_float_digits', '1', true),
	pg_catalog.set_config('bytea_output', 'hex', true)`

// stateColumns are selected beside every value, in the same statement: behind a transaction pooler, any other
// statement may run on another server.
const stateColumns = `pg_catalog.pg_current_snapshot()::text,
	pg_catalog.pg_is_in_recovery(),
	pg_catalog.pg_current_xact_id_if_assigned()::text,
	pg_catalog.current_setting('TimeZone') || '|' || pg_catalog.current_setting('DateStyle') || '|' ||
	pg_catalog.current_setting('IntervalStyle') || '|' || pg_catalog.current_setting('bytea_output') || '|' ||
	pg_catalog.current_setting('extra_float_digits')`

// state is what stateColumns say.
type state struct {
	snapshot string
	standby  bool
	own      *string
	settings string
}

func (s *state) targets() []any { return []any{&s.snapshot, &s.standby, &s.own, &s.settings} }

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

// judge puts what the statement said about itself beside the value.
func (s *state) judge(l *Loaded) {
	snapshot, err := mvcc.ParseSnapshot(s.snapshot)
	switch {
	case err != nil:
		l.Refuse = "the server's snapshot is not readable: " + s.snapshot
	case s.standby:
		l.Refuse = "the server is a standby"
	case s.own != nil:
		l.Refuse = "the load ran in transaction " + *s.own + ", which has written: it sees rows that are not committed"
	case !usual(s.settings):
		l.Coverage = fence.Coverage{Snapshot: snapshot}
		l.Refuse = "the session's settings (TimeZone|DateStyle|IntervalStyle|bytea_output|extra_float_digits) are " + s.settings +
			"; values would have another text than with UTC|ISO, MDY|postgres|hex|1"
	default:
		l.Coverage = fence.Coverage{Snapshot: snapshot}
	}
}
