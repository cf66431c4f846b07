package provider

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	interruptions *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		interruptions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kip_interruptions_total", Help: "Notices by which the cloud said that it takes an instance, or may, by kind.",
		}, []string{"kind"}),
	}
	if err := reg.Register(m.interruptions); err != nil {
		return nil, fmt.Errorf("provider: registering metrics: %w", err)
	}
	return m, nil
}
