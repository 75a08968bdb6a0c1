package cli

import (
	"fmt"
	"time"

	"github.com/freshet/freshet/internal/config"
	"github.com/freshet/freshet/internal/fill"
)

// meets says whether a strategy meets an entry's max_staleness, and why or under what condition.
type meets struct {
	Strategy string `json:"strategy"` // ttl, log, write_through, bounded_reads or revalidation
	Meets    bool   `json:"meets"`
	Why      string `json:"why"`
}

// objective says which strategies give what an entry's readers tolerate, and the longest TTL that does by itself.
func (f *entryFacts) objective(c *config.Config, name string) {
	tolerated := c.Entries[name].MaxStaleness
	if tolerated == 0 {
		return
	}
	e := fill.Entries(c)[name]
	backstop := e.Backstop(len(c.Database.Replicas) > 0)
	other := backstop - max(e.TTL, e.NegativeTTL) // what a load may take, and a standby be behind
	longest := tolerated - other
	ttl := meets{Strategy: "ttl", Meets: backstop <= tolerated}
	before := fmt.Sprintf("a load alone may take %s, of which load_timeout is %s", other, e.LoadTimeout)
	if len(c.Database.Replicas) > 0 {
		before += fmt.Sprintf(" and %s what a standby may be behind", fill.Followed)
	}
	switch {
	case ttl.Meets:
		ttl.Why = fmt.Sprintf("a value is gone %s after what it misses was committed, whatever happens", backstop)
	case longest < time.Millisecond:
		ttl.Why = "no TTL does: " + before
	default:
		ttl.Why = fmt.Sprintf("ttl and negative_ttl would have to be %s at most, since a load may take %s before they begin", longest, other)
	}
	if longest >= time.Millisecond {
		f.LongestTTL = longest.String()
	}
	// What is served stale after an invalidation comes on top of how late that is.
	behind := tolerated - e.Keep()
	log := meets{"log", true, fmt.Sprintf("while a daemon runs and freshet_staleness_bound_seconds is below %g", behind.Seconds())}
	through := meets{"write_through", false, "it knows only of writers that take part"}
	if f.Strategy == "intents" {
		log.Meets, log.Why = false, "no change of a table affects the entry"
		through.Why = "it does for writers that take part, under the log's condition; no other change is known"
	}
	bounded := fmt.Sprintf("a read with MaxStale(%s) asks the database when the cache cannot prove it", tolerated)
	revalidation := "a read with Revalidate(), or no-cache, asks the database each time, which sends only what has changed"
	if f.Strategy == "ttl" {
		log.Meets, log.Why = false, "covers is none: what the value is made of is not in the log"
		through.Why = "it does for writers that take part, under the log's condition; no other change is known"
		bounded, revalidation = "covers is none: a read with a bound loads each time", "covers is none: it loads each time"
	}
	f.Strategies = []meets{
		ttl, log, through,
		{"bounded_reads", true, bounded},
		{"revalidation", true, revalidation},
	}
	f.Meets = fmt.Sprintf("met by the log while a daemon runs and is less than %s behind", behind)
	if f.Strategy == "intents" {
		f.Meets = fmt.Sprintf("met for changes with an intent while a daemon runs and is less than %s behind, for others only by a TTL that does", behind)
	}
	if f.Strategy == "ttl" {
		f.Meets = "met only by a TTL that does: the value covers nothing of the database"
	}
	if ttl.Meets {
		f.Meets = "met by the TTL alone"
	}
}
