package kip

import (
	"context"
	"fmt"
	"log/slog"

	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider/aws"
	"github.com/elotl/kip/v2/internal/config"
	"github.com/elotl/kip/v2/internal/metering"
)

// counted is how the lifecycle controller takes part in metering; its functions
// are nil where nothing is metered.
type counted struct {
	mayLaunch func() error
	ended     func(context.Context, *v1beta1.Cell) error
}

// meter sets metering up, if a product is configured.
func meter(ctx context.Context, o Options, cfg *config.Config, mgr ctrl.Manager, kube kubernetes.Interface, log *slog.Logger) (counted, error) {
	a := cfg.Cloud.AWS
	if a.Marketplace == nil {
		return counted{}, nil
	}
	market, err := aws.NewMarketplace(ctx, aws.Config{Region: a.Region, AccessKeyID: a.AccessKeyID, SecretAccessKey: a.SecretAccessKey},
		a.Marketplace.ProductCode, a.Marketplace.PublicKeyVersion, a.Marketplace.Dimension)
	if err != nil {
		return counted{}, fmt.Errorf("setting up AWS Marketplace: %w", err)
	}
	m, err := metering.New(metering.Config{
		Market: market, Cells: mgr.GetClient(), ConfigMaps: kube.CoreV1().ConfigMaps(o.Namespace), Name: "kip-usage-" + o.NodeName,
		Clock: clock.RealClock{}, Metrics: metrics.Registry, Logger: log,
	})
	if err != nil {
		return counted{}, err
	}
	if err := mgr.Add(manager.RunnableFunc(m.Run)); err != nil {
		return counted{}, err
	}
	return counted{m.MayLaunch, m.Ended}, nil
}
