package rpc

import (
	"strings"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/status"
)

// metrics counts what the front door does.
type metrics struct {
	streams  atomic.Int64  // open
	received atomic.Uint64 // messages published
	sent     atomic.Uint64 // messages delivered
	calls    *prometheus.CounterVec
}

var (
	streamsDesc  = prometheus.NewDesc("warren_grpc_streams", "Streams of gRPC clients that are open.", nil, nil)
	receivedDesc = prometheus.NewDesc("warren_grpc_messages_received_total", "Messages that gRPC clients have published.", nil, nil)
	sentDesc     = prometheus.NewDesc("warren_grpc_messages_sent_total", "Messages that were delivered to gRPC clients.", nil, nil)
)

func newMetrics() *metrics {
	return &metrics{calls: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "warren_grpc_calls_total",
		Help: "Calls and streams of gRPC clients that have ended, by method and status code."}, []string{"method", "code"})}
}

// ended counts the end of a call. What a client is told that was refused before its call began is not counted.
func (m *metrics) ended(method string, err error) {
	m.calls.WithLabelValues(strings.TrimPrefix(method, "/"), status.Code(err).String()).Inc()
}

// Metrics is what the server has to tell Prometheus.
func (s *Server) Metrics() prometheus.Collector { return s.metrics }

// Describe implements prometheus.Collector, as does Collect.
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	to <- streamsDesc
	to <- receivedDesc
	to <- sentDesc
	m.calls.Describe(to)
}

// Collect sends the counts.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	to <- prometheus.MustNewConstMetric(streamsDesc, prometheus.GaugeValue, float64(m.streams.Load()))
	to <- prometheus.MustNewConstMetric(receivedDesc, prometheus.CounterValue, float64(m.received.Load()))
	to <- prometheus.MustNewConstMetric(sentDesc, prometheus.CounterValue, float64(m.sent.Load()))
	m.calls.Collect(to)
}
