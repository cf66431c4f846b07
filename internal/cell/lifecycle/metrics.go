package lifecycle

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider"
)

type metrics struct {
	cells         *prometheus.GaugeVec
	launches      *prometheus.CounterVec
	launchSeconds prometheus.Histogram
	bootSeconds   prometheus.Histogram
	bootTimeouts  prometheus.Counter
	terminations  *prometheus.CounterVec
	looks         *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		cells: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "kip_cells", Help: "Cells by phase.",
		}, []string{"phase"}),
		launches: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kip_launches_total", Help: "Launch requests to the cloud by result (launched, refused) and kind of refusal.",
		}, []string{"result", "kind"}),
		launchSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "kip_launch_seconds", Help: "Duration of launch requests that the cloud accepted.",
			Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}),
		bootSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "kip_boot_seconds", Help: "Time from a launch to the cell's enrolment, to the second.",
			Buckets: []float64{1, 2, 3, 5, 10, 15, 20, 30, 45, 60, 90, 120, 300},
		}),
		bootTimeouts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kip_boot_timeouts_total", Help: "Instances terminated because they did not enrol in time.",
		}),
		terminations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kip_terminations_total", Help: "Termination requests to the cloud by result (accepted, refused) and kind of refusal.",
		}, []string{"result", "kind"}),
		looks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kip_instance_lists_total", Help: "Lists of all instances read from the cloud by result (ok, failed) and kind of failure.",
		}, []string{"result", "kind"}),
	}
	for _, c := range []prometheus.Collector{m.cells, m.launches, m.launchSeconds, m.bootSeconds, m.bootTimeouts, m.terminations, m.looks} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("lifecycle: registering metrics: %w", err)
		}
	}
	return m, nil
}

// phase moves a Cell in the gauge; "" takes it out.
func (m *metrics) phase(mem *memory, phase v1beta1.CellPhase) {
	if mem.phase == phase {
		return
	}
	if mem.phase != "" {
		m.cells.WithLabelValues(string(mem.phase)).Dec()
	}
	if phase != "" {
		m.cells.WithLabelValues(string(phase)).Inc()
	}
	mem.phase = phase
}

func (m *metrics) launched(err error, took time.Duration) {
	if err != nil {
		m.launches.WithLabelValues("refused", string(cloudprovider.KindOf(err))).Inc()
		return
	}
	m.launches.WithLabelValues("launched", "").Inc()
	m.launchSeconds.Observe(took.Seconds())
}

// booted observes an enrolment, once per process and Cell.
func (m *metrics) booted(s *scope) {
	l, stop := s.cell.Status.Launch, s.cell.Status.Stop
	if l == nil || s.mem.booted {
		return
	}
	since := l.Time
	if stop != nil && stop.Started != nil {
		since = *stop.Started
	}
	s.mem.booted = true
	m.bootSeconds.Observe(s.cell.Status.Enrolment.Time.Sub(since.Time).Seconds())
}

func (m *metrics) terminated(err error) {
	if err != nil {
		m.terminations.WithLabelValues("refused", string(cloudprovider.KindOf(err))).Inc()
		return
	}
	m.terminations.WithLabelValues("accepted", "").Inc()
}

func (m *metrics) looked(err error) {
	if err != nil {
		m.looks.WithLabelValues("failed", string(cloudprovider.KindOf(err))).Inc()
		return
	}
	m.looks.WithLabelValues("ok", "").Inc()
}
