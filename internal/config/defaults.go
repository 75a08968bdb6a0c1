package config

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/freshet/freshet/internal/rule"
)

// What a file leaves open. The tags of the structs repeat these for readers; a test holds the two together.
const (
	DefaultListen      = "127.0.0.1:7780"
	defaultTTL         = time.Hour
	defaultJitter      = Percent(10)
	defaultNegativeTTL = 30 * time.Second
	defaultLoadTimeout = 2 * time.Second
	defaultMaxValue    = Size(64 << 20)
	defaultName        = "freshet" // of the slot and of the publication
	defaultRewindTime  = 30 * time.Second
	defaultRewindWAL   = Size(256 << 20)
	defaultMemory      = Size(256 << 20)
	defaultL1          = Room(64 << 20)
)

// withDefaults is a copy in which nothing is left open.
func (c *Config) withDefaults() *Config {
	full := *c
	full.Listen = cmp.Or(full.Listen, DefaultListen)
	full.Regions = slices.Clone(full.Regions)
	if full.InMemory() {
		full.Memory.Size = cmp.Or(full.Memory.Size, defaultMemory)
	}
	if full.Source.Postgres != nil {
		pg := *full.Source.Postgres
		pg.URL = cmp.Or(pg.URL, full.Database.URL)
		pg.Slot = cmp.Or(pg.Slot, defaultName)
		pg.Publication = cmp.Or(pg.Publication, defaultName)
		pg.Rewind.Time = cmp.Or(pg.Rewind.Time, defaultRewindTime)
		pg.Rewind.WAL = cmp.Or(pg.Rewind.WAL, defaultRewindWAL)
		full.Source.Postgres = &pg
	}
	full.L1.Size = cmp.Or(full.L1.Size, defaultL1)
	d := &full.Defaults
	d.TTL = cmp.Or(d.TTL, defaultTTL)
	d.NegativeTTL = cmp.Or(d.NegativeTTL, defaultNegativeTTL)
	d.LoadTimeout = cmp.Or(d.LoadTimeout, defaultLoadTimeout)
	d.OnUnproved = cmp.Or(d.OnUnproved, UnprovedRevalidate)
	d.MaxValue = cmp.Or(d.MaxValue, defaultMaxValue)
	d.TTLJitter = orPercent(d.TTLJitter, new(defaultJitter))
	full.Entries = maps.Clone(full.Entries)
	for name, e := range full.Entries {
		e.TTL = cmp.Or(e.TTL, d.TTL)
		e.NegativeTTL = cmp.Or(e.NegativeTTL, d.NegativeTTL)
		if e.DependsOnTime != nil && e.DependsOnTime.MaxAge > 0 {
			e.TTL, e.NegativeTTL = min(e.TTL, e.DependsOnTime.MaxAge), min(e.NegativeTTL, e.DependsOnTime.MaxAge)
		}
		e.LoadTimeout = cmp.Or(e.LoadTimeout, d.LoadTimeout)
		e.OnUnproved = cmp.Or(e.OnUnproved, d.OnUnproved)
		e.MaxValue = cmp.Or(e.MaxValue, d.MaxValue)
		e.TTLJitter = orPercent(e.TTLJitter, d.TTLJitter)
		e.L1 = cmp.Or(e.L1, On)
		e.Result = cmp.Or(e.Result, rule.One)
		e.OnChange.Kind = cmp.Or(e.OnChange.Kind, Drop)
		full.Entries[name] = e
	}
	return &full
}

// orPercent is the first of the two that is given; 0% is given.
func orPercent(p, fallback *Percent) *Percent {
	if p != nil {
		return p
	}
	return new(*fallback)
}
