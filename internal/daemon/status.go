package daemon

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/pipeline"
	"github.com/freshet/freshet/mvcc"
)

// Status is what GET /v1/status answers and `freshet status --json` prints. Fields are only ever added.
type Status struct {
	pipeline.Status
	Started time.Time    `json:"started"`
	Source  SourceStatus `json:"source"`
	Regions []Region     `json:"regions"`
	Reads   fill.Stats   `json:"reads"` // of this process's gateway, since its file was read
	Applied Applied      `json:"applied"`
	// Refreshes are of entries with on_change: refresh.
	Refreshes Refreshes `json:"refreshes"`
	// Objectives are those of the entries that declare max_staleness. A standby knows of none.
	Objectives []Objective `json:"objectives,omitempty"`
	// FileRefused is why the file was not applied when it was read again last, or is not yet, so that the one before it is in force.
	// Absent: it was applied, or has not been read again.
	FileRefused *FileRefused `json:"file_refused,omitempty"`
}

// FileRefused is a reload that did not come about.
type FileRefused struct {
	At  time.Time `json:"at"`
	Why string    `json:"why"`
}

// Objective is what an entry's readers tolerate, and whether it holds.
type Objective struct {
	Entry   string  `json:"entry"`
	Seconds float64 `json:"max_staleness_seconds"`
	Met     bool    `json:"met"`
}

// SourceStatus is how the log is being followed. Positions are LSNs, sizes bytes.
type SourceStatus struct {
	Slot           string `json:"slot"`
	Publication    string `json:"publication"`
	InsertLSN      string `json:"insert_lsn,omitempty"`    // the end of the log when last looked at
	ReceivedLSN    string `json:"received_lsn,omitempty"`  // read and routed
	ConfirmedLSN   string `json:"confirmed_lsn,omitempty"` // what the slot may forget
	RestartLSN     string `json:"restart_lsn,omitempty"`   // what the slot keeps the log from
	WALStatus      string `json:"wal_status,omitempty"`
	RetainedBytes  int64  `json:"retained_bytes"`
	SafeWALBytes   *int64 `json:"safe_wal_bytes,omitempty"` // how much may be written before the slot is lost; absent: no limit
	ConfirmedBytes int64  `json:"confirmed_lag_bytes"`      // from what the slot may forget to the end of the log
}

// Region is one region's store.
type Region struct {
	Name       string  `json:"name"`
	AppliedLSN string  `json:"applied_lsn,omitempty"` // the watermark: every commit up to it is applied
	LagBytes   int64   `json:"lag_bytes"`
	LagSeconds float64 `json:"lag_seconds"` // age of the oldest commit that was read, may be visible and is not applied; 0: there is none
	// StalenessSeconds bounds how long ago what a cached value misses was committed. Absent: no bound is known here.
	StalenessSeconds *float64 `json:"staleness_seconds,omitempty"`
	Fresh            bool     `json:"fresh"` // it may vouch for what it serves
	Reason           string   `json:"reason,omitempty"`
	// Memory is how full the store is, where it is in the daemon's own memory.
	Memory      *MemoryStatus `json:"memory,omitempty"`
	LanesClosed int64         `json:"lanes_closed,omitempty"` // of a cluster: their keys are read from the database
	LanesBegun  uint64        `json:"lanes_begun,omitempty"`  // lanes that were lost and begun anew
}

// Applied counts since the daemon began.
type Applied struct {
	Transactions uint64 `json:"transactions"`
	Rows         uint64 `json:"rows"`
	Batches      uint64 `json:"batches"`
	Keys         uint64 `json:"keys"`     // invalidations sent
	Unlinked     uint64 `json:"unlinked"` // values that were removed
	Kept         uint64 `json:"kept"`     // values that contained the change already, and stayed
	Epochs       uint64 `json:"epochs"`   // epochs that changes ended, cached or not; in a cluster each counts once for each lane
	Ended        uint64 `json:"ended"`    // of them, those that were there: values may have been tied to them
	Moves        uint64 `json:"moves"`    // versions moved because a change could not be mapped to keys
}

// Status answers from memory.
func (d *daemon) Status() any { return d.status() }

func (d *daemon) status() Status {
	file := d.file.Load()
	source := file.Source.Postgres
	st := Status{
		Started: d.started,
		Source:  SourceStatus{Slot: source.Slot, Publication: source.Publication},
		Regions: []Region{{Name: file.RegionName()}},

		FileRefused: d.refused.Load(),
	}
	region := &st.Regions[0]
	if err := d.Ready(); err != nil {
		region.Reason = err.Error()
	} else {
		region.Fresh = true
	}
	p := d.parts.Load()
	if p == nil {
		st.Status = pipeline.Status{Phase: pipeline.Connecting, Since: d.started, Problem: *d.wait.Load()}
		return st
	}
	region.Memory = p.memoryStatus()
	st.Status = p.pipeline.Status()
	st.Reads = p.served.Load().reader.Stats()
	st.Refreshes = d.refresher.stats()
	if st.Insert > 0 {
		st.Source.InsertLSN = st.Insert.String()
	}
	if slot := st.Slot; slot.Exists {
		st.Source.RestartLSN, st.Source.WALStatus, st.Source.RetainedBytes = slot.Restart.String(), slot.WALStatus, slot.RetainedBytes
		st.Source.ConfirmedLSN, st.Source.ConfirmedBytes = slot.Confirmed.String(), behind(st.Insert, slot.Confirmed)
		if slot.SafeWALLimited {
			st.Source.SafeWALBytes = &slot.SafeWALSize
		}
	}
	if st.Received > 0 {
		st.Source.ReceivedLSN = st.Received.String()
	}
	if st.Status.Applied > 0 {
		region.AppliedLSN = st.Status.Applied.String()
		region.LagBytes = behind(st.Insert, st.Status.Applied)
		region.LagSeconds = lag(&st.Status).Seconds()
	}
	if bound, known := staleness(&st.Status); known {
		seconds := bound.Seconds()
		region.StalenessSeconds = &seconds
	}
	st.Objectives = d.objectives(&st.Status)
	stats := p.pipeline.Stats()
	region.LanesClosed, region.LanesBegun = stats.Closed.Load(), stats.Mended.Load()
	st.Applied = Applied{
		Transactions: stats.Transactions.Load(), Rows: p.pipeline.Rows().Load(), Batches: stats.Batches.Load(),
		Keys: stats.Keys.Load(), Unlinked: stats.Unlinked.Load(), Kept: stats.Kept.Load(), Moves: stats.Moves.Load(),
		Epochs: stats.Epochs.Load(), Ended: stats.Ended.Load(),
	}
	return st
}

