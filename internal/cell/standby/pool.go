package standby

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/instancetype"
)

const (
	// recheck is how often the pools are looked at without news of their cells:
	// there may be a newer machine image.
	recheck = time.Minute

	// unseenFor is how long a cell that was made counts although the cache does
	// not know it.
	unseenFor = 30 * time.Second

	// A pool whose cells do not come up is filled again after a time that
	// doubles with each that was lost: instances that end at once cost money too.
	firstPause   = 30 * time.Second
	longestPause = 15 * time.Minute
)

// Pool is a number of cells of one kind.
type Pool struct {
	InstanceType string
	Architecture string
	CapacityType v1beta1.CapacityType
	Count        int
	// GPUs is how many the type has, all of which the pod gets.
	GPUs int32
	// Stopped: the instances are kept stopped.
	Stopped bool
}

// key tells pools apart.
type key struct {
	instanceType string
	capacityType v1beta1.CapacityType
	stopped      bool
}

func (p Pool) key() key { return key{p.InstanceType, p.CapacityType, p.Stopped} }

// Requirements are those of a pool's cells.
func Requirements(pool Pool) v1beta1.Requirements {
	return v1beta1.Requirements{
		InstanceTypes: []string{pool.InstanceType}, Architectures: []string{pool.Architecture},
		CapacityTypes: []v1beta1.CapacityType{pool.CapacityType}, GPUs: pool.GPUs,
	}
}

// keyOf is the pool that a standby cell was made for.
func keyOf(cell *v1beta1.Cell) key {
	var k key
	if r := cell.Spec.Requirements; len(r.InstanceTypes) == 1 && len(r.CapacityTypes) == 1 {
		k = key{r.InstanceTypes[0], r.CapacityTypes[0], cell.Spec.Standby.Stopped}
	}
	return k
}

// Config is what a Controller needs from outside.
type Config struct {
	// Client reads Cells, from a cache that may lag, and writes them.
	Client   client.Client
	NodeName string
	// Pools are those that are to be; cells of others are ended.
	Pools []Pool
	// Tolerance is by how much, as a part of the price, a standby cell may cost
	// more than what would be launched for a pod.
	Tolerance float64

	// Configuration is a hash of all that decides what an instance of the type
	// is, as it would be launched now.
	Configuration func(ctx context.Context, instanceType string) (string, error)
	// Zones are those in which an instance can be launched now. Zone is where all
	// cells have to be, if anywhere.
	Zones func(context.Context) ([]string, error)
	Zone  string
	// Offerings are lifecycle.Reconciler's.
	Offerings func(context.Context, v1beta1.CellSpec) (fit []instancetype.Offering, next *instancetype.Offering, err error)
	// Limits are asked before a cell is given to a namespace's pod.
	Limits Limits
	// Reachable says whether Kip is connected to the cell.
	Reachable func(cell string) bool
	// Startable says whether the instance of a cell that is kept stopped can be
	// started, as far as is known.
	Startable func(*v1beta1.Cell) bool
	// VolumeGiB and PrivateIPOnly are what cells have that say nothing of it.
	VolumeGiB     int32
	PrivateIPOnly bool

	Clock   clock.Clock
	Metrics prometheus.Registerer
	Logger  *slog.Logger
}

// Limits are those of namespaces; *limits.Ledger says what each method does.
type Limits interface {
	Give(cell *v1beta1.Cell, namespace string) bool
	TakeBack(cell *v1beta1.Cell)
}

// Controller keeps the pools of one virtual node full.
type Controller struct {
	cfg     Config
	metrics *metrics

	// Reconcile's own; it runs once at a time.
	made    map[string]made // cells, by name, that the cache does not know yet
	trouble map[key]*trouble
	serial  int

	mu sync.Mutex
	// current are the configurations as of the last look, by instance type. A
	// cell of another one is not given to a pod.
	current map[string]string
	// reserved are cells, by UID, that a pod is about to take, or took without
	// the cache knowing yet.
	reserved map[types.UID]bool
}

// made is which pool a cell was made for, and when.
type made struct {
	key
	at time.Time
}

// trouble is about a pool whose cells do not come up.
type trouble struct {
	lost  int
	pause time.Time // nothing is made before
}

