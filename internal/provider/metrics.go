package provider

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	interruptions *prometheus.CounterVec
	standby       *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		interruptions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kip_interruptions_total", Help: "Notices by which the cloud said that it takes an instance, or may, by kind.",
		}, []string{"kind"}),
		standby: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kip_standby_pods_total", Help: "Pods that needed a cell while standby cells were configured, by result: taken, or none that would do.",
		}, []string{"result"}),
	}
	for _, c := range []prometheus.Collector{m.interruptions, m.standby} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("provider: registering metrics: %w", err)
		}
	}
	return m, nil
}
