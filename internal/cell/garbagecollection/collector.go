// Package garbagecollection terminates instances that no Cell accounts for, and
// removes what instances left behind.
//
//	collector.go  instances
//	leftovers.go  volumes, network interfaces, routes, security groups
//
// There should be none: the lifecycle controller writes an intent before it
// launches and keeps the Cell until the instance is gone. This is the net
// below it, for Cells that somebody removed by force, a cluster that was
// restored from a backup, or a mistake of ours. Each find is counted and told,
// since it means that one of those happened.
//
// Nothing is concluded from one look. The cloud is listed first and the Cells
// read after it, so a Cell made meanwhile is seen; instances younger than the
// grace period are left alone; a suspect must be seen twice, and before it is
// terminated its Cell is asked for at the API server itself, past all caches.
// Only what carries this controller's ID is ever listed. The other way, a Cell
// whose instance is gone is the lifecycle controller's, and one whose pod is gone
// the provider's.
package garbagecollection

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider"
)

const (
	// DefaultGrace is far above the time from a launch to its record.
	DefaultGrace = 2 * time.Minute
	// DefaultInterval bounds what a leak costs: grace and two rounds.
	DefaultInterval = time.Minute
)

// Config is everything that a Collector needs from outside.
type Config struct {
	Cloud cloudprovider.Provider
	// Routes removes routes to instances; nil where the cloud has none.
	Routes cloudprovider.Router
	// Cells reads Cells, from a cache. Live reads single ones from the API
	// server.
	Cells client.Reader
	Live  client.Reader
	// DryRun: what is found is told, and left as it is.
	DryRun bool
	// NodeName is the virtual node that leaks are told about.
	NodeName string

	// Grace and Interval are the defaults if 0.
	Grace    time.Duration
	Interval time.Duration

	Clock   clock.Clock
	Events  record.EventRecorder
	Metrics prometheus.Registerer
	Logger  *slog.Logger
}

// Collector finds and ends leaked instances. Collect must not run twice at the
// same time.
type Collector struct {
	cfg      Config
	suspects map[string]bool // instance IDs, from the round before
	told     map[string]bool // of these, what was told in a dry run
	swept    time.Time       // when leftovers were looked for
	left     map[leftover]*sighting

	leaked    *prometheus.CounterVec
	leftovers *prometheus.CounterVec
	rounds    *prometheus.CounterVec
}

// New checks the configuration and registers metrics. It starts nothing.
func New(cfg Config) (*Collector, error) {
	if cfg.Cloud == nil || cfg.Cells == nil || cfg.Live == nil || cfg.Clock == nil ||
		cfg.Events == nil || cfg.Metrics == nil || cfg.Logger == nil || cfg.NodeName == "" {
		return nil, errors.New("garbagecollection: every field of Config but DryRun, Grace, Interval and Routes must be set")
	}
	if cfg.Grace == 0 {
		cfg.Grace = DefaultGrace
	}
	if cfg.Interval == 0 {
		cfg.Interval = DefaultInterval
	}
	c := &Collector{
		cfg: cfg,
		leaked: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kip_instances_leaked_total", Help: "Instances terminated because no Cell accounted for them, or found in a dry run, by why (no-cell, duplicate).",
		}, []string{"why"}),
		leftovers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kip_leftovers_total", Help: "Volumes, network interfaces, routes and security groups of ours found without use, by kind and what became of them (removed, kept).",
		}, []string{"kind", "result"}),
		rounds: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kip_garbage_collections_total", Help: "Rounds of garbage collection by result (ok, failed).",
		}, []string{"result"}),
	}
	for _, m := range []prometheus.Collector{c.leaked, c.leftovers, c.rounds} {
		if err := cfg.Metrics.Register(m); err != nil {
			return nil, fmt.Errorf("garbagecollection: registering metrics: %w", err)
		}
	}
	return c, nil
}

// NeedLeaderElection implements manager.LeaderElectionRunnable.
func (c *Collector) NeedLeaderElection() bool { return true }

