package pipeline

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/freshet/freshet/internal/apply"
	"github.com/freshet/freshet/internal/pgsource"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/mvcc"
)

// Phase is what the pipeline is doing.
type Phase string

// The phases of a pipeline.
const (
	Connecting   Phase = "connecting"    // to the store and the database, or between two attempts
	Standby      Phase = "standby"       // another daemon holds the slot
	CreatingSlot Phase = "creating_slot" // which waits for every transaction that is open
	Starting     Phase = "starting"      // taking the stream up
	CatchingUp   Phase = "catching_up"
	Streaming    Phase = "streaming"
	Stopped      Phase = "stopped"
)

// Status is what the pipeline says of itself at one moment.
type Status struct {
	Phase      Phase             `json:"phase"`
	Since      time.Time         `json:"since"`
	Problem    string            `json:"problem,omitempty"` // why it is not streaming
	Namespace  string            `json:"namespace,omitempty"`
	System     string            `json:"system_identifier,omitempty"`
	Timeline   uint32            `json:"timeline,omitempty"`
	Generation string            `json:"generation,omitempty"`
	Term       string            `json:"term,omitempty"`
	Revision   uint64            `json:"roster_revision,omitempty"`
	Gaps       uint64            `json:"gaps"`
	LastGap    string            `json:"last_gap,omitempty"`
	LastGapAt  *time.Time        `json:"last_gap_at,omitempty"`
	Reconnects uint64            `json:"reconnects"`
	Received   mvcc.LSN          `json:"-"`
	Applied    mvcc.LSN          `json:"-"`
	Confirmed  mvcc.LSN          `json:"-"`
	Insert     mvcc.LSN          `json:"-"`
	Progress   time.Time         `json:"-"` // when a batch was last applied
	Horizon    time.Time         `json:"-"` // when the database was last as the store vouches for it; zero: not since this process began
	Oldest     time.Time         `json:"-"` // commit of the oldest transaction that was read, is not applied and may be visible; zero: none
	Slot       pgsource.SlotInfo `json:"-"`
	Waiting    int64             `json:"waiting_parts"` // batches that hold a commit which is not visible yet
	Intents    Intents           `json:"intents"`
	DDL        uint64            `json:"ddl_messages"` // statements that an event trigger told of, and that concerned a table of an entry
	Entries    []EntryStatus     `json:"entries,omitempty"`
	Admission  string            `json:"admission,omitempty"` // what new tables wait for
}

// Intents count the messages in which transactions said themselves what they affect.
type Intents struct {
	Read        uint64 `json:"read"`
	Undecodable uint64 `json:"undecodable"`   // each moved the names of the entries that it may have meant
	Unknown     uint64 `json:"unknown_entry"` // named an entry that the daemon does not have
}

// EntryStatus is a version of an entry in the roster.
type EntryStatus struct {
	Name       string `json:"name"`
	Version    string `json:"version"`
	Activation string `json:"activation"`
	Definition string `json:"definition,omitempty"` // digest of what it was planned from
	Key        string `json:"key,omitempty"`        // its template
	Suspended  string `json:"suspended,omitempty"`
	// Retained is since when the daemon's file does not declare this version; absent: it does.
	Retained *time.Time `json:"retained,omitempty"`
	LastUsed *time.Time `json:"last_used,omitempty"` // of a retained version: when a registration was last seen
	UsedBy   string     `json:"used_by,omitempty"`   // and whose; any client may write it
}

// StatusOf is what a roster says of a version.
func StatusOf(e *rule.Entry) EntryStatus {
	st := EntryStatus{
		Name: e.Name, Version: e.Version, Activation: e.Activation, Definition: e.Definition, Key: e.Key, Suspended: e.Suspended,
	}
	if e.Retained != 0 {
		since := time.UnixMicro(e.Retained)
		st.Retained = &since
	}
	return st
}

// SortEntries sorts by name, and puts the version that the file declares before those that are retained.
func SortEntries(entries []EntryStatus) {
	slices.SortFunc(entries, func(a, b EntryStatus) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(b.since(), a.since()))
	})
}

// since orders the versions of an entry: the file's own first, then the one that was retained last.
func (e *EntryStatus) since() int64 {
	if e.Retained == nil {
		return math.MaxInt64
	}
	return e.Retained.UnixMicro()
}

// keepUse carries over who was seen to use a version.
func (e *EntryStatus) keepUse(before []EntryStatus) {
	for i := range before {
		if b := &before[i]; e.Retained != nil && b.Name == e.Name && b.Definition == e.Definition {
			e.LastUsed, e.UsedBy = b.LastUsed, b.UsedBy
		}
	}
}

// state is the part of Status that the pipeline's goroutines write.
type state struct {
	mu       sync.Mutex
	status   Status
	apply    apply.Stats
	received atomic.Uint64
	queue    atomic.Pointer[apply.Queue] // of the session that is following the log
	rows     atomic.Uint64
	intents  intents
	ddl      atomic.Uint64
}

func (s *state) update(change func(st *Status)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.status.Phase
	change(&s.status)
	if s.status.Phase != before {
		s.status.Since = time.Now()
	}
}

func (s *state) read() Status {
	s.mu.Lock()
	st := s.status
	s.mu.Unlock()
	st.Received = mvcc.LSN(s.received.Load())
	st.Applied = mvcc.LSN(s.apply.Wc.Load())
	st.Confirmed = mvcc.LSN(s.apply.Confirmed.Load())
	st.Waiting = s.apply.Waiting.Load()
	st.Intents = Intents{
		Read: s.intents.read.Load(), Undecodable: s.intents.undecodable.Load(), Unknown: s.intents.unknown.Load(),
	}
	st.DDL = s.ddl.Load()
	st.Progress = moment(s.apply.Applied.Load())
	if h := s.apply.Horizon.Load(); h != nil {
		st.Horizon = *h
	}
	if q := s.queue.Load(); q != nil {
		if st.Oldest = moment(s.apply.Oldest.Load()); st.Oldest.IsZero() {
			st.Oldest = moment(q.Oldest())
		}
	}
	return st
}

// moment is a time in Unix microseconds, 0 none.
func moment(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micros)
}
