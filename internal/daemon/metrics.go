package daemon

import (
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/freshetprom"
	"github.com/freshet/freshet/internal/pipeline"
)

// metrics are what GET /metrics shows besides the gateway's requests. Nearly all are read from the status when they
// are asked for.
type metrics struct {
	latency prometheus.Histogram
}

func newMetrics(registry *prometheus.Registry, d *daemon) *metrics {
	m := &metrics{latency: prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "freshet_commit_to_applied_seconds",
		Help:    "From a transaction's commit, by the database's clock, until it is applied to the store.",
		Buckets: prometheus.ExponentialBuckets(0.0005, 2, 18), // 0.5 ms to 65 s
	})}
	registry.MustRegister(m.latency, &collector{d: d}, freshetprom.Collector(reads{d}, nil))
	return m
}

// applied counts a transaction that was applied.
func (m *metrics) applied(committed time.Time) {
	m.latency.Observe(max(time.Since(committed), 0).Seconds())
}

// reads are what the gateway's reader counts.
type reads struct{ d *daemon }

// Stats implements freshetprom.Source.
func (r reads) Stats() freshet.Stats { return freshet.Stats(r.d.status().Reads) }

// collector turns the status into metrics.
type collector struct{ d *daemon }

type figure struct {
	name, help string
	kind       prometheus.ValueType
	value      func(st *Status) float64
}

func figures() []figure {
	const count, gauge = prometheus.CounterValue, prometheus.GaugeValue
	flag := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	return []figure{
		{"freshet_transactions_applied_total", "Transactions applied to the store.", count, func(st *Status) float64 { return float64(st.Applied.Transactions) }},
		{"freshet_rows_routed_total", "Changed rows read from the log and routed.", count, func(st *Status) float64 { return float64(st.Applied.Rows) }},
		{"freshet_batches_applied_total", "Batches applied to the store.", count, func(st *Status) float64 { return float64(st.Applied.Batches) }},
		{"freshet_keys_invalidated_total", "Keys invalidated, cached or not.", count, func(st *Status) float64 { return float64(st.Applied.Keys) }},
		{"freshet_records_invalidated_total", "Invalidated keys whose value was removed.", count, func(st *Status) float64 { return float64(st.Applied.Unlinked) }},
		{"freshet_records_kept_total", "Invalidated keys whose value contained the change already.", count, func(st *Status) float64 { return float64(st.Applied.Kept) }},
		{"freshet_epochs_invalidated_total", "Epochs that changes ended, cached or not; in a cluster once for each lane.", count, func(st *Status) float64 { return float64(st.Applied.Epochs) }},
		{"freshet_epochs_ended_total", "Of them, those that were there, with the values that were tied to them.", count, func(st *Status) float64 { return float64(st.Applied.Ended) }},
		{"freshet_version_moves_total", "Entries renamed because a change could not be mapped to their keys.", count, func(st *Status) float64 { return float64(st.Applied.Moves) }},
		{"freshet_intents_total", "Messages in which transactions named keys themselves.", count, func(st *Status) float64 { return float64(st.Intents.Read) }},
		{"freshet_intents_undecodable_total", "Of them, not readable; each renamed the entries that it may have meant.", count, func(st *Status) float64 { return float64(st.Intents.Undecodable) }},
		{"freshet_intents_unknown_entry_total", "Of them, for an entry that the daemon does not have.", count, func(st *Status) float64 { return float64(st.Intents.Unknown) }},
		{"freshet_ddl_messages_total", "Statements that the event trigger told of, and that concerned a table of an entry.", count, func(st *Status) float64 { return float64(st.DDL) }},
		{"freshet_gaps_total", "Gaps in the stream; each began a new generation.", count, func(st *Status) float64 { return float64(st.Gaps) }},
		{"freshet_reconnects_total", "Times that the stream had to be taken up again.", count, func(st *Status) float64 { return float64(st.Reconnects) }},
		{"freshet_streaming", "1 while the log is followed and caught up with.", gauge, func(st *Status) float64 { return flag(st.Phase == pipeline.Streaming) }},
		{"freshet_fresh", "1 while the store vouches for what it serves.", gauge, func(st *Status) float64 { return flag(st.Regions[0].Fresh) }},
		{"freshet_applied_lag_bytes", "Log written and not applied.", gauge, func(st *Status) float64 { return float64(st.Regions[0].LagBytes) }},
		{"freshet_applied_lag_seconds", "Age of the oldest commit that was read from the log, may be visible and is not applied.", gauge, func(st *Status) float64 { return st.Regions[0].LagSeconds }},
		{"freshet_confirmed_lag_bytes", "Log written and not yet confirmed to the slot.", gauge, func(st *Status) float64 { return float64(st.Source.ConfirmedBytes) }},
		{"freshet_slot_retained_bytes", "Log that the server keeps for the slot.", gauge, func(st *Status) float64 { return float64(st.Source.RetainedBytes) }},
		{"freshet_waiting_parts", "Batches that hold a commit which is not yet visible on the primary.", gauge, func(st *Status) float64 { return float64(st.Waiting) }},
		{"freshet_lanes_closed", "Lanes of a Redis Cluster that are lost now; their keys are read from the database.", gauge, func(st *Status) float64 { return float64(st.Regions[0].LanesClosed) }},
		{"freshet_lanes_begun_total", "Lanes of a Redis Cluster that were lost, by a failover or a moved slot, and begun anew.", count, func(st *Status) float64 { return float64(st.Regions[0].LanesBegun) }},
		{"freshet_retained_versions", "Versions of entries that only libraries with another file use.", gauge, retainedVersions},
		{"freshet_file_refused", "1 while the file, when it was read again last, was not applied: the one before it is in force.", gauge, func(st *Status) float64 { return flag(st.FileRefused != nil) }},
		{"freshet_database_breaker_open", "1 while the gateway's loads are refused since the database did not answer the last ones.", gauge, func(st *Status) float64 { return flag(st.Reads.Database.Open) }},
	}
}