// New checks the configuration and registers metrics. It starts nothing.
func New(cfg Config) (*Controller, error) {
	switch {
	case cfg.Client == nil, cfg.Configuration == nil, cfg.Zones == nil, cfg.Offerings == nil, cfg.Limits == nil, cfg.Reachable == nil, cfg.Startable == nil,
		cfg.Clock == nil, cfg.Metrics == nil, cfg.Logger == nil:
		return nil, errors.New("standby: every field of Config but Pools, PrivateIPOnly, Tolerance, VolumeGiB and Zone must be set")
	case cfg.NodeName == "":
		return nil, errors.New("standby: node name is empty")
	}
	m, err := newMetrics(cfg.Metrics)
	if err != nil {
		return nil, err
	}
	return &Controller{
		cfg: cfg, metrics: m, made: map[string]made{}, trouble: map[key]*trouble{}, current: map[string]string{},
		reserved: map[types.UID]bool{},
	}, nil
}

// Reconcile makes the pools what they are to be. It is one look at all of them,
// whatever the request.
func (c *Controller) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	var list v1beta1.CellList
	// Thousands of cells, of which nothing is changed here.
	if err := c.cfg.Client.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, fmt.Errorf("standby: listing cells: %w", err)
	}
	waiting := map[key][]*v1beta1.Cell{}
	uids := map[types.UID]bool{}
	for i := range list.Items {
		cell := &list.Items[i]
		delete(c.made, cell.Name)
		if cell.Spec.NodeName == c.cfg.NodeName && cell.Waiting() && cell.DeletionTimestamp == nil {
			waiting[keyOf(cell)] = append(waiting[keyOf(cell)], cell)
			uids[cell.UID] = true
		}
	}
	c.mu.Lock()
	maps.DeleteFunc(c.reserved, func(uid types.UID, _ bool) bool { return !uids[uid] })
	c.mu.Unlock()
	wait := recheck
	var errs []error
	for _, pool := range c.cfg.Pools {
		again, err := c.keep(ctx, pool, waiting[pool.key()])
		errs = append(errs, err)
		wait = min(wait, again)
		delete(waiting, pool.key())
	}
	for _, cells := range waiting {
		for _, cell := range cells {
			errs = append(errs, c.end(ctx, cell, "no standby cells of its kind are configured"))
		}
	}
	return reconcile.Result{RequeueAfter: wait}, errors.Join(errs...)
}

