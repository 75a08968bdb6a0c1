// Package freshetprom gives Prometheus what a freshet.Cache counts, and how long its reads and loads take:
//
//	cache, err := freshet.Open(ctx, freshet.Options{Observers: []freshet.Observer{freshetprom.Observer(registry)}})
//	registry.MustRegister(freshetprom.Collector(cache, nil))
//
// The names are those of the daemon's own metrics, and are listed in docs/metrics.md.
package freshetprom

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/internal/readmetrics"
)

// Source is something that counts reads, such as a *freshet.Cache.
type Source interface {
	Stats() freshet.Stats
}

// Collector reads the counts of a cache whenever Prometheus asks: reads, loads, fills and why there were none. Two caches of
// one process need labels that tell them apart; otherwise labels may be nil.
func Collector(source Source, labels prometheus.Labels) prometheus.Collector {
	return &collector{source: source, labels: labels}
}

type collector struct {
	source Source
	labels prometheus.Labels
}

func (c *collector) desc(m *readmetrics.Metric) *prometheus.Desc {
	var variable []string
	if m.Label != "" {
		variable = []string{m.Label}
	}
	return prometheus.NewDesc(m.Name, m.Help, variable, c.labels)
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, m := range readmetrics.All() {
		out <- c.desc(&m)
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	stats := readmetrics.Stats(c.source.Stats())
	for _, m := range readmetrics.All() {
		desc := c.desc(&m)
		m.Values(&stats, func(label string, n uint64) {
			var values []string
			if m.Label != "" {
				values = []string{label}
			}
			value, kind := float64(n), prometheus.CounterValue
			if m.Micro {
				value /= 1e6
			}
			if m.Gauge {
				kind = prometheus.GaugeValue
			}
			out <- prometheus.MustNewConstMetric(desc, kind, value, values...)
		})
	}
}

// Observer measures how long reads and loads take, in seconds: the histograms freshet_read_seconds, by entry and status (hit,
// miss, stale, revalidated, bypass; error where there was no answer), and freshet_load_seconds, by entry and outcome (found, missing,
// unchanged, error); of calls of GetMany freshet_many_seconds, by entry and outcome (ok, or error where any key failed), and the
// counter freshet_many_keys_total, by entry and by each key's status. It panics when the registerer has such metrics already: one Observer may serve several caches.
func Observer(registerer prometheus.Registerer) freshet.Observer {
	o := &observer{
		reads: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "freshet_read_seconds", Help: "Time to answer a read, by entry and by where the value came from.",
			Buckets: prometheus.ExponentialBuckets(0.000025, 3, 12), // 25 µs to 4.4 s
		}, []string{"entry", "status"}),
		loads: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "freshet_load_seconds", Help: "Time of a load from the database, the wait for its turn included, by entry and outcome.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2.5, 12), // 0.1 ms to 2.4 s
		}, []string{"entry", "outcome"}),
		many: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "freshet_many_seconds", Help: "Time to answer a read of many keys, by entry and by whether any of them failed.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2.5, 12), // 0.1 ms to 2.4 s
		}, []string{"entry", "outcome"}),
		keys: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "freshet_many_keys_total", Help: "Keys of reads of many, by entry and by where each value came from.",
		}, []string{"entry", "status"}),
	}
	registerer.MustRegister(o.reads, o.loads, o.many, o.keys)
	return o
}

type observer struct {
	reads, loads, many *prometheus.HistogramVec
	keys               *prometheus.CounterVec
}

// ManyStart implements freshet.ManyObserver.
func (*observer) ManyStart(ctx context.Context, _ string, _ int) context.Context { return ctx }

// ManyEnd implements freshet.ManyObserver.
func (o *observer) ManyEnd(_ context.Context, m freshet.ManyDone) {
	outcome := "ok"
	if m.Err != nil {
		outcome = "error"
	}
	o.many.WithLabelValues(m.Entry, outcome).Observe(m.Took.Seconds())
	for status, n := range m.Statuses {
		o.keys.WithLabelValues(m.Entry, status).Add(float64(n))
	}
	if m.Failed > 0 {
		o.keys.WithLabelValues(m.Entry, "error").Add(float64(m.Failed))
	}
}

// ReadStart implements freshet.Observer.
func (*observer) ReadStart(ctx context.Context, _ string) context.Context { return ctx }

// ReadEnd implements freshet.Observer.
func (o *observer) ReadEnd(_ context.Context, r freshet.ReadDone) {
	status := r.Status
	if r.Err != nil {
		status = "error"
	}
	o.reads.WithLabelValues(r.Entry, status).Observe(r.Took.Seconds())
}

// LoadStart implements freshet.Observer.
func (*observer) LoadStart(ctx context.Context, _ string) context.Context { return ctx }

// LoadEnd implements freshet.Observer.
func (o *observer) LoadEnd(_ context.Context, l freshet.LoadDone) {
	outcome := "found"
	switch {
	case l.Err != nil:
		outcome = "error"
	case l.Unchanged:
		outcome = "unchanged"
	case !l.Found:
		outcome = "missing"
	}
	o.loads.WithLabelValues(l.Entry, outcome).Observe(l.Took.Seconds())
}
