package health

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	silent  prometheus.Gauge
	held    prometheus.Gauge
	givenUp *prometheus.CounterVec
	looks   *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		silent: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kip_cells_silent", Help: "Cells that give no sign of life, or whose kubelet says that it is not ready, so that their pods are not ready.",
		}),
		held: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kip_health_checks_held", Help: "1 while so many cells are silent at once that none is given up for it.",
		}),
		givenUp: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kip_cells_given_up_total", Help: "Cells whose instance is terminated because they work no more, by reason.",
		}, []string{"reason"}),
		looks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kip_cloud_health_looks_total", Help: "Times that the cloud was asked for failed checks and scheduled events, by result (ok, denied, failed).",
		}, []string{"result"}),
	}
	for _, c := range []prometheus.Collector{m.silent, m.held, m.givenUp, m.looks} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("health: registering metrics: %w", err)
		}
	}
	return m, nil
}
