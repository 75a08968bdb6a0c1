package api

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics count the gateway's requests.
type Metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

// NewMetrics registers the gateway's metrics.
func NewMetrics(registerer prometheus.Registerer) *Metrics {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "freshet_gateway_requests_total",
			Help: "Reads through the gateway by entry (empty when it is not declared), cache status (empty without a value) and HTTP status.",
		}, []string{"entry", "status", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "freshet_gateway_request_seconds",
			Help:    "Time to answer a read through the gateway, by cache status.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2.5, 12), // 0.1 ms to 2.4 s
		}, []string{"status"}),
	}
	registerer.MustRegister(m.requests, m.duration)
	return m
}

func (m *Metrics) observe(o outcome, took time.Duration) {
	m.requests.WithLabelValues(o.entry, o.status, strconv.Itoa(o.code)).Inc()
	m.duration.WithLabelValues(o.status).Observe(took.Seconds())
}
