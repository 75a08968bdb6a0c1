package freshetotel

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/freshet/freshet"
)

// ManyStart implements freshet.ManyObserver.
func (o *observer) ManyStart(ctx context.Context, entry string, keys int) context.Context {
	ctx, _ = o.tracer.Start(ctx, "freshet.GetMany", trace.WithSpanKind(trace.SpanKindInternal),
		trace.WithAttributes(o.with(entryKey.String(entry), keysKey.Int(keys))...))
	return ctx
}

// ManyEnd implements freshet.ManyObserver.
func (o *observer) ManyEnd(ctx context.Context, m freshet.ManyDone) {
	outcome := "ok"
	if m.Err != nil {
		outcome = "error"
	}
	o.many.Record(ctx, m.Took.Seconds(), metric.WithAttributes(o.with(entryKey.String(m.Entry), outcomeKey.String(outcome))...))
	span := trace.SpanFromContext(ctx)
	defer span.End()
	count := func(status string, n int) {
		o.keys.Add(ctx, int64(n), metric.WithAttributes(o.with(entryKey.String(m.Entry), statusKey.String(status))...))
		span.SetAttributes(attribute.Int("freshet.keys."+status, n))
	}
	for status, n := range m.Statuses {
		count(status, n)
	}
	if m.Failed > 0 {
		count("error", m.Failed)
	}
	span.SetAttributes(outcomeKey.String(outcome), missingKey.Int(m.Missing))
	for _, load := range m.Loads {
		span.AddLink(trace.LinkFromContext(load)) //nolint:contextcheck // the load's, which is linked to and not followed
	}
	failed(span, m.Err)
}
