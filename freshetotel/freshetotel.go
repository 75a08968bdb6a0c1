// Package freshetotel gives OpenTelemetry what a freshet.Cache does. A read, or one of many keys, is a span with its status, linked to the span of the
// load by which its value came; how long they take are histograms; what the cache counts are counters:
//
//	observer, err := freshetotel.Observer(freshetotel.Options{})
//	cache, err := freshet.Open(ctx, freshet.Options{Observers: []freshet.Observer{observer}})
//	stop, err := freshetotel.Count(cache, freshetotel.Options{})
//
// The names are listed in docs/metrics.md.
package freshetotel

import (
	"context"
	"fmt"
	"strings"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/internal/readmetrics"
)

// scope is the name under which everything is made.
const scope = "github.com/freshet/freshet/freshetotel"

// Options say where to send it. The zero Options use the process's own providers (package otel).
type Options struct {
	// TracerProvider makes the spans. Default: otel.GetTracerProvider().
	TracerProvider trace.TracerProvider
	// MeterProvider makes the metrics. Default: otel.GetMeterProvider().
	MeterProvider metric.MeterProvider
	// Attributes are put on every span and measurement, such as what tells two caches of one process apart. Default: none.
	Attributes []attribute.KeyValue
}

func (o *Options) meter() metric.Meter {
	if o.MeterProvider == nil {
		return otel.GetMeterProvider().Meter(scope)
	}
	return o.MeterProvider.Meter(scope)
}

func (o *Options) tracer() trace.Tracer {
	if o.TracerProvider == nil {
		return otel.GetTracerProvider().Tracer(scope)
	}
	return o.TracerProvider.Tracer(scope)
}

// Observer makes the spans freshet.read, freshet.GetMany (one for a call, linked to each load that values came by) and
// freshet.load, the histograms freshet.read.duration, freshet.many.duration and freshet.load.duration, in seconds, and the counter
// freshet.many.keys. A load is a span of its own trace, since several reads may wait for it and it may outlive the one that began it; it
// has a link to that one, and each read that had its value from it has a link to the load. An error means that the
// MeterProvider refuses a histogram.
func Observer(options Options) (freshet.Observer, error) {
	o := &observer{tracer: options.tracer(), attributes: options.Attributes}
	var err error
	if o.reads, err = options.meter().Float64Histogram("freshet.read.duration", metric.WithUnit("s"),
		metric.WithDescription("Time to answer a read, by entry and by where the value came from.")); err != nil {
		return nil, fmt.Errorf("freshetotel: %w", err)
	}
	if o.loads, err = options.meter().Float64Histogram("freshet.load.duration", metric.WithUnit("s"),
		metric.WithDescription("Time of a load from the database, the wait for its turn included, by entry and outcome.")); err != nil {
		return nil, fmt.Errorf("freshetotel: %w", err)
	}
	if o.many, err = options.meter().Float64Histogram("freshet.many.duration", metric.WithUnit("s"),
		metric.WithDescription("Time to answer a read of many keys, by entry and by whether any of them failed.")); err != nil {
		return nil, fmt.Errorf("freshetotel: %w", err)
	}
	if o.keys, err = options.meter().Int64Counter("freshet.many.keys",
		metric.WithDescription("Keys of reads of many, by entry and by where each value came from.")); err != nil {
		return nil, fmt.Errorf("freshetotel: %w", err)
	}
	return o, nil
}

type observer struct {
	tracer             trace.Tracer
	reads, loads, many metric.Float64Histogram
	keys               metric.Int64Counter
	attributes         []attribute.KeyValue
}

// The keys of attributes.
const (
	entryKey   = attribute.Key("freshet.entry")
	statusKey  = attribute.Key("freshet.status")
	reasonKey  = attribute.Key("freshet.reason")
	foundKey   = attribute.Key("freshet.found")
	outcomeKey = attribute.Key("freshet.outcome")
	bytesKey   = attribute.Key("freshet.bytes")
	keysKey    = attribute.Key("freshet.keys")
	missingKey = attribute.Key("freshet.keys.missing")
)

func (o *observer) with(more ...attribute.KeyValue) []attribute.KeyValue {
	return append(more, o.attributes...)
}

// ReadStart implements freshet.Observer.
func (o *observer) ReadStart(ctx context.Context, entry string) context.Context {
	ctx, _ = o.tracer.Start(ctx, "freshet.read", trace.WithSpanKind(trace.SpanKindInternal), trace.WithAttributes(o.with(entryKey.String(entry))...))
	return ctx
}

