package freshet

// Stats are counts since Open: of this Cache, of no other process. Every count but Database.Open, L1.Bytes and L1.Records only grows, and each reason is
// in its map, also with zero.
type Stats struct {
	Hits   uint64 `json:"hits"`    // reads that were served a live value of the cache
	HitsL1 uint64 `json:"hits_l1"` // of them, those that were served from the memory of this process (l1)
	Misses uint64 `json:"misses"`  // reads that found nothing live, or nothing that was shown to be what they asked for
	// Loads are the statements that were sent to the database, and the runs of code that loads; LoadErrors, of them, those that failed.
	Loads      uint64 `json:"loads"`
	LoadErrors uint64 `json:"load_errors"`
	Fills      uint64 `json:"fills"`    // loaded values that were stored
	Waits      uint64 `json:"waits"`    // reads that waited while another one loaded the same key, in this process or another
	Joins      uint64 `json:"joins"`    // of them, those that were served by a load of this process
	Dropped    uint64 `json:"dropped"`  // replies that were dropped, since the names of the cached values were not confirmed for a second
	Unproven   uint64 `json:"unproven"` // cached values that could not be shown to meet what a read asked for (After, MaxStale, a session)
	Corrupt    uint64 `json:"corrupt"`  // cached values that could not be read, and were loaded anew
	// Revalidations are the loads that compared a cached value with the database's; Unchanged, of them, those that found the same;
	// Renewals those of Fills for which no value had to be sent to the store.
	Revalidations uint64 `json:"revalidations"`
	Unchanged     uint64 `json:"unchanged"`
	Renewals      uint64 `json:"renewals"`
	Ended         uint64 `json:"ended"` // live values that were of no use, since something that they are tied to had ended (tags, broad rules)
	Pins          uint64 `json:"pins"`  // loads of values that are tied to such

	// Stale counts reads that were given a stale value, by cause: "changed" (it is loaded again meanwhile), "load_failed" and "load_slow".
	Stale map[string]uint64 `json:"stale"`
	// StaleMicroseconds is how long before their reads those values had been invalidated, all together, in microseconds.
	StaleMicroseconds uint64 `json:"stale_us"`
	Overloaded        uint64 `json:"overloaded"`    // loads that were not sent, since too many were under way
	Eager             uint64 `json:"eager"`         // loads of values whose time to live was nearly over (eager_refresh)
	EagerStored       uint64 `json:"eager_stored"`  // of them, those that were stored
	EagerSkipped      uint64 `json:"eager_skipped"` // and such loads that were not begun, since too many were under way
	// Database says whether the database is asked, or left alone since it has failed several times in a row.
	Database struct {
		Open    bool   `json:"open"`    // loads are refused now, but for one now and then that tries
		Opened  uint64 `json:"opened"`  // how often that began
		Refused uint64 `json:"refused"` // loads that were not sent for that
	} `json:"database"`

	Refreshes uint64 `json:"refreshes"` // loads that writers asked for after their commit (Refresh)
	Refreshed uint64 `json:"refreshed"` // of them, those that were stored
	// Refused counts loaded values that were returned and not stored, by reason. Of "not_covering", "lease_lost", "lease_ended", "epoch_ended"
	// and "not_newer": something has changed, or another load was first, which is how old values are kept out. "load_not_fillable",
	// "other_server", "other_database", "below_floor": the load was not of what the daemon follows, or not recent enough. "names_moved": the entry has just been
	// planned anew. "store_error": the store failed. "too_large": see max_value. "nested_read": the code that loads it
	// has read another entry through the cache, whose value may be older than the load.
	Refused map[string]uint64 `json:"refused"`
	// Bypassed counts reads that did not use the cache, by reason, which is also that of ReadDone and Status. The store cannot be used:
	// "store_unavailable", "store_full", "store_refuses". Nobody vouches for what is in it: "no_head", "no_roster", "unknown_roster_format", "other_database",
	// "unknown_definition" (the file says of the entry something else than the daemon's), "suspended", "names_moved". Others load, and cannot be waited
	// for: "leased_elsewhere", "flight_not_covering". And "cancelled", of a read whose caller has gone, and "asked_for" (Bypass).
	Bypassed map[string]uint64 `json:"bypassed"`
	// Replicas counts loads that a standby might have had, by what became of that: "used"; not asked, since it was "known_behind", "left_alone" after an error,
	// or "unfollowed" (no daemon is known to follow); asked in vain, since it was "behind", "foreign", "failed" or gave what may not be stored ("refused"). All but
	// the used went to the primary.
	Replicas map[string]uint64 `json:"replicas"`

	// L1 is what is held in the memory of this process: counts, and in Bytes and Records what there is now. nil: nothing is to be held.
	L1 *struct {
		Puts    uint64 `json:"puts"`    // values that were put there
		Refused uint64 `json:"refused"` // values that were not, since they had changed while they were read
		Pushed  uint64 `json:"pushed"`  // values, and tags and the like that values are tied to, that Redis has said have changed
		Evicted uint64 `json:"evicted"` // values for which there was no room
		Dropped uint64 `json:"dropped"` // values that were dropped with the connection on which they were read
		Bytes   uint64 `json:"bytes"`   // by an estimate that counts decoded values in
		Records uint64 `json:"records"` // values
	} `json:"l1,omitempty"`
}

// Stats returns what the cache has counted.
func (c *Cache) Stats() Stats { return Stats(c.reader.Stats()) }
