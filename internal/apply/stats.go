package apply

import (
	"sync/atomic"
	"time"
)

// Stats are counters since the process began, safe to read at any time. Positions are LSNs, times Unix microseconds.
type Stats struct {
	Batches      atomic.Uint64
	Transactions atomic.Uint64
	Keys         atomic.Uint64 // names confirmed, present or not
	Unlinked     atomic.Uint64 // records that were unlinked, and values that were removed from theirs
	Kept         atomic.Uint64 // values that contained what was confirmed, and stayed
	Epochs       atomic.Uint64 // epochs that changes ended, there or not, each counted once for each lane
	Ended        atomic.Uint64 // of them, those that were there
	LookUps      atomic.Uint64 // queries that found keys through other tables
	Moves        atomic.Uint64 // versions moved because a change could not be mapped
	Mended       atomic.Uint64 // lanes of a cluster that were lost and begun anew
	Closed       atomic.Int64  // lanes of a cluster that are lost now
	Waiting      atomic.Int64  // parts that wait for a transaction to become visible
	Wc           atomic.Uint64
	Confirmed    atomic.Uint64
	Applied      atomic.Int64 // when the last batch was applied
	// Horizon is when, by this process's monotonic clock, HEAD's Sa was true of the database: what is served is no older.
	// nil: not since the process began.
	Horizon atomic.Pointer[time.Time]
	// Oldest is the commit, by the database's clock, of the oldest transaction that the applier holds and that may be visible;
	// 0: none.
	Oldest atomic.Int64
}