// ReadEnd implements freshet.Observer.
func (o *observer) ReadEnd(ctx context.Context, r freshet.ReadDone) {
	status := r.Status
	if r.Err != nil {
		status = "error"
	}
	o.reads.Record(ctx, r.Took.Seconds(), metric.WithAttributes(o.with(entryKey.String(r.Entry), statusKey.String(status))...))
	span := trace.SpanFromContext(ctx)
	defer span.End()
	if !span.IsRecording() {
		return
	}
	span.SetAttributes(statusKey.String(status), foundKey.Bool(r.Found))
	if r.Reason != "" {
		span.SetAttributes(reasonKey.String(r.Reason))
	}
	if r.Load != nil {
		span.AddLink(trace.LinkFromContext(r.Load)) //nolint:contextcheck // the load's, which is linked to and not followed
	}
	failed(span, r.Err)
}

// LoadStart implements freshet.Observer.
func (o *observer) LoadStart(ctx context.Context, entry string) context.Context {
	options := []trace.SpanStartOption{
		trace.WithNewRoot(), trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(o.with(entryKey.String(entry))...),
	}
	if by := trace.SpanContextFromContext(ctx); by.IsValid() {
		options = append(options, trace.WithLinks(trace.Link{SpanContext: by}))
	}
	ctx, _ = o.tracer.Start(ctx, "freshet.load", options...)
	return ctx
}

// LoadEnd implements freshet.Observer.
func (o *observer) LoadEnd(ctx context.Context, l freshet.LoadDone) {
	outcome := "found"
	switch {
	case l.Err != nil:
		outcome = "error"
	case l.Unchanged:
		outcome = "unchanged"
	case !l.Found:
		outcome = "missing"
	}
	o.loads.Record(ctx, l.Took.Seconds(), metric.WithAttributes(o.with(entryKey.String(l.Entry), outcomeKey.String(outcome))...))
	span := trace.SpanFromContext(ctx)
	defer span.End()
	if span.IsRecording() {
		span.SetAttributes(outcomeKey.String(outcome), bytesKey.Int(l.Bytes), keysKey.Int(l.Keys))
		failed(span, l.Err)
	}
}

func failed(span trace.Span, err error) {
	if err != nil {
		span.RecordError(err)
		span.SetStatus(codes.Error, err.Error())
	}
}

// Source is something that counts reads, such as a *freshet.Cache.
type Source interface {
	Stats() freshet.Stats
}

// Count has the meter read what a cache counts whenever it exports. The names are those of Prometheus with dots:
// freshet_reads_hit_total is freshet.reads.hit. stop ends it; an error means that the MeterProvider refuses a counter.
func Count(source Source, options Options) (stop func() error, err error) {
	meter := options.meter()
	all := readmetrics.All()
	counters := make([]metric.Int64Observable, len(all))
	times := make([]metric.Float64ObservableCounter, len(all))
	instruments := make([]metric.Observable, len(all))
	for i := range all {
		name := strings.ReplaceAll(strings.TrimSuffix(all[i].Name, "_total"), "_", ".")
		switch {
		case all[i].Micro:
			times[i], err = meter.Float64ObservableCounter(strings.TrimSuffix(name, ".seconds"), metric.WithDescription(all[i].Help), metric.WithUnit("s"))
			instruments[i] = times[i]
		case all[i].Gauge:
			counters[i], err = meter.Int64ObservableGauge(name, metric.WithDescription(all[i].Help))
			instruments[i] = counters[i]
		default:
			counters[i], err = meter.Int64ObservableCounter(name, metric.WithDescription(all[i].Help))
			instruments[i] = counters[i]
		}
		if err != nil {
			return nil, fmt.Errorf("freshetotel: %w", err)
		}
	}
	registration, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		stats := readmetrics.Stats(source.Stats())
		for i := range all {
			all[i].Values(&stats, func(label string, n uint64) {
				attributes := options.Attributes
				if all[i].Label != "" {
					attributes = append([]attribute.KeyValue{attribute.String("freshet."+all[i].Label, label)}, attributes...)
				}
				if all[i].Micro {
					o.ObserveFloat64(times[i], float64(n)/1e6, metric.WithAttributes(attributes...))
					return
				}
				o.ObserveInt64(counters[i], int64(n), metric.WithAttributes(attributes...)) //nolint:gosec // a count since Open
			})
		}
		return nil
	}, instruments...)
	if err != nil {
		return nil, fmt.Errorf("freshetotel: %w", err)
	}
	return registration.Unregister, nil
}
