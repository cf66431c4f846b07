package networkpolicy

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// result is what became of telling a cell, as counted.
type result string

const (
	enforced result = "enforced"
	unknown  result = "unknown"
	failed   result = "failed"
)

type metrics struct {
	updates *prometheus.CounterVec
	seconds prometheus.Histogram
}

func newMetrics(registerer prometheus.Registerer, pending func() int) (*metrics, error) {
	m := &metrics{
		updates: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kip_network_policy_updates_total",
			Help: "Network policies that cells were told, whole or what changed of them, by what became of it: enforced, failed, or unknown if the cell did not have what the change is of and is told the whole.",
		}, []string{"kind", "result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "kip_network_policy_enforce_seconds",
			Help:    "Time from Kip's seeing a change, of a policy or of those that it is about, to its being enforced in a cell that had rules before.",
			Buckets: prometheus.ExponentialBuckets(0.005, 2, 14),
		}),
	}
	pendingCells := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "kip_network_policy_pending",
		Help: "Cells that do not enforce yet all that they are to, those that boot included.",
	}, func() float64 { return float64(pending()) })
	for _, c := range []prometheus.Collector{m.updates, m.seconds, pendingCells} {
		if err := registerer.Register(c); err != nil {
			return nil, fmt.Errorf("registering the metrics of network policies: %w", err)
		}
	}
	return m, nil
}
