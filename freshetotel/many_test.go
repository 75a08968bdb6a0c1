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
)

// TestManySpans: one for a call of GetMany, below its caller's, linked to each load; and its keys are counted by status.
func TestManySpans(t *testing.T) {
	t.Parallel()
	spans, reader := tracetest.NewInMemoryExporter(), metric.NewManualReader()
	tracers := sdk.NewTracerProvider(sdk.WithSyncer(spans))
	made, err := freshetotel.Observer(freshetotel.Options{
		TracerProvider: tracers, MeterProvider: metric.NewMeterProvider(metric.WithReader(reader)),
		Attributes: []attribute.KeyValue{attribute.String("cache", "a")},
	})
	if err != nil {
		t.Fatal(err)
	}
	o, ok := made.(freshet.ManyObserver)
	if !ok {
		t.Fatal("it does not hear of GetMany")
	}
	caller, span := tracers.Tracer("test").Start(t.Context(), "caller")
	many := o.ManyStart(caller, "product", 6)
	loads := []context.Context{o.LoadStart(context.WithoutCancel(many), "product"), o.LoadStart(t.Context(), "product")}
	for _, load := range loads {
		o.LoadEnd(load, freshet.LoadDone{Entry: "product", Keys: 2, Found: true, Bytes: 12})
	}
	o.ManyEnd(many, freshet.ManyDone{
		Entry: "product", Keys: 6, Statuses: map[string]int{"hit": 1, "miss": 4}, Missing: 2, Failed: 1, Err: errors.New("late"),
		Took: time.Second, Loads: loads,
	})
	span.End()
	id := func(ctx context.Context) trace.SpanID { return trace.SpanContextFromContext(ctx).SpanID() }
	got := map[trace.SpanID]tracetest.SpanStub{}
	for _, s := range spans.GetSpans() {
		got[s.SpanContext.SpanID()] = s
	}
	m, l := got[id(many)], got[id(loads[0])]
	if len(got) != 4 || m.Name != "freshet.GetMany" || m.Parent.SpanID() != id(caller) || m.Status.Code != codes.Error {
		t.Errorf("%d spans, %+v", len(got), m)
	}
	if len(m.Links) != 2 || m.Links[0].SpanContext.SpanID() != id(loads[0]) || m.Links[1].SpanContext.SpanID() != id(loads[1]) {
		t.Errorf("it is linked to %+v", m.Links)
	}
	if len(l.Links) != 1 || l.Links[0].SpanContext.SpanID() != id(many) {
		t.Errorf("the load is linked to %+v", l.Links)
	}
	has(t, &m, attribute.String("freshet.entry", "product"), attribute.Int("freshet.keys", 6), attribute.Int("freshet.keys.hit", 1),
		attribute.Int("freshet.keys.miss", 4), attribute.Int("freshet.keys.error", 1), attribute.Int("freshet.keys.missing", 2),
		attribute.String("freshet.outcome", "error"), attribute.String("cache", "a"))
	has(t, &l, attribute.Int("freshet.keys", 2))
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	keys := map[string]int64{}
	for _, one := range all.ScopeMetrics[0].Metrics {
		switch data := one.Data.(type) {
		case metricdata.Sum[int64]:
			for _, p := range data.DataPoints {
				status, _ := p.Attributes.Value("freshet.status")
				keys[one.Name+" "+status.AsString()] = p.Value
			}
		case metricdata.Histogram[float64]:
			if one.Name == "freshet.many.duration" && (len(data.DataPoints) != 1 || data.DataPoints[0].Sum != 1) {
				t.Errorf("%s = %+v", one.Name, data)
			}
			keys[one.Name] += int64(len(data.DataPoints))
		}
	}
	for name, want := range map[string]int64{
		"freshet.many.keys hit": 1, "freshet.many.keys miss": 4, "freshet.many.keys error": 1, "freshet.many.duration": 1, "freshet.read.duration": 0,
	} {
		if keys[name] != want {
			t.Errorf("%s = %d, want %d", name, keys[name], want)
		}
	}
}
