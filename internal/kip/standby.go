package kip

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cell/lifecycle"
	"github.com/elotl/kip/v2/internal/cell/standby"
	"github.com/elotl/kip/v2/internal/cloudprovider/aws"
	"github.com/elotl/kip/v2/internal/config"
	"github.com/elotl/kip/v2/internal/instancetype"
	"github.com/elotl/kip/v2/internal/provider"
)

// lateStandby is the standby cells' controller, which is made after the provider.
type lateStandby struct{ controller func() *standby.Controller }

func (s lateStandby) Candidates(ctx context.Context, spec v1beta1.CellSpec) ([]*v1beta1.Cell, error) {
	return s.controller().Candidates(ctx, spec)
}

func (s lateStandby) Reserve(cell *v1beta1.Cell, namespace string) bool {
	return s.controller().Reserve(cell, namespace)
}

func (s lateStandby) Release(cell *v1beta1.Cell) { s.controller().Release(cell) }

// standbyFor is what the provider takes cells from, nil where none are kept.
func standbyFor(cfg *config.Config, controller func() *standby.Controller) provider.Standby {
	if len(cfg.Cells.StandbyCells) == 0 {
		return nil
	}
	return lateStandby{controller}
}

// newStandby makes the controller of standby cells. There is one also where none
// are configured: it ends those of an earlier configuration.
func newStandby(ctx context.Context, o Options, cfg *config.Config, mgr ctrl.Manager, cloud *aws.Provider, catalogue *instancetype.Catalogue,
	region *instancetype.Region, launches *lifecycle.Reconciler, data func(*v1beta1.Cell) ([]byte, error), reachable func(cell string) bool, log *slog.Logger,
) (*standby.Controller, error) {
	pools, err := standbyPools(cfg, catalogue, region)
	if err != nil {
		return nil, err
	}
	c, err := standby.New(standby.Config{
		Client: mgr.GetClient(), NodeName: o.NodeName, Pools: pools,
		Tolerance: float64(cfg.Cells.StandbyPriceTolerance) / 100,
		Configuration: func(ctx context.Context, name string) (string, error) {
			t, ok := catalogue.Type(name)
			if !ok {
				return "", fmt.Errorf("the catalogue has no instance type %s", name)
			}
			image, err := cloud.MachineImage(ctx, t.Architecture)
			if err != nil {
				return "", err
			}
			return fingerprint(cfg, data, image)
		},
		Zones: cloud.Zones, Zone: cfg.InstanceDefaults().Zone,
		Offerings: launches.Offerings, Limits: launches.Limits(), Reachable: reachable, Startable: launches.Startable,
		VolumeGiB: cfg.Cells.VolumeGiB(), PrivateIPOnly: cfg.Cells.PrivateIPOnly,
		Clock: clock.RealClock{}, Metrics: metrics.Registry, Logger: log,
	})
	if err != nil {
		return nil, err
	}
	return c, c.SetupWithManager(ctx, mgr)
}

// standbyPools are the configured ones. A type that the region does not have
// would never be launched, so it is a mistake.
func standbyPools(cfg *config.Config, catalogue *instancetype.Catalogue, region *instancetype.Region) ([]standby.Pool, error) {
	var pools []standby.Pool
	for i, s := range cfg.Cells.StandbyCells {
		pool := standby.Pool{InstanceType: strings.ToLower(s.InstanceType), CapacityType: v1beta1.OnDemand, Count: int(s.Count), Stopped: s.Stopped}
		if s.Spot {
			pool.CapacityType = v1beta1.Spot
		}
		t, ok := catalogue.Type(pool.InstanceType)
		if !ok {
			return nil, fmt.Errorf("cells.standbyCells[%d].instanceType: the catalogue has no type %s", i, s.InstanceType)
		}
		gpus := t.PodCapacity()[instancetype.ResourceGPU]
		pool.Architecture, pool.GPUs = t.Architecture, int32(gpus.Value())
		found := region.Offerings(standby.Requirements(pool), instancetype.Options{Limit: 1})
		if err := found.Err(); err != nil {
			return nil, fmt.Errorf("cells.standbyCells[%d].instanceType: %s cannot be had as %s in this region: %w", i, s.InstanceType, pool.CapacityType, err)
		}
		pools = append(pools, pool)
	}
	return pools, nil
}

// fingerprint is a hash of what decides what an instance is, but for its type,
// zone and cell: user data, the machine image, and what else a launch asks for.
func fingerprint(cfg *config.Config, data func(*v1beta1.Cell) ([]byte, error), image string) (string, error) {
	nobody, err := data(&v1beta1.Cell{ObjectMeta: metav1.ObjectMeta{Name: "standby"}})
	if err != nil {
		return "", fmt.Errorf("making user data: %w", err)
	}
	a, c := cfg.Cloud.AWS, cfg.Cells
	groups := slices.Sorted(slices.Values(c.ExtraSecurityGroups))
	all, err := json.Marshal([]any{
		nobody, image, a.VPCID, a.SubnetID, groups, c.DefaultIAMPermissions, c.Nametag, c.PrivateIPOnly, c.VolumeGiB(),
	})
	if err != nil {
		return "", fmt.Errorf("hashing what cells are launched with: %w", err)
	}
	sum := sha256.Sum256(all)
	return hex.EncodeToString(sum[:8]), nil
}
