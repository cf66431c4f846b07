package kip

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cell/connection"
	"github.com/elotl/kip/v2/internal/cell/health"
	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/config"
	"github.com/elotl/kip/v2/internal/gateway"
)

// cloudHealthInterval is how often the cloud is asked about its instances where
// nothing is decided by that. Events are scheduled days ahead.
const cloudHealthInterval = time.Minute

// healthConfig says how cells are watched over.
func healthConfig(cfg *config.Config, o Options, mgr ctrl.Manager, cloud cloudprovider.HealthReporter, log *slog.Logger,
	disconnected func(cell string) string, changed func(*v1beta1.Cell),
	interrupt func(ctx context.Context, cell string, i gateway.Interruption) error,
) health.Config {
	check := cfg.Cells.Healthcheck
	c := health.Config{
		NodeName: o.NodeName, Client: mgr.GetClient(), Live: mgr.GetAPIReader(),
		Timeout: check.HealthyTimeout(), Interval: time.Duration(cfg.Cells.StatusInterval) * time.Second,
		Cloud: cloud, CloudInterval: cloudHealthInterval,
		Disconnected: disconnected, Changed: changed, Interrupt: interrupt,
		Clock: clock.RealClock{}, Events: eventRecorder(mgr), Metrics: metrics.Registry, Logger: log,
	}
	if check.CloudAPI != nil {
		c.ByCloud, c.CloudInterval = true, time.Duration(check.CloudAPI.Interval)*time.Second
	}
	return c
}

// disconnected is why there is no connection to a cell, "" while there is one.
func disconnected(m *connection.Manager, cell string) string {
	_, err := m.Transport(cell)
	if e, ok := errors.AsType[*connection.NotConnectedError](err); ok {
		return e.Waiting
	}
	return ""
}
