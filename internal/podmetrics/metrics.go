package podmetrics

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	reports, refused prometheus.Counter
}

func newMetrics(registerer prometheus.Registerer, kept func() int) (*metrics, error) {
	m := &metrics{
		reports: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kip_pod_metrics_reports_total",
			Help: "Reports of cells about what their pods use.",
		}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kip_pod_metrics_refused_total",
			Help: "Reports of cells that were none: too big, damaged, or not about the cell's pod.",
		}),
	}
	cells := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "kip_pod_metrics_cells",
		Help: "Cells whose last report is kept. It is less than the cells whose pods run where some do not report.",
	}, func() float64 { return float64(kept()) })
	for _, c := range []prometheus.Collector{m.reports, m.refused, cells} {
		if err := registerer.Register(c); err != nil {
			return nil, fmt.Errorf("registering the metrics of pod metrics: %w", err)
		}
	}
	return m, nil
}
