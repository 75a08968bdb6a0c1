// Package wal is what PostgreSQL's log looks like from outside, for all who ask a server about it: the timeline that a
// primary writes on, and where the last record ends.
package wal

import "github.com/freshet/freshet/mvcc"

const (
	// TimelineHexSQL is the timeline that a primary writes on, as eight hexadecimal digits. Control data lags behind a promotion.
	TimelineHexSQL = `pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 8)`
	// TimelineSQL is the same as a number, an int8. It fails on a standby.
	TimelineSQL = `('x' || ` + TimelineHexSQL + `)::bit(32)::int8`
	// ServerSQL is a text that two sessions have in common only if they are on one and the same running server: copies of a
	// cluster share its identifier, and may share a timeline, but not the moment when they were started.
	ServerSQL = `concat_ws('/', (SELECT system_identifier FROM pg_catalog.pg_control_system()),
		CASE WHEN pg_catalog.pg_is_in_recovery() THEN 0 ELSE ` + TimelineSQL + ` END, extract(epoch FROM pg_catalog.pg_postmaster_start_time()))`
	// PageSQL is the size of a page, an int8.
	PageSQL = `pg_catalog.current_setting('wal_block_size')::int8`
	// SegmentSQL is the size of a segment, an int8.
	SegmentSQL = `pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size'))`
)

// Pages are the units of the log, in bytes.
type Pages struct{ Page, Segment mvcc.LSN }

// The headers of a page of the log, the long one on the first page of a segment.
const shortHeader, longHeader = 24, 40

// RecordEnd turns a position at which the next record will begin into the one where the last has ended. They differ
// when the last record fills its page: the next one begins behind the header of a page that nobody reads before it has a
// record, so that a database which then falls silent would never be seen to have come that far. No record ends between
// the two.
func (p Pages) RecordEnd(next mvcc.LSN) mvcc.LSN {
	switch {
	case p.Page == 0:
	case next%p.Segment == longHeader:
		return next - longHeader
	case next%p.Page == shortHeader && next%p.Segment != shortHeader:
		return next - shortHeader
	}
	return next
}
