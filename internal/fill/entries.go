package fill

import (
	"time"

	"github.com/freshet/freshet/internal/config"
)

// Followed is how far behind a daemon may be for standbys to be used.
const Followed = 2 * time.Second

// Entries are the entries of a configuration as a Reader needs them.
func Entries(c *config.Config) map[string]Entry {
	all := make(map[string]Entry, len(c.Entries))
	for _, declared := range c.Declared() {
		e := c.Entries[declared.Name]
		all[declared.Name] = Entry{
			Declared: declared, TTL: e.TTL, NegativeTTL: e.NegativeTTL, Jitter: e.TTLJitter.Fraction(), LoadTimeout: e.LoadTimeout,
			LoadUnproved: e.OnUnproved == config.UnprovedLoad, CompressAbove: int(e.CompressAbove),
			Policy: Policy{
				StaleFor: e.OnChange.For, StaleOnError: e.StaleOnError, SoftTimeout: e.SoftTimeout, Eager: shareOf(e.EagerRefresh),
				MaxLoads: loadsOf(e.MaxLoads), MaxValue: int(e.MaxValue),
			},
			Near: e.L1 != config.Off,
		}
	}
	return all
}

// shareOf is a percentage as a fraction, 0 of none.
func shareOf(p *config.Percent) float64 {
	if p == nil {
		return 0
	}
	return p.Fraction()
}

// Backstop is how long ago what a value misses may have been committed at most when nobody invalidates: its time to live,
// which begins when it is stored, the longest that a load under a lease may take until then, and, where standbys are, how far behind what
// was applied they may be used.
func (e *Entry) Backstop(standbys bool) time.Duration {
	longest := max(e.TTL, e.NegativeTTL) + e.LoadTimeout + leaseMargin
	if standbys {
		longest += Followed
	}
	return longest
}

func loadsOf(most *int) int {
	if most == nil {
		return 0
	}
	return *most
}