// keep looks at one pool, and says when to look again at the latest.
func (c *Controller) keep(ctx context.Context, pool Pool, cells []*v1beta1.Cell) (time.Duration, error) {
	configuration, err := c.cfg.Configuration(ctx, pool.InstanceType)
	if err != nil {
		return recheck, fmt.Errorf("standby: finding out how %s is launched: %w", pool.InstanceType, err)
	}
	c.mu.Lock()
	c.current[pool.InstanceType] = configuration
	c.mu.Unlock()

	var errs []error
	kept := make([]*v1beta1.Cell, 0, len(cells))
	for _, cell := range cells {
		switch why := spent(cell); {
		case why != "":
			c.lost(pool, cell, why)
			errs = append(errs, c.end(ctx, cell, why))
		case cell.Spec.Standby.Configuration != configuration:
			errs = append(errs, c.end(ctx, cell, "the configuration, the machine image or the cells' software is another now"))
		default:
			kept = append(kept, cell)
		}
	}
	// What waits and has done so for long is kept first.
	slices.SortFunc(kept, func(a, b *v1beta1.Cell) int {
		return cmp.Or(boolCompare(ready(b), ready(a)), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
	})
	for len(kept) > pool.Count {
		last := kept[len(kept)-1]
		kept = kept[:len(kept)-1]
		errs = append(errs, c.end(ctx, last, "there are more standby cells of its kind than configured"))
	}
	for _, cell := range kept {
		errs = append(errs, c.anywhere(ctx, cell))
	}
	up := 0
	for _, cell := range kept {
		if ready(cell) {
			up++
		}
	}
	if up > 0 {
		delete(c.trouble, pool.key())
	}
	missing := pool.Count - len(kept) - c.unseen(pool)
	c.metrics.count(pool, up, len(kept)-up)
	wait := recheck
	if t := c.trouble[pool.key()]; t != nil && missing > 0 {
		if left := t.pause.Sub(c.cfg.Clock.Now()); left > 0 {
			return min(wait, left), errors.Join(errs...)
		}
		missing = max(1-(pool.Count-missing), 0) // one tells whether it is over
	}
	if missing > 0 {
		errs = append(errs, c.fill(ctx, pool, configuration, kept, missing))
	}
	return wait, errors.Join(errs...)
}

func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// spent says why a cell without a pod will never be given one, "" if it may.
func spent(cell *v1beta1.Cell) string {
	s := &cell.Status
	switch {
	case s.Failure != nil:
		return "it was given up: " + s.Failure.Message
	case s.Interruption != nil:
		return "the cloud takes its instance"
	case s.Phase == v1beta1.CellTerminating:
		return "its instance is of no use any more"
	}
	return ""
}

// ready: its kubelet may be shown a pod, or its instance started for one.
func ready(cell *v1beta1.Cell) bool {
	return cameUp(cell) && (cell.Status.Phase == v1beta1.CellReady || cell.Status.Phase == v1beta1.CellStopped) &&
		spent(cell) == "" && cell.DeletionTimestamp == nil
}

// cameUp says whether the instance has booted and, if that is the point of it, was
// stopped.
func cameUp(cell *v1beta1.Cell) bool {
	return cell.Status.Enrolment != nil || cell.Status.Stop != nil && cell.Status.Stop.Stopped != nil
}

// lost counts cells that never came up.
func (c *Controller) lost(pool Pool, cell *v1beta1.Cell, why string) {
	if cameUp(cell) {
		return
	}
	t := c.trouble[pool.key()]
	if t == nil {
		t = &trouble{}
		c.trouble[pool.key()] = t
	}
	pause := min(firstPause<<min(t.lost, 10), longestPause)
	t.lost++
	t.pause = c.cfg.Clock.Now().Add(pause)
	c.cfg.Logger.Warn("standby cell did not come up", "cell", cell.Name, "type", pool.InstanceType, "why", why, "nextIn", pause)
}

// unseen counts the cells of a pool that were made and are not in the cache.
func (c *Controller) unseen(pool Pool) int {
	n := 0
	for name, m := range c.made {
		switch {
		case c.cfg.Clock.Since(m.at) > unseenFor:
			delete(c.made, name) // it came and went between two looks
		case m.key == pool.key():
			n++
		}
	}
	return n
}

// fill makes the cells that are missing.
func (c *Controller) fill(ctx context.Context, pool Pool, configuration string, kept []*v1beta1.Cell, missing int) error {
	zones, err := c.zones(ctx)
	if err != nil {
		return fmt.Errorf("standby: finding zones: %w", err)
	}
	there := zonesOf(kept)
	for range missing {
		zone := emptiest(zones, there)
		there[zone]++
		if err := c.make(ctx, pool, configuration, zone); err != nil {
			return err
		}
	}
	return nil
}

// make writes a Cell that is for no pod yet. The Cell is the intent; the cloud is
// not called here.
func (c *Controller) make(ctx context.Context, pool Pool, configuration, zone string) error {
	cell := &v1beta1.Cell{
		ObjectMeta: metav1.ObjectMeta{
			Name:       c.name(pool),
			Labels:     map[string]string{v1beta1.LabelNode: c.cfg.NodeName},
			Finalizers: []string{v1beta1.Finalizer},
		},
		Spec: v1beta1.CellSpec{
			NodeName:     c.cfg.NodeName,
			Standby:      &v1beta1.StandbySpec{Configuration: configuration, Stopped: pool.Stopped},
			Requirements: Requirements(pool),
		},
	}
	if zone != "" {
		cell.Spec.Requirements.Zones = []string{zone}
	}
	if err := c.cfg.Client.Create(ctx, cell); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("writing a standby cell: %w", err)
	}
	c.made[cell.Name] = made{pool.key(), c.cfg.Clock.Now()}
	c.cfg.Logger.Info("standby cell made", "cell", cell.Name, "type", pool.InstanceType, "capacityType", pool.CapacityType, "zone", zone, "stopped", pool.Stopped)
	return nil
}

// name is one that no cell had, and says what kind it is.
func (c *Controller) name(pool Pool) string {
	c.serial++
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%d/%d", c.cfg.NodeName, c.cfg.Clock.Now().UnixNano(), c.serial))
	return "standby-" + strings.ReplaceAll(pool.InstanceType, ".", "-") + "-" + hex.EncodeToString(sum[:5])
}

// end deletes a cell unless it is not as it was looked at: a pod may have taken
// it.
func (c *Controller) end(ctx context.Context, cell *v1beta1.Cell, why string) error {
	err := c.cfg.Client.Delete(ctx, cell.DeepCopy(), client.Preconditions{UID: &cell.UID, ResourceVersion: &cell.ResourceVersion})
	switch {
	case apierrors.IsConflict(err), apierrors.IsNotFound(err):
		return nil // its event brings us back
	case err != nil:
		return fmt.Errorf("deleting standby cell %s: %w", cell.Name, err)
	}
	c.cfg.Logger.Info("standby cell ended", "cell", cell.Name, "instance", cell.Status.InstanceID, "why", why)
	return nil
}

// reason is that of the cell's condition.
func reason(cell *v1beta1.Cell) string {
	if c := meta.FindStatusCondition(cell.Status.Conditions, v1beta1.ConditionReady); c != nil {
		return c.Reason
	}
	return ""
}
