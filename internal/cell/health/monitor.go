package health

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/gateway"
)

// Config is everything that a Monitor needs from outside.
type Config struct {
	// NodeName is the virtual node whose cells are watched.
	NodeName string
	// Client reads Cells and the node's Pods, from caches, and patches Cells.
	Client client.Client
	// Live reads Cells from the API server itself.
	Live client.Reader

	// Timeout is for how long a cell may be unhealthy whose Cell does not say
	// it; 0 for ever.
	Timeout time.Duration
	// Interval is the time between two looks at the signs of life.
	Interval time.Duration

	// Cloud says what the cloud knows; nil where it knows nothing.
	Cloud cloudprovider.HealthReporter
	// CloudInterval is the time between two looks at that.
	CloudInterval time.Duration
	// ByCloud: a cell is given up when the cloud's checks of its instance fail,
	// and not for its silence.
	ByCloud bool

	// Disconnected says, as a clause, why Kip has no connection to a cell, ""
	// while it has one.
	Disconnected func(cell string) string
	// Changed is called when Silent says something else of a cell. It must not
	// block.
	Changed func(*v1beta1.Cell)
	// Interrupt takes the cloud's word that it ends or reboots an instance. It
	// may be called again with the same.
	Interrupt func(ctx context.Context, cell string, i gateway.Interruption) error

	Clock   clock.Clock
	Events  record.EventRecorder
	Metrics prometheus.Registerer
	Logger  *slog.Logger
}

// Monitor is described in the package documentation. Heartbeat and Silent may
// be called at any time and from anywhere; Start owns everything else.
type Monitor struct {
	cfg     Config
	metrics *metrics

	mu     sync.Mutex
	vitals map[string]*vital // of the cells that are watched, by name
	looked time.Time         // when Look was last called
	held   bool              // so many are quiet that nothing is concluded

	// Of the loop that looks at the cloud alone.
	cloudTold string          // how the last look went
	told      map[string]bool // scheduled events that were told, by ID
}

var (
	_ manager.Runnable               = (*Monitor)(nil)
	_ manager.LeaderElectionRunnable = (*Monitor)(nil)
)

// New checks the configuration and registers metrics. It starts nothing.
func New(cfg Config) (*Monitor, error) {
	switch {
	case cfg.Client == nil, cfg.Live == nil, cfg.Disconnected == nil, cfg.Changed == nil, cfg.Interrupt == nil,
		cfg.Clock == nil, cfg.Events == nil, cfg.Metrics == nil, cfg.Logger == nil:
		return nil, errors.New("health: every field of Config but ByCloud, Cloud and Timeout must be set")
	case cfg.NodeName == "":
		return nil, errors.New("health: node name is empty")
	case cfg.Interval <= 0, cfg.Cloud != nil && cfg.CloudInterval <= 0:
		return nil, errors.New("health: an interval is not positive")
	}
	m, err := newMetrics(cfg.Metrics)
	if err != nil {
		return nil, err
	}
	return &Monitor{cfg: cfg, metrics: m, vitals: map[string]*vital{}, told: map[string]bool{}}, nil
}

// NeedLeaderElection implements manager.LeaderElectionRunnable: cells talk to
// the leader.
func (m *Monitor) NeedLeaderElection() bool { return true }

// Start looks, again and again, until the context ends.
func (m *Monitor) Start(ctx context.Context) error {
	var wg sync.WaitGroup
	if m.cfg.Cloud != nil {
		wg.Go(func() {
			for m.sleep(ctx, m.LookAtCloud(ctx)) {
			}
		})
	}
	for {
		if err := m.Look(ctx); err != nil && ctx.Err() == nil {
			m.cfg.Logger.Warn("looking at the cells' health; it is repeated", "err", err)
		}
		if !m.sleep(ctx, m.cfg.Interval) {
			break
		}
	}
	wg.Wait()
	return nil
}

// sleep is false when the context ended first.
func (m *Monitor) sleep(ctx context.Context, d time.Duration) bool {
	timer := m.cfg.Clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C():
		return true
	case <-ctx.Done():
		return false
	}
}
