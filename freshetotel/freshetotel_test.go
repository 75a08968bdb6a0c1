package freshetotel_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/freshetotel"
	"github.com/freshet/freshet/internal/near"
)

type counts freshet.Stats

func (c counts) Stats() freshet.Stats { return freshet.Stats(c) }

func has(t *testing.T, span *tracetest.SpanStub, want ...attribute.KeyValue) {
	t.Helper()
	set := attribute.NewSet(span.Attributes...)
	for _, w := range want {
		if got, found := set.Value(w.Key); !found || got != w.Value {
			t.Errorf("%s has %s = %v, want %v", span.Name, w.Key, got.Emit(), w.Value.Emit())
		}
	}
}

// TestSpans: one for each read, below its caller's; one for each load, of a trace of its own; each linked to the other, and a read
// that found another's load linked to that.
func TestSpans(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewInMemoryExporter()
	tracers := sdk.NewTracerProvider(sdk.WithSyncer(spans))
	o, err := freshetotel.Observer(freshetotel.Options{TracerProvider: tracers, MeterProvider: metric.NewMeterProvider(), Attributes: []attribute.KeyValue{attribute.String("cache", "a")}})
	if err != nil {
		t.Fatal(err)
	}
	caller, span := tracers.Tracer("test").Start(t.Context(), "caller")
	first := o.ReadStart(caller, "product")
	load := o.LoadStart(context.WithoutCancel(first), "product")
	second := o.ReadStart(caller, "product")
	o.LoadEnd(load, freshet.LoadDone{Entry: "product", Found: true, Bytes: 12})
	o.ReadEnd(first, freshet.ReadDone{Entry: "product", Status: "miss", Reason: "below_floor", Found: true, Load: load})
	o.ReadEnd(second, freshet.ReadDone{Entry: "product", Err: errors.New("late"), Load: load})
	span.End()
	got := map[trace.SpanID]tracetest.SpanStub{}
	for _, s := range spans.GetSpans() {
		got[s.SpanContext.SpanID()] = s
	}
	if len(got) != 4 {
		t.Fatalf("%d spans", len(got))
	}
	id := func(ctx context.Context) trace.SpanID { return trace.SpanContextFromContext(ctx).SpanID() }
	l, one, two := got[id(load)], got[id(first)], got[id(second)]
	if l.Name != "freshet.load" || one.Name != "freshet.read" || one.Parent.SpanID() != id(caller) || l.Parent.IsValid() ||
		l.SpanContext.TraceID() == one.SpanContext.TraceID() {
		t.Errorf("load %+v, read %+v", l, one)
	}
	if len(l.Links) != 1 || l.Links[0].SpanContext.SpanID() != id(first) {
		t.Errorf("the load is linked to %+v", l.Links)
	}
	for _, r := range []tracetest.SpanStub{one, two} {
		if len(r.Links) != 1 || r.Links[0].SpanContext.SpanID() != id(load) {
			t.Errorf("a read is linked to %+v", r.Links)
		}
	}
	has(t, &one, attribute.String("freshet.status", "miss"), attribute.String("freshet.reason", "below_floor"), attribute.Bool("freshet.found", true), attribute.String("cache", "a"))
	has(t, &two, attribute.String("freshet.status", "error"))
	has(t, &l, attribute.String("freshet.outcome", "found"), attribute.Int("freshet.bytes", 12), attribute.String("freshet.entry", "product"))
	if two.Status.Code != codes.Error || one.Status.Code == codes.Error {
		t.Errorf("status %+v, %+v", one.Status, two.Status)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	reader := metric.NewManualReader()
	options := freshetotel.Options{TracerProvider: sdk.NewTracerProvider(), MeterProvider: metric.NewMeterProvider(metric.WithReader(reader))}
	o, err := freshetotel.Observer(options)
	if err != nil {
		t.Fatal(err)
	}
	stop, err := freshetotel.Count(counts{Hits: 3, L1: &near.Stats{Bytes: 4096}, Bypassed: map[string]uint64{"no_head": 2, "no_roster": 1}}, options)
	if err != nil {
		t.Fatal(err)
	}
	ctx := o.ReadStart(t.Context(), "product")
	o.LoadEnd(o.LoadStart(ctx, "product"), freshet.LoadDone{Entry: "product", Took: time.Second})
	o.ReadEnd(ctx, freshet.ReadDone{Entry: "product", Status: "hit", Took: time.Second})
	collect := func() map[string]metricdata.Aggregation {
		var all metricdata.ResourceMetrics
		if err := reader.Collect(t.Context(), &all); err != nil {
			t.Fatal(err)
		}
		found := map[string]metricdata.Aggregation{}
		for _, s := range all.ScopeMetrics {
			for _, m := range s.Metrics {
				found[m.Name] = m.Data
			}
		}
		return found
	}
	found := collect()
	if hits, ok := found["freshet.reads.hit"].(metricdata.Sum[int64]); !ok || !hits.IsMonotonic || len(hits.DataPoints) != 1 || hits.DataPoints[0].Value != 3 {
		t.Errorf("freshet.reads.hit = %+v", found["freshet.reads.hit"])
	}
	if bytes, ok := found["freshet.l1.held.bytes"].(metricdata.Gauge[int64]); !ok || len(bytes.DataPoints) != 1 || bytes.DataPoints[0].Value != 4096 {
		t.Errorf("freshet.l1.held.bytes = %+v", found["freshet.l1.held.bytes"])
	}
	if bypasses, ok := found["freshet.reads.bypass"].(metricdata.Sum[int64]); !ok || len(bypasses.DataPoints) != 2 {
		t.Errorf("freshet.reads.bypass = %+v", found["freshet.reads.bypass"])
	}
	for _, name := range []string{"freshet.read.duration", "freshet.load.duration"} {
		if took, ok := found[name].(metricdata.Histogram[float64]); !ok || len(took.DataPoints) != 1 || took.DataPoints[0].Sum != 1 {
			t.Errorf("%s = %+v", name, found[name])
		}
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if _, still := collect()["freshet.reads.hit"]; still {
		t.Error("counts are read after stop")
	}
}