// Start collects until the context ends.
func (c *Collector) Start(ctx context.Context) error {
	for {
		timer := c.cfg.Clock.NewTimer(c.cfg.Interval)
		select {
		case <-timer.C():
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
		if err := c.Collect(ctx); err != nil && ctx.Err() == nil {
			c.cfg.Logger.Warn("garbage collection failed, it is repeated", "err", err)
		}
	}
}

// Collect does one round. Its errors are joined: one instance that cannot be
// ended does not protect the others.
func (c *Collector) Collect(ctx context.Context) error {
	err := errors.Join(c.collect(ctx), c.sweep(ctx))
	result := "ok"
	if err != nil {
		result = "failed"
	}
	c.rounds.WithLabelValues(result).Inc()
	return err
}

func (c *Collector) collect(ctx context.Context) error {
	instances, err := c.cfg.Cloud.List(ctx)
	if err != nil {
		return fmt.Errorf("listing instances: %w", err)
	}
	var list v1beta1.CellList
	if err := c.cfg.Cells.List(ctx, &list); err != nil {
		return fmt.Errorf("listing cells: %w", err)
	}
	cells := make(map[types.UID]*v1beta1.Cell, len(list.Items))
	for i := range list.Items {
		cells[list.Items[i].UID] = &list.Items[i]
	}
	before, told := c.suspects, c.told
	c.suspects, c.told = map[string]bool{}, map[string]bool{}
	var errs []error
	for _, i := range instances {
		if !c.costs(i) || leak(i, cells[i.CellUID]) == "" {
			continue
		}
		c.suspects[i.ID], c.told[i.ID] = true, told[i.ID]
		if before[i.ID] {
			errs = append(errs, c.end(ctx, i))
		}
	}
	return errors.Join(errs...)
}

// costs: it costs money and is old enough to be judged.
func (c *Collector) costs(i cloudprovider.Instance) bool {
	return i.State != cloudprovider.StateTerminated && i.State != cloudprovider.StateShuttingDown &&
		c.cfg.Clock.Since(i.LaunchTime) >= c.cfg.Grace
}

// leak says why a Cell (nil: there is none) does not account for an instance,
// "" if it does.
func leak(i cloudprovider.Instance, cell *v1beta1.Cell) string {
	switch {
	case cell == nil || cell.UID != i.CellUID:
		return "no-cell"
	case cell.Status.InstanceID != "" && cell.Status.InstanceID != i.ID:
		return "duplicate"
	default:
		return ""
	}
}

// end terminates an instance after asking for its Cell once more.
func (c *Collector) end(ctx context.Context, i cloudprovider.Instance) error {
	cell := &v1beta1.Cell{}
	err := c.cfg.Live.Get(ctx, types.NamespacedName{Name: i.CellName}, cell)
	if apierrors.IsNotFound(err) || i.CellName == "" {
		cell = nil
	} else if err != nil {
		return fmt.Errorf("reading cell %s: %w", i.CellName, err)
	}
	why := leak(i, cell)
	if why == "" {
		return nil
	}
	if c.cfg.DryRun {
		if !c.told[i.ID] {
			c.told[i.ID] = true
			c.tell(i, why, "dry run, it is left as it is")
		}
		return nil
	}
	if err := c.unroute(ctx, i); err != nil {
		return err
	}
	if err := c.cfg.Cloud.Delete(ctx, i.ID); err != nil && !cloudprovider.IsNotFound(err) {
		return fmt.Errorf("terminating leaked instance %s: %w", i.ID, err)
	}
	c.tell(i, why, "terminated")
	return nil
}

func (c *Collector) tell(i cloudprovider.Instance, why, then string) {
	c.leaked.WithLabelValues(why).Inc()
	c.cfg.Logger.Warn("leaked instance", "instance", i.ID, "type", i.InstanceType, "zone", i.Zone,
		"cell", i.CellName, "why", why, "launched", i.LaunchTime, "then", then)
	c.cfg.Events.Eventf(c.node(), corev1.EventTypeWarning, "InstanceLeaked", "instance %s (%s) of cell %q has no Cell to account for it (%s): %s",
		i.ID, i.InstanceType, i.CellName, why, then)
}

// node is what events are about.
func (c *Collector) node() *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: c.cfg.NodeName, UID: types.UID(c.cfg.NodeName)}
}

// unroute removes the routes to an instance while they can still be told for
// its own: nobody will know its interface afterwards. Lacking the right is no
// reason to let the instance run.
func (c *Collector) unroute(ctx context.Context, i cloudprovider.Instance) error {
	if c.cfg.Routes == nil {
		return nil
	}
	err := c.cfg.Routes.RemoveRoutes(ctx, cloudprovider.RouteTarget{InstanceID: i.ID, NetworkInterface: i.NetworkInterface})
	if cloudprovider.KindOf(err) == cloudprovider.Denied {
		c.cfg.Logger.Warn("routes to a leaked instance may stay", "instance", i.ID, "err", err)
		return nil
	}
	return err
}
