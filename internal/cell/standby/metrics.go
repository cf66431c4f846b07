package standby

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	cells *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{cells: prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "kip_standby_cells", Help: "Standby cells without a pod, by instance type, capacity type and state (ready, starting).",
	}, []string{"instance_type", "capacity_type", "state"})}
	if err := reg.Register(m.cells); err != nil {
		return nil, fmt.Errorf("standby: registering metrics: %w", err)
	}
	return m, nil
}

func (m *metrics) count(pool Pool, ready, starting int) {
	m.cells.WithLabelValues(pool.InstanceType, string(pool.CapacityType), "ready").Set(float64(ready))
	m.cells.WithLabelValues(pool.InstanceType, string(pool.CapacityType), "starting").Set(float64(starting))
}
