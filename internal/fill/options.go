package fill

import (
	"log/slog"
	"time"

	"github.com/freshet/freshet/internal/near"
	"github.com/freshet/freshet/internal/rule"
)

// Entry is a declared entry and how long its values stay.
type Entry struct {
	Declared    rule.Declared
	TTL         time.Duration
	NegativeTTL time.Duration
	Jitter      float64 // share of a TTL that is random; it only shortens
	LoadTimeout time.Duration
	// LoadUnproved has a read load a cached value anew that it cannot be shown to meet its demand, instead of comparing it with
	// the database's.
	LoadUnproved bool
	// CompressAbove has values of more bytes than that compressed, where the store does so. 0: none are.
	CompressAbove int
	// Near has values held in the memory of this process, where the Reader has room for any, and of others.
	Near bool
	Policy
}

// Options say what to read and from where. Store, Loader and Entries are needed.
type Options struct {
	Namespace string
	Store     Store
	Loader    Loader
	Entries   map[string]Entry
	Logger    *slog.Logger // nil: none
	MaxLoads  int          // loads at a time; default 32, or as many as Loader and Replicas can run (Runs), if they tell and it is less
	Observer  Observer     // hears of loads; nil: nobody does
	Replicas  []Replica    // standbys that loads may go to; none: all go to Loader
	// Followed is how long ago what HEAD does not vouch for yet may have been committed, for a load to go to a standby: while no
	// daemon applies anything, no floor tells one that is behind. Default: Followed. Below 0: it does not matter.
	Followed time.Duration
	// Clock is what staleness is bounded by: monotonic, and going on while the machine sleeps. nil: the system's.
	Clock func() time.Duration
	// Near holds values in memory. Store has to be one that Tells, and to tell it of changes. nil: every read asks Store.
	Near *near.Store
	// Patience is how long Store may take for what readers wait for. 0: confirmTimeout and fillTimeout.
	Patience time.Duration
}

const (
	defaultLoads       = 32
	defaultLoadTimeout = 2 * time.Second
	defaultTTL         = time.Hour
	defaultNegativeTTL = 30 * time.Second
)

// Runs is a Loader, or a Replica, that can run so many loads at a time. More of them would wait for each other there, where nobody can tell that
// from a database that does not answer.
type Runs interface{ Most() int }

// loads is how many loads are let run at a time.
func (o *Options) loads() int {
	if o.MaxLoads != 0 {
		return o.MaxLoads
	}
	runs, ok := o.Loader.(Runs)
	if !ok {
		return defaultLoads
	}
	most := runs.Most()
	for _, r := range o.Replicas {
		if runs, ok := r.(Runs); ok {
			most += runs.Most()
		}
	}
	return min(most, defaultLoads)
}
