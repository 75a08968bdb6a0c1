package fill

import (
	"sync/atomic"

	"github.com/freshet/freshet/internal/near"
)

// bypassReason says why the cache was not used.
type bypassReason int

const (
	_ bypassReason = iota
	storeDown
	storeFull
	storeRefuses
	noHead
	noRoster
	unknownFormat
	otherDatabase
	unknownDefinition
	suspended
	namesMoved
	busyElsewhere
	notCovered
	callerGone
	askedFor
	bypassReasons
)

// String is the reason as Value.Reason and metrics spell it.
func (b bypassReason) String() string {
	switch b {
	case storeDown:
		return "store_unavailable"
	case storeFull:
		return "store_full"
	case storeRefuses:
		return "store_refuses"
	case noHead:
		return "no_head"
	case noRoster:
		return "no_roster"
	case unknownFormat:
		return "unknown_roster_format"
	case otherDatabase:
		return "other_database"
	case unknownDefinition:
		return "unknown_definition"
	case suspended:
		return "suspended"
	case namesMoved:
		return "names_moved"
	case busyElsewhere:
		return "leased_elsewhere"
	case notCovered:
		return "flight_not_covering"
	case callerGone:
		return "cancelled"
	case askedFor:
		return "asked_for"
	default:
		return "none"
	}
}

// refusal says why a load under a lease was not filled.
type refusal int

const (
	_ refusal = iota
	refusedLoad
	refusedServer
	refusedDatabase
	refusedFloor
	refusedNames
	refusedNoLease
	refusedLeaseEnded
	refusedNotCovering
	refusedNotNewer
	refusedStore
	refusedEpoch
	refusedTooLarge
	refusedNested
	refusals
)

// String is the refusal as Value.Reason and metrics spell it.
func (f refusal) String() string {
	switch f {
	case refusedLoad:
		return "load_not_fillable"
	case refusedServer:
		return "other_server"
	case refusedDatabase:
		return "other_database"
	case refusedFloor:
		return "below_floor"
	case refusedNames:
		return "names_moved"
	case refusedNoLease:
		return "lease_lost"
	case refusedLeaseEnded:
		return "lease_ended"
	case refusedNotCovering:
		return "not_covering"
	case refusedNotNewer:
		return "not_newer"
	case refusedStore:
		return "store_error"
	case refusedEpoch:
		return "epoch_ended"
	case refusedTooLarge:
		return "too_large"
	case refusedNested:
		return "nested_read"
	default:
		return ""
	}
}

type counters struct {
	hits, misses, loads, loadErrors, fills, waits, joins, dropped, unproven, corrupt, refreshes, refreshed atomic.Uint64

	revalidations, unchanged, renewals atomic.Uint64

	ended, pins atomic.Uint64

	staleAge, overloaded, eager, eagerStored, eagerSkipped atomic.Uint64

	stale [staleCauses]atomic.Uint64

	near striped

	refused  [refusals]atomic.Uint64
	bypassed [bypassReasons]atomic.Uint64
	replicas [replicaOutcomes]atomic.Uint64
}

// Stats are counts since the Reader was made.
type Stats struct {
	Hits       uint64 `json:"hits"`
	HitsL1     uint64 `json:"hits_l1"`     // of them, of values that were held in the process's memory
	Misses     uint64 `json:"misses"`      // reads that found nothing live, or nothing that was shown to be what they asked for
	Loads      uint64 `json:"loads"`       // statements sent to the database
	LoadErrors uint64 `json:"load_errors"` // of them, failed
	Fills      uint64 `json:"fills"`       // values stored
	Waits      uint64 `json:"waits"`       // reads that waited for another's lease
	Joins      uint64 `json:"joins"`       // of them, served by a load of this process
	Dropped    uint64 `json:"dropped"`     // replies dropped because names were not confirmed any more
	Unproven   uint64 `json:"unproven"`    // cached values that could not be shown to meet what a read asked for
	Corrupt    uint64 `json:"corrupt"`     // records that were not readable
	// Revalidations are loads that compared a cached value with the database's; Unchanged, of them, those that found the same;
	// Renewals the fills (which they are among) for which no value had to be sent to the store.
	Revalidations uint64 `json:"revalidations"`
	Unchanged     uint64 `json:"unchanged"`
	Renewals      uint64 `json:"renewals"`
	Ended         uint64 `json:"ended"` // live values that were found with epochs that have ended
	Pins          uint64 `json:"pins"`  // loads whose epochs were looked up, or made

	Stale map[string]uint64 `json:"stale"` // reads that were given a stale value, by cause
	// StaleMicroseconds is how long ago those values had been invalidated, all together.
	StaleMicroseconds uint64       `json:"stale_us"`
	Overloaded        uint64       `json:"overloaded"`    // loads that were not sent since too many were under way
	Eager             uint64       `json:"eager"`         // loads of values whose time was nearly over
	EagerStored       uint64       `json:"eager_stored"`  // of them, stored
	EagerSkipped      uint64       `json:"eager_skipped"` // and those that were not begun since too many were under way
	Database          BreakerStats `json:"database"`

	Refreshes uint64            `json:"refreshes"`    // loads that writers asked for after their commit
	Refreshed uint64            `json:"refreshed"`    // of them, stored
	Refused   map[string]uint64 `json:"refused"`      // loads under a lease that were not stored, by reason
	Bypassed  map[string]uint64 `json:"bypassed"`     // reads without the cache, by reason
	Replicas  map[string]uint64 `json:"replicas"`     // loads that a replica might have had, by what became of that
	L1        *near.Stats       `json:"l1,omitempty"` // what is held in the process's memory; nil: nothing is to be
}

// Stats returns the counts. Every reason is in the maps, also with zero.
func (r *Reader) Stats() Stats {
	c := &r.stats
	inMemory := c.near.load()
	s := Stats{
		Hits: c.hits.Load() + inMemory, HitsL1: inMemory, Misses: c.misses.Load(), Loads: c.loads.Load(), LoadErrors: c.loadErrors.Load(), Fills: c.fills.Load(),
		Waits: c.waits.Load(), Joins: c.joins.Load(), Dropped: c.dropped.Load(), Unproven: c.unproven.Load(), Corrupt: c.corrupt.Load(),
		Refreshes: c.refreshes.Load(), Refreshed: c.refreshed.Load(),
		Revalidations: c.revalidations.Load(), Unchanged: c.unchanged.Load(), Renewals: c.renewals.Load(),
		Ended: c.ended.Load(), Pins: c.pins.Load(),
		StaleMicroseconds: c.staleAge.Load(), Overloaded: c.overloaded.Load(),
		Eager: c.eager.Load(), EagerStored: c.eagerStored.Load(), EagerSkipped: c.eagerSkipped.Load(),
		Database: r.breaker.stats(), Stale: map[string]uint64{},
		Refused: map[string]uint64{}, Bypassed: map[string]uint64{},
		Replicas: map[string]uint64{},
	}
	if r.near != nil {
		held := r.near.Stats()
		s.L1 = &held
	}
	for f := refusedLoad; f < refusals; f++ {
		s.Refused[f.String()] = c.refused[f].Load()
	}
	for b := storeDown; b < bypassReasons; b++ {
		s.Bypassed[b.String()] = c.bypassed[b].Load()
	}
	for why := staleChange; why < staleCauses; why++ {
		s.Stale[why.String()] = c.stale[why].Load()
	}
	for o := replicaUsed; o < replicaOutcomes; o++ {
		s.Replicas[o.String()] = c.replicas[o].Load()
	}
	return s
}
