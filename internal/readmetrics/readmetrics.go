// Package readmetrics is how what a reader counts is called, the same for the daemon's gateway and for applications, and for
// whoever exports it.
package readmetrics

import (
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/near"
)

// Stats are what a reader counts. The root package's convert to them.
type Stats = fill.Stats

// Metric is one of them, by its name in Prometheus.
type Metric struct {
	Name, Help string
	// Label tells the counts of Values apart; empty when there is one.
	Label string
	// Micro: what is counted are microseconds, and the name says seconds.
	Micro bool
	// Gauge: it is what there is now, and not a count since the reader was made.
	Gauge bool
	value func(s *fill.Stats) uint64
	many  func(s *fill.Stats) map[string]uint64
}

// Values yields the counts by the label's value, which is empty when there is no label.
func (m *Metric) Values(s *Stats, yield func(label string, n uint64)) {
	if m.Label == "" {
		yield("", m.value(s))
		return
	}
	for label, n := range m.many(s) {
		yield(label, n)
	}
}

// All are the metrics of a reader.
func All() []Metric {
	one := func(name, help string, value func(s *fill.Stats) uint64) Metric {
		return Metric{Name: name, Help: help, value: value}
	}
	many := func(name, help, label string, values func(s *fill.Stats) map[string]uint64) Metric {
		return Metric{Name: name, Help: help, Label: label, many: values}
	}
	micro := func(m Metric) Metric {
		m.Micro = true
		return m
	}
	held := func(name, help string, value func(s *near.Stats) uint64) Metric {
		return Metric{Name: name, Help: help, Gauge: true, value: func(s *fill.Stats) uint64 {
			if s.L1 == nil {
				return 0
			}
			return value(s.L1)
		}}
	}
	return []Metric{
		one("freshet_reads_hit_total", "Reads served from the cache.", func(s *fill.Stats) uint64 { return s.Hits }),
		one("freshet_reads_hit_l1_total", "Of them, served from the memory of the process.", func(s *fill.Stats) uint64 { return s.HitsL1 }),
		one("freshet_reads_miss_total", "Reads that found nothing live, or nothing that was shown to be what they asked for.", func(s *fill.Stats) uint64 { return s.Misses }),
		one("freshet_loads_total", "Statements sent to the database.", func(s *fill.Stats) uint64 { return s.Loads }),
		one("freshet_load_errors_total", "Of them, failed.", func(s *fill.Stats) uint64 { return s.LoadErrors }),
		one("freshet_fills_total", "Loaded values that the store took.", func(s *fill.Stats) uint64 { return s.Fills }),
		one("freshet_waits_total", "Reads that waited for another's load.", func(s *fill.Stats) uint64 { return s.Waits }),
		one("freshet_joins_total", "Of them, served by a load of this process.", func(s *fill.Stats) uint64 { return s.Joins }),
		one("freshet_replies_dropped_total", "Replies of the store that were dropped because names were not confirmed any more.", func(s *fill.Stats) uint64 { return s.Dropped }),
		one("freshet_reads_unproven_total", "Cached values that could not be shown to meet what a read asked for.", func(s *fill.Stats) uint64 { return s.Unproven }),
		one("freshet_records_corrupt_total", "Records that were not readable.", func(s *fill.Stats) uint64 { return s.Corrupt }),
		one("freshet_revalidations_total", "Loads that compared a cached value with the database's.", func(s *fill.Stats) uint64 { return s.Revalidations }),
		one("freshet_revalidations_unchanged_total", "Of them, those that found the same value.", func(s *fill.Stats) uint64 { return s.Unchanged }),
		one("freshet_renewals_total", "Fills for which no value had to be sent to the store.", func(s *fill.Stats) uint64 { return s.Renewals }),
		one("freshet_reads_epoch_ended_total", "Live values that were found with epochs that have ended.", func(s *fill.Stats) uint64 { return s.Ended }),
		one("freshet_epochs_pinned_total", "Loads whose epochs were looked up, or made.", func(s *fill.Stats) uint64 { return s.Pins }),
		one("freshet_refreshes_total", "Loads that writers asked for after their commit.", func(s *fill.Stats) uint64 { return s.Refreshes }),
		one("freshet_refreshes_stored_total", "Of them, stored.", func(s *fill.Stats) uint64 { return s.Refreshed }),
		micro(one(
			"freshet_stale_age_seconds_total", "How long ago the stale values that were served had been invalidated, all together.",
			func(s *fill.Stats) uint64 { return s.StaleMicroseconds },
		)),
		one("freshet_loads_overloaded_total", "Loads that were not sent since too many were under way.", func(s *fill.Stats) uint64 { return s.Overloaded }),
		one("freshet_loads_eager_total", "Loads of values whose time was nearly over.", func(s *fill.Stats) uint64 { return s.Eager }),
		one("freshet_loads_eager_stored_total", "Of them, stored.", func(s *fill.Stats) uint64 { return s.EagerStored }),
		one("freshet_loads_eager_skipped_total", "Such loads that were not begun since too many were under way.", func(s *fill.Stats) uint64 { return s.EagerSkipped }),
		one("freshet_database_breaker_opened_total", "How often the database had failed to answer so many loads that no more were sent for a while.", func(s *fill.Stats) uint64 { return s.Database.Opened }),
		one("freshet_database_breaker_refused_total", "Loads that were not sent meanwhile.", func(s *fill.Stats) uint64 { return s.Database.Refused }),
		many("freshet_reads_stale_total", "Reads that were given a stale value, by cause.", "cause", func(s *fill.Stats) map[string]uint64 { return s.Stale }),
		many("freshet_fills_refused_total", "Loaded values that were not stored, by reason.", "reason", func(s *fill.Stats) map[string]uint64 { return s.Refused }),
		many("freshet_reads_bypass_total", "Reads that went to the database past the cache, by reason.", "reason", func(s *fill.Stats) map[string]uint64 { return s.Bypassed }),
		many(
			"freshet_l1_records_total", "Records in the memory of the process: put there, refused since they had changed meanwhile, and what ended them.",
			"event", func(s *fill.Stats) map[string]uint64 { return near.Events(s.L1) },
		),
		held("freshet_l1_held_records", "Records in the memory of the process now.", func(s *near.Stats) uint64 { return s.Records }),
		held("freshet_l1_held_bytes", "What they take, by an estimate that counts decoded values in.", func(s *near.Stats) uint64 { return s.Bytes }),
		many(
			"freshet_replica_loads_total", "Loads that a replica might have had, by what became of that: used, or loaded from the primary after all.",
			"outcome", func(s *fill.Stats) map[string]uint64 { return s.Replicas },
		),
	}
}
