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
		Name: "kip_standby_cells", Help: "Standby cells without a pod, by instance type, capacity type and state (ready, starting, stopped, stopping).",
	}, []string{"instance_type", "capacity_type", "state"})}
	if err := reg.Register(m.cells); err != nil {
		return nil, fmt.Errorf("standby: registering metrics: %w", err)
	}
	return m, nil
}

// count shows a pool. Those that are to be kept stopped, and are not yet, boot or
// stop.
func (m *metrics) count(pool Pool, up, coming int) {
	states := [2]string{"ready", "starting"}
	if pool.Stopped {
		states = [2]string{"stopped", "stopping"}
	}
	m.cells.WithLabelValues(pool.InstanceType, string(pool.CapacityType), states[0]).Set(float64(up))
	m.cells.WithLabelValues(pool.InstanceType, string(pool.CapacityType), states[1]).Set(float64(coming))
}
