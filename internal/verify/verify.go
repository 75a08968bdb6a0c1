// Package verify compares what is cached with the database, under the protocol's own rule: a value that differs is a
// violation only if the store vouches for the change that it lacks.
//
// # The rule
//
// A record is read from the store, and then its truth from the primary, under a snapshot S; after that, a position P of
// the end of the log. If the two are equal the value is fresh. If not, the change may just be on its way. So verify waits
// until HEAD vouches for everything that S sees: until Wc is at or past P, or Sa sees whatever S sees. Then it looks
// once more. If the very same value, of the same fill, still lies under a name that is live, invariant I2 of
// docs/protocol.md is broken. If not, the value was in flight. All of this is done twice, the truth being loaded anew,
// before a violation is reported.
//
// # Why what it reports is a violation
//
// Let V be the record, read under coverage C, and let its payload be a function of the rows that C shows. V was stored,
// then read by verify, and then the statement began that took S. On one primary what was visible stays visible, so S
// sees whatever C sees (for a value that was loaded on a standby see below). The payloads differ, so there is a
// transaction x of an affected row that S sees and C does not. x committed before P was read, so it ends before P. When
// Wc is at or past P, or Sa sees x, x is confirmed. I2 says that from then on no live value under a live name lacks x. V
// is one: coverage, payload and the time of the fill are those that were read before, and the name is
// in the roster which HEAD named before and after the record was read.
//
// A standby may show a commit that the primary does not show yet, since that commit waits for synchronous replication.
// A value that was loaded there may thus be newer than S. For it, the first round also waits until Wc is at or past the
// position C; then everything in C is confirmed and so visible on the primary, and the truth of the second round
// contains it.
//
// The second round is there for that, and for a store that fails over between two of verify's reads: within one round
// HEAD could be read before the failover and the record, which had been removed, after it.
//
// # Why no violation escapes
//
// While nobody writes and the daemon runs, HEAD reaches P within a second. A value that differs and stays is then found,
// since every live record under a live name is looked at, its arguments are read back from its key, and both loads of the
// truth are equal. A stale value that goes, is replaced, or becomes right again before verify has seen it twice escapes,
// as it escapes readers that come later.
//
// # What cannot be judged
//
// An entry that code loads has no query: its values are counted as not verifiable, unless one is given. It has to say what
// the code does, or it makes violations of what is fresh. The order of rows is compared only
// where the query has an ORDER BY, and even then may be no function of the data: values that stay and differ in their
// order alone are counted as reordered, not as violations. When HEAD does not get there in time (no daemon runs, it is
// behind, or a commit hangs in synchronous replication) a value that differs and stays is counted as undecided.
package verify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/mvcc"
)

// Keys reads Redis. One goroutine uses it at a time.
type Keys interface {
	// Walk visits the names of all keys that match a pattern of Redis.
	Walk(ctx context.Context, pattern string, visit func(names []string) error) error
	// Read reads strings, in the order of the names.
	Read(ctx context.Context, names []string) ([]store.Held, error)
	// ReadHashes reads hashes, each as a JSON object with texts.
	ReadHashes(ctx context.Context, names []string) ([]store.Held, error)
}

// Reader reads a store that freshet keeps. One goroutine uses it at a time.
type Reader interface {
	Keys
	Head(ctx context.Context) (fence.Head, bool, error)
	Roster(ctx context.Context) ([]byte, bool, error)
}

// Truth asks the primary. It may be asked by several goroutines at a time.
type Truth interface {
	Load(ctx context.Context, sql string, result rule.Result, args []keytext.Arg) (pgload.Loaded, error)
	// Position is where the log ends now, and whose.
	Position(ctx context.Context) (pgload.Server, mvcc.LSN, error)
	// Describe fails when the database would refuse the query.
	Describe(ctx context.Context, sql string) (types []uint32, err error)
}

// Options say what to compare with what. Namespace, Store and Truth are needed.
type Options struct {
	Namespace string
	Store     Reader
	Truth     Truth
	Entries   []string         // only these; empty: all
	Queries   map[string]Query // of entries that code loads
	Sample    Sample           // zero: everything
	Rate      float64          // values per second; 0: as fast as it goes
	Wait      time.Duration    // how long HEAD may take to vouch for what a value lacks; default 10 s
	Loads     int              // loads at a time; default 4
	Progress  func(*Report)    // called now and then from Run's goroutine, with what is known so far
}

// Query is what a value that code loaded is compared with, as JSON values are: by what they are worth.
type Query struct {
	SQL    string   // with the parameters of the entry's key as @name
	Field  string   // compare with this column alone
	Ignore []string // fields of objects that are not compared
}

const (
	defaultWait  = 10 * time.Second
	defaultLoads = 4
	loadTimeout  = 10 * time.Second
	// pause is between two looks at what is not decided yet.
	pause = 20 * time.Millisecond
	// maxPending bounds what waits to be decided. Where more differs, the walk stands still.
	maxPending = 10_000
)

var (
	// ErrNoStore says that the store has nothing to compare: no daemon has published names in it.
	ErrNoStore = errors.New("the store has no HEAD or no roster: no daemon has run for this namespace, or it has just lost its data")
	// ErrNoEntry says that the roster has no entry of that name.
	ErrNoEntry = errors.New("the daemon has published no such entry")
	// ErrOtherDatabase says that the store is about another database than the one that was asked.
	ErrOtherDatabase = errors.New("the database is not the one whose log the store follows")
	// ErrNoTruth says that the database's answers cannot be compared.
	ErrNoTruth = errors.New("the database's answers cannot be compared")
)

// Run compares. It fails when it cannot begin; what ends it later is in Report.Stopped, with what was found until then.
func Run(ctx context.Context, o Options) (*Report, error) {
	o.Wait, o.Loads = cmp.Or(o.Wait, defaultWait), cmp.Or(o.Loads, defaultLoads)
	v := &verifier{Options: o, report: newReport(), meter: newMeter(o.Progress), pace: pacer{rate: o.Rate}}
	if err := v.begin(ctx); err != nil {
		return nil, err
	}
	v.report.Namespace, v.report.Generation = o.Namespace, v.names.generation
	err := v.walk(ctx)
	if err == nil {
		err = v.settle(ctx, 0)
	}
	for _, c := range v.pending {
		v.undecided(c, "verify ended before it could be judged")
	}
	v.report.end(ctx, err, v.meter.took())
	return v.report, nil
}

// verifier is one run.
type verifier struct {
	Options
	report  *Report
	meter   meter
	names   *names
	pending []*candidate
	looked  time.Time // when pending was looked at last
	pace    pacer
}

// begin holds the wanted entries against the roster.
func (v *verifier) begin(ctx context.Context) error {
	if _, err := v.inForce(ctx); err != nil {
		return err
	}
	for _, entry := range v.Entries {
		if !v.names.have(entry) {
			return fmt.Errorf("%s: %w", entry, ErrNoEntry)
		}
	}
	for _, l := range v.names.prefixes {
		if l.shape == nil {
			continue
		}
		if err := described(ctx, v.Truth, l.sql); err != nil {
			return fmt.Errorf("entry %s: %w", l.entry.Name, err)
		}
	}
	return nil
}