func behind(end, at mvcc.LSN) int64 {
	if end <= at {
		return 0
	}
	return int64(end - at) //nolint:gosec // a difference of log positions
}

// lag is how long ago the oldest transaction that was read, may be visible and is not applied was committed, by the
// database's clock. One that hangs in synchronous replication is not visible, and nothing that is served lacks it.
func lag(st *pipeline.Status) time.Duration {
	if st.Oldest.IsZero() {
		return 0
	}
	return max(time.Since(st.Oldest), 0)
}

// staleness bounds how long ago what a cached value misses was committed. It is known only to the daemon that follows
// the log.
func staleness(st *pipeline.Status) (bound time.Duration, known bool) {
	if st.Phase == pipeline.Standby || st.Horizon.IsZero() {
		return 0, false
	}
	return time.Since(st.Horizon), true
}

// objectives judges every entry that declares max_staleness: its values expire soon enough by themselves, the store's
// bound is tight enough, or they come from the database, since the entry is suspended.
func (d *daemon) objectives(st *pipeline.Status) (all []Objective) {
	if st.Phase == pipeline.Standby {
		return nil
	}
	bound, known := staleness(st)
	file := d.file.Load()
	for name, e := range fill.Entries(file) {
		tolerated := file.Entries[name].MaxStaleness
		if tolerated == 0 {
			continue
		}
		suspended := slices.ContainsFunc(st.Entries, func(s pipeline.EntryStatus) bool { return s.Name == name && s.Retained == nil && s.Suspended != "" })
		expires := e.Backstop(len(file.Database.Replicas) > 0) <= tolerated
		all = append(all, Objective{
			Entry: name, Seconds: tolerated.Seconds(), Met: suspended || expires || known && bound+e.Keep() <= tolerated,
		})
	}
	slices.SortFunc(all, func(a, b Objective) int { return strings.Compare(a.Entry, b.Entry) })
	return all
}

const (
	// stuckAfter is how long the daemon may be connected, behind, and apply nothing before a restart is worth a try.
	stuckAfter = time.Minute
	// vouchFor is how far the store may be behind, and how long ago it may have been brought up to date last, while the
	// daemon vouches for it. An idle database moves it about once a second.
	vouchFor = 10 * time.Second
)

// Live fails only when the daemon is connected, behind, and does not get on. A database or a store that is away must
// not cause restarts.
func (d *daemon) Live() error {
	p := d.parts.Load()
	if p == nil {
		return nil
	}
	st := p.pipeline.Status()
	return live(&st)
}

func live(st *pipeline.Status) error {
	connected := st.Phase == pipeline.CatchingUp || st.Phase == pipeline.Streaming
	if connected && lag(st) > stuckAfter && time.Since(st.Since) > stuckAfter && time.Since(st.Progress) > stuckAfter {
		return fmt.Errorf("nothing was applied for %s although changes are waiting", time.Since(st.Progress).Round(time.Second))
	}
	return nil
}

// Ready fails while the store may not vouch for its freshness.
func (d *daemon) Ready() error {
	p := d.parts.Load()
	if p == nil {
		return errors.New("not started: " + *d.wait.Load())
	}
	st := p.pipeline.Status()
	return ready(&st)
}

func ready(st *pipeline.Status) error {
	switch {
	case st.Phase != pipeline.Streaming && st.Problem != "":
		return fmt.Errorf("%s: %s", st.Phase, st.Problem)
	case st.Phase != pipeline.Streaming:
		return fmt.Errorf("%s since %s", st.Phase, st.Since.Format(time.RFC3339))
	case lag(st) > vouchFor:
		return fmt.Errorf("%s behind: the oldest commit that is not applied is that old", lag(st).Round(time.Second))
	case time.Since(st.Horizon) > vouchFor && time.Since(st.Since) > vouchFor:
		return fmt.Errorf("the store %s: %s; reads that bound staleness go to the database", upToDate(st), stall(st))
	}
	return nil
}

// stall says what keeps the store from being known to be up to date.
func stall(st *pipeline.Status) string {
	switch {
	case time.Since(st.Progress) > vouchFor:
		return "nothing was written to it since then"
	case st.Insert > st.Received:
		return fmt.Sprintf("the log goes on to %s and was delivered up to %s", st.Insert, st.Received)
	}
	return "the end of the log is not reached"
}

func upToDate(st *pipeline.Status) string {
	if st.Horizon.IsZero() {
		return "is not known to be up to date"
	}
	return fmt.Sprintf("was last known to be up to date %s ago", time.Since(st.Horizon).Round(time.Second))
}
