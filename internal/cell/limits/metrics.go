package limits

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	instances prometheus.Gauge
	usd       prometheus.Gauge
	waiting   *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		instances: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kip_committed_instances", Help: "Instances that exist or are being launched, as limits count them.",
		}),
		usd: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kip_committed_hourly_usd", Help: "What these instances cost in an hour together, as estimated when each was launched.",
		}),
		waiting: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "kip_cells_at_limit", Help: "Cells that wait because a limit of the configuration is reached, by limit.",
		}, []string{"limit"}),
	}
	for _, c := range []prometheus.Collector{m.instances, m.usd, m.waiting} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) show(all sum) {
	m.instances.Set(float64(all.instances))
	m.usd.Set(float64(all.microUSD) / 1e6)
}
