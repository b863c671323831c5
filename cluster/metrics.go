package cluster

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics shows which groups this node leads, how far its replicas are, and whether its clock is off. It may be gathered once Start has returned.
func (c *Cluster) Metrics() prometheus.Collector { return groupMetrics{c} }

type groupMetrics struct{ c *Cluster }

var (
	shardLeader01 = prometheus.NewDesc("warren_shard_leader", "1 when this node's replica leads the shard, 0 when it follows.", []string{"shard"}, nil)
	shardApplied  = prometheus.NewDesc("warren_shard_applied_index", "Index of the last log entry that this node's replica of the shard has applied.",
		[]string{"shard"}, nil)
	catalogLeader01 = prometheus.NewDesc("warren_catalog_leader", "1 when this node leads the catalog, 0 when it follows.", nil, nil)
	clockOff01      = prometheus.NewDesc("warren_clock_off", "1 when this node's clock differs from those of a majority, so that it is to lead nothing.", nil, nil)
	diskSlow01      = prometheus.NewDesc("warren_disk_slow", "1 when a write to this node's disk takes seconds, or did so in the last half minute, so that others are preferred to lead.", nil, nil)
	catalogApplied  = prometheus.NewDesc("warren_catalog_applied_index", "Index of the last log entry that this node's copy of the catalog has applied.", nil, nil)
)

// Describe implements prometheus.Collector.
func (groupMetrics) Describe(descriptions chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{shardLeader01, shardApplied, catalogLeader01, catalogApplied, clockOff01, diskSlow01} {
		descriptions <- d
	}
}

// Collect implements prometheus.Collector.
func (m groupMetrics) Collect(metrics chan<- prometheus.Metric) {
	tell := func(g *group, applied uint64, leader01, appliedIndex *prometheus.Desc, labels ...string) {
		leads := 0.0
		if _, ok := g.leading(); ok {
			leads = 1
		}
		metrics <- prometheus.MustNewConstMetric(leader01, prometheus.GaugeValue, leads, labels...)
		metrics <- prometheus.MustNewConstMetric(appliedIndex, prometheus.GaugeValue, float64(applied), labels...)
	}
	for what, is := range map[*prometheus.Desc]bool{clockOff01: m.c.clocks.off.Load(), diskSlow01: m.c.disk.slow.Load()} {
		value := 0.0
		if is {
			value = 1
		}
		metrics <- prometheus.MustNewConstMetric(what, prometheus.GaugeValue, value)
	}
	if m.c.hasCatalog() {
		tell(m.c.catalog.group, m.c.catalog.reached(), catalogLeader01, catalogApplied)
	}
	for _, s := range m.c.shards() {
		tell(s.group, s.host.Applied(), shardLeader01, shardApplied, strconv.Itoa(int(s.id)))
	}
}
