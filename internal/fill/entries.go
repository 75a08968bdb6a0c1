package fill

import "github.com/freshet/freshet/internal/config"

// Entries are the entries of a configuration as a Reader needs them.
func Entries(c *config.Config) map[string]Entry {
	all := make(map[string]Entry, len(c.Entries))
	for _, declared := range c.Declared() {
		e := c.Entries[declared.Name]
		all[declared.Name] = Entry{
			Declared: declared, TTL: e.TTL, NegativeTTL: e.NegativeTTL, Jitter: e.TTLJitter.Fraction(), LoadTimeout: e.LoadTimeout,
		}
	}
	return all
}