// memoryFigures are of a store in the daemon's own memory.
func memoryFigures() []struct {
	name, help string
	kind       prometheus.ValueType
	value      func(m *MemoryStatus) float64
} {
	return []struct {
		name, help string
		kind       prometheus.ValueType
		value      func(m *MemoryStatus) float64
	}{
		{"freshet_memory_bytes", "What the store in the daemon's own memory takes.", prometheus.GaugeValue, func(m *MemoryStatus) float64 { return float64(m.Bytes) }},
		{"freshet_memory_size_bytes", "What it may take.", prometheus.GaugeValue, func(m *MemoryStatus) float64 { return float64(m.SizeBytes) }},
		{"freshet_memory_records", "Records and epochs in it.", prometheus.GaugeValue, func(m *MemoryStatus) float64 { return float64(m.Records) }},
		{"freshet_memory_evicted_total", "Of them, given up for want of room.", prometheus.CounterValue, func(m *MemoryStatus) float64 { return float64(m.Evicted) }},
	}
}

// retainedVersions counts the versions that are served besides those of the daemon's file.
func retainedVersions(st *Status) (n float64) {
	for i := range st.Entries {
		if st.Entries[i].Retained != nil {
			n++
		}
	}
	return n
}

// Describe sends the descriptions.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, f := range figures() {
		out <- prometheus.NewDesc(f.name, f.help, nil, nil)
	}
	for _, f := range memoryFigures() {
		out <- prometheus.NewDesc(f.name, f.help, nil, nil)
	}
	out <- suspendedDesc()
	out <- safeDesc()
	out <- stalenessDesc()
	out <- objectiveDesc()
	out <- refreshDesc()
}

// Collect sends the values.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	st := c.d.status()
	for _, f := range figures() {
		out <- prometheus.MustNewConstMetric(prometheus.NewDesc(f.name, f.help, nil, nil), f.kind, f.value(&st))
	}
	if m := st.Regions[0].Memory; m != nil {
		for _, f := range memoryFigures() {
			out <- prometheus.MustNewConstMetric(prometheus.NewDesc(f.name, f.help, nil, nil), f.kind, f.value(m))
		}
	}
	for _, e := range st.Entries {
		if e.Retained != nil {
			continue // one of several versions
		}
		value := 0.0
		if e.Suspended != "" {
			value = 1
		}
		out <- prometheus.MustNewConstMetric(suspendedDesc(), prometheus.GaugeValue, value, e.Name)
	}
	if st.Source.SafeWALBytes != nil {
		out <- prometheus.MustNewConstMetric(safeDesc(), prometheus.GaugeValue, float64(*st.Source.SafeWALBytes))
	}
	if st.Phase != pipeline.Standby {
		bound := math.Inf(1)
		if known := st.Regions[0].StalenessSeconds; known != nil {
			bound = *known
		}
		out <- prometheus.MustNewConstMetric(stalenessDesc(), prometheus.GaugeValue, bound, st.Regions[0].Name)
	}
	for _, o := range st.Objectives {
		met := 0.0
		if o.Met {
			met = 1
		}
		out <- prometheus.MustNewConstMetric(objectiveDesc(), prometheus.GaugeValue, met, o.Entry)
	}
	for outcome, n := range st.Refreshes.byOutcome() {
		out <- prometheus.MustNewConstMetric(refreshDesc(), prometheus.CounterValue, float64(n), outcome)
	}
}

func suspendedDesc() *prometheus.Desc {
	return prometheus.NewDesc("freshet_entry_suspended", "1 while the entry is out of the cache.", []string{"entry"}, nil)
}

func safeDesc() *prometheus.Desc {
	return prometheus.NewDesc("freshet_slot_safe_wal_bytes", "Log that may be written before the slot is lost, where a limit is set.", nil, nil)
}

func stalenessDesc() *prometheus.Desc {
	return prometheus.NewDesc("freshet_staleness_bound_seconds",
		"How long ago what a cached value misses was committed at most; +Inf when that is not known. A standby has none.", []string{"region"}, nil)
}

func objectiveDesc() *prometheus.Desc {
	return prometheus.NewDesc("freshet_entry_objective_met", "1 while an entry's values are no staler than its max_staleness.", []string{"entry"}, nil)
}

func refreshDesc() *prometheus.Desc {
	return prometheus.NewDesc("freshet_changes_refreshed_total", "Invalidated values of entries with on_change: refresh, by what became of them.", []string{"outcome"}, nil)
}
