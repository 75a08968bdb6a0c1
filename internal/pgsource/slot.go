package pgsource

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/mvcc"
)

// SlotInfo is how a replication slot is doing.
type SlotInfo struct {
	Exists         bool
	ActivePID      int32    // process that reads it, 0: none
	WALStatus      string   // reserved, extended, unreserved or lost
	Invalidation   string   // why it was lost; servers before 17 do not say
	Confirmed      mvcc.LSN // what the slot was told may be forgotten
	Restart        mvcc.LSN // what it still keeps the log from
	RetainedBytes  int64    // how much log that is
	SafeWALSize    int64    // how much may be written before the slot is lost, when SafeWALLimited
	SafeWALLimited bool     // max_slot_wal_keep_size is set
	Lost           bool     // can no longer be read
	Plugin         string
	Database       string
	TwoPhase       bool
}

// SlotState looks at a slot. A slot that does not exist is no error.
func SlotState(ctx context.Context, conn *pgx.Conn, slot string) (SlotInfo, error) {
	const query = `
SELECT coalesce(active_pid, 0), coalesce(wal_status, 'lost'), coalesce(to_jsonb(s) ->> 'invalidation_reason', ''),
       coalesce(confirmed_flush_lsn, '0/0')::text, coalesce(restart_lsn, '0/0')::text,
       coalesce(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END,
                                restart_lsn), 0)::int8,
       coalesce(safe_wal_size, 0), safe_wal_size IS NOT NULL,
       coalesce(plugin, ''), coalesce(database, ''), coalesce((to_jsonb(s) ->> 'two_phase')::bool, false)
  FROM pg_replication_slots s WHERE slot_name = $1`
	var (
		info               SlotInfo
		confirmed, restart string
	)
	err := conn.QueryRow(ctx, query, slot).Scan(&info.ActivePID, &info.WALStatus, &info.Invalidation,
		&confirmed, &restart, &info.RetainedBytes, &info.SafeWALSize, &info.SafeWALLimited,
		&info.Plugin, &info.Database, &info.TwoPhase)
	if errors.Is(err, pgx.ErrNoRows) {
		return SlotInfo{}, nil
	}
	if err != nil {
		return SlotInfo{}, fmt.Errorf("look at slot %q: %w", slot, err)
	}
	if info.Confirmed, err = mvcc.ParseLSN(confirmed); err != nil {
		return SlotInfo{}, fmt.Errorf("look at slot %q: %w", slot, err)
	}
	if info.Restart, err = mvcc.ParseLSN(restart); err != nil {
		return SlotInfo{}, fmt.Errorf("look at slot %q: %w", slot, err)
	}
	info.Exists = true
	info.Lost = info.WALStatus == "lost" || info.Invalidation != ""
	return info, nil
}

// Drop removes the slot and the publication. What does not exist is no error; a slot that is being read is
// ErrSlotInUse.
func Drop(ctx context.Context, conn *pgx.Conn, slot, publication string) error {
	if err := validateNames(slot, publication); err != nil {
		return err
	}
	const dropSlot = `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1`
	if _, err := conn.Exec(ctx, dropSlot, slot); err != nil {
		return classify(fmt.Sprintf("drop slot %q", slot), err)
	}
	if _, err := conn.Exec(ctx, `DROP PUBLICATION IF EXISTS `+quoteIdent(publication)); err != nil {
		return fmt.Errorf("drop publication %q: %w", publication, err)
	}
	return nil
}

// ensureSlot makes the slot, unless it is there and can be read. It waits for every transaction that is running.
func ensureSlot(ctx context.Context, conn *pgx.Conn, o PrepareOptions) (created bool, err error) {
	slot := o.Slot
	info, err := SlotState(ctx, conn, slot)
	if err != nil {
		return false, err
	}
	if info.Exists {
		var database string
		if err := conn.QueryRow(ctx, `SELECT current_database()`).Scan(&database); err != nil {
			return false, fmt.Errorf("read database name: %w", err)
		}
		if info.Plugin != plugin || info.Database != database || info.TwoPhase {
			return false, &SetupError{Problems: []Problem{foreignSlot(slot, info, database)}}
		}
		if !info.Lost {
			return false, nil
		}
		// Nobody can read it any more. Its replacement is a gap, which the caller sees by SlotCreated.
		if _, err := conn.Exec(ctx, `SELECT pg_drop_replication_slot($1)`, slot); err != nil {
			return false, classify(fmt.Sprintf("replace lost slot %q", slot), err)
		}
	}
	if o.Creating != nil {
		o.Creating()
	}
	_, err = conn.Exec(ctx, `SELECT pg_create_logical_replication_slot($1, $2)`, slot, plugin)
	switch sqlState(err) {
	case "42710": // duplicate_object: another daemon was faster
		return false, nil
	case "53400": // configuration_limit_exceeded
		return false, &SetupError{
			Problems: []Problem{{
				What: fmt.Sprintf("replication slot %q cannot be created", slot),
				Why:  "every slot that the server allows is taken",
				Do:   "drop one that is not needed (SELECT slot_name, active FROM pg_replication_slots) or raise max_replication_slots and restart PostgreSQL",
			}},
			Err: err,
		}
	}
	if err != nil {
		return false, classify(fmt.Sprintf("create slot %q", slot), err)
	}
	return true, nil
}

// foreignSlot is the problem of a slot of the configured name that somebody made for something else.
func foreignSlot(slot string, info SlotInfo, database string) Problem {
	return Problem{
		What: fmt.Sprintf("replication slot %q is not freshet's: plugin %q, database %q, two_phase %t",
			slot, info.Plugin, info.Database, info.TwoPhase),
		Why: fmt.Sprintf("the stream needs plugin %q, database %q, two_phase false", plugin, database),
		Do:  "configure another slot name",
	}
}

// plugin is the output plugin that the decoder understands, part of PostgreSQL itself.
const plugin = "pgoutput"
