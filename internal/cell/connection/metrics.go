package connection

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	connected    prometheus.Gauge
	connects     prometheus.Histogram
	lost         prometheus.Counter
	enrolments   prometheus.Counter
	enrolSeconds prometheus.Histogram
	refused      *prometheus.CounterVec
	renewals     *prometheus.CounterVec
}

func newMetrics(registerer prometheus.Registerer, untold func() float64) (*metrics, error) {
	m := &metrics{
		connected: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kip_cells_connected",
			Help: "Cells whose gateway is connected now.",
		}),
		connects: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "kip_connect_seconds",
			Help:    "Time from a cell's address being known, or from Kip's start, to its first connection.",
			Buckets: prometheus.ExponentialBuckets(0.05, 2, 14),
		}),
		lost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kip_connections_lost_total",
			Help: "Connections to cells that ended though nobody wanted them to.",
		}),
		enrolments: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kip_enrolments_total",
			Help: "Certificates that agents took to enrol.",
		}),
		enrolSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "kip_enrolment_seconds",
			Help:    "Time from an agent's being reached to its having a certificate.",
			Buckets: prometheus.ExponentialBuckets(0.005, 2, 12),
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kip_enrolments_refused_total",
			Help: "Times that somebody at a cell's address was not taken for the cell, by reason: no proof of the token, another key than the one that enrolled, already enrolled though Kip knows of none, wrong certificate.",
		}, []string{"reason"}),
		renewals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kip_certificate_renewals_total",
			Help: "Renewals of cells' certificates, by result.",
		}, []string{"result"}),
	}
	others := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "kip_cells_with_other_authorities",
		Help: "Cells whose agents do not know Kip by just the authorities that it has now.",
	}, untold)
	for _, c := range []prometheus.Collector{m.connected, m.connects, m.lost, m.enrolments, m.enrolSeconds, m.refused, m.renewals, others} {
		if err := registerer.Register(c); err != nil {
			return nil, fmt.Errorf("registering the metrics of connections: %w", err)
		}
	}
	return m, nil
}
