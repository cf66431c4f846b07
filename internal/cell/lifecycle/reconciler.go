package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cell/limits"
	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/instancetype"
)

// DefaultBootTimeout is how long an instance may take from its launch until it
// enrolled. An EC2 instance that did not boot after five minutes does not boot.
const DefaultBootTimeout = 5 * time.Minute

// Config is everything that a Reconciler needs from outside.
type Config struct {
	// Client reads Cells, and the pods of NodeName; a cache that lags behind
	// is expected. Live reads Cells from the API server itself.
	Client client.Client
	Live   client.Reader
	Cloud  cloudprovider.Provider
	// Routes makes routes to instances; nil where the cloud has none.
	Routes cloudprovider.Router
	// NodeName restricts the reconciler to the Cells of one virtual node.
	NodeName string

	// Offerings finds what fits, cheapest first: Region.Offerings of
	// instancetype. Options are passed on to it, after Zones, Unavailable, Now
	// and Limit were filled in.
	Offerings func(v1beta1.Requirements, instancetype.Options) instancetype.Result
	Options   instancetype.Options

	// UserData makes what the instance reads about itself. It must give the
	// same bytes for the same Cell: a launch may have to be repeated.
	UserData func(*v1beta1.Cell) ([]byte, error)
	// Authorities are what a Cell's first intent says of certificate authorities:
	// those that UserData makes user data with.
	Authorities []string

	// Listens says whether the cell's agent was reached, of a cell that is not
	// enrolled before it was stopped; nil if there are none. It answers from memory.
	Listens func(cell string) bool

	// MayLaunch returns why nothing may be launched, nil if something may; nil
	// means always. It answers from memory.
	MayLaunch func() error
	// Ended counts the use of an enrolled Cell that is about to go, however
	// often it is called. The Cell goes when it returned nil; nil means that
	// nobody counts.
	Ended func(context.Context, *v1beta1.Cell) error

	// Limits are what may be launched, nothing forbidden if zero.
	Limits limits.Limits

	// BootTimeout is DefaultBootTimeout if 0.
	BootTimeout time.Duration

	Clock   clock.Clock
	Events  record.EventRecorder
	Metrics prometheus.Registerer
	Logger  *slog.Logger
}

// Reconciler drives the Cells of one virtual node. It starts no goroutines;
// Start runs in that of its caller.
type Reconciler struct {
	cfg         Config
	started     time.Time
	unavailable *instancetype.Unavailable
	// unstartable are offerings of which a stopped instance could not be started a
	// short while ago.
	unstartable *instancetype.Unavailable
	seen        *observer
	metrics     *metrics

	limits *limits.Ledger
	// filled and launchesFilled: the ledger knows what was before this Kip.
	filling                sync.Mutex
	filled, launchesFilled bool

	mu       sync.Mutex
	memories map[types.UID]*memory
	names    map[string]types.UID

	// changed tells the controller which Cells to look at again.
	changed chan event.GenericEvent
}

// New checks the configuration and registers metrics. It starts nothing.
func New(cfg Config) (*Reconciler, error) {
	switch {
	case cfg.Client == nil, cfg.Live == nil, cfg.Cloud == nil, cfg.Offerings == nil, cfg.UserData == nil,
		cfg.Clock == nil, cfg.Events == nil, cfg.Metrics == nil, cfg.Logger == nil:
		return nil, errors.New("lifecycle: every field of Config but BootTimeout, Ended, Limits, Listens, MayLaunch, Options and Routes must be set")
	case cfg.NodeName == "":
		return nil, errors.New("lifecycle: node name is empty")
	}
	if cfg.BootTimeout == 0 {
		cfg.BootTimeout = DefaultBootTimeout
	}
	m, err := newMetrics(cfg.Metrics)
	if err != nil {
		return nil, err
	}
	ledger, err := limits.New(cfg.Limits, cfg.Clock, cfg.Metrics)
	if err != nil {
		return nil, fmt.Errorf("lifecycle: %w", err)
	}
	return &Reconciler{
		limits: ledger,
		cfg:    cfg, started: cfg.Clock.Now(), unavailable: &instancetype.Unavailable{}, unstartable: &instancetype.Unavailable{},
		seen: newObserver(cfg.Cloud, cfg.Clock), metrics: m,
		memories: map[types.UID]*memory{}, names: map[string]types.UID{},
		changed: make(chan event.GenericEvent),
	}, nil
}

// Reconcile implements reconcile.Reconciler for one Cell. It may be called for
// different Cells at the same time, for one Cell one call at a time.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	if err := r.fillLimits(ctx); err != nil {
		return reconcile.Result{}, err
	}
	cell := &v1beta1.Cell{}
	if err := r.cfg.Client.Get(ctx, req.NamespacedName, cell); err != nil {
		if apierrors.IsNotFound(err) {
			return r.vanished(ctx, req.Name)
		}
		return reconcile.Result{}, fmt.Errorf("reading cell %s: %w", req.Name, err)
	}
	if cell.Spec.NodeName != r.cfg.NodeName {
		return reconcile.Result{}, nil
	}
	s := r.newScope(cell)
	if s.mem.newerThan(cell) {
		// The cache does not have our own last write yet. Its event will come;
		// the requeue is for the case that it came between Get and here.
		return reconcile.Result{RequeueAfter: 100 * time.Millisecond}, nil
	}
	if ok, err := r.settled(ctx, s); !ok {
		return reconcile.Result{RequeueAfter: 100 * time.Millisecond}, client.IgnoreNotFound(err)
	}
	result, err := r.step(ctx, s)
	if err == nil {
		err = r.write(ctx, s)
	}
	if err == nil {
		r.limits.Note(s.base)
	}
	if apierrors.IsConflict(err) {
		// Somebody else wrote first. Nothing was lost: their write comes
		// through the watch, however late, and everything is decided again.
		result, err = reconcile.Result{RequeueAfter: time.Second}, nil
	}
	if apierrors.IsNotFound(err) {
		r.forget(req.Name)
		return reconcile.Result{}, nil
	}
	r.metrics.phase(s.mem, s.cell.Status.Phase)
	r.seen.transitional(s.cell.UID, s.inTransition())
	return result, err
}

// step does what the Cell's state asks for. It changes s.cell's status in
// memory; only what must be on record before going on is written in between.
func (r *Reconciler) step(ctx context.Context, s *scope) (reconcile.Result, error) {
	status := &s.cell.Status
	switch {
	case !s.cell.DeletionTimestamp.IsZero():
		return r.terminate(ctx, s)
	case !controllerutil.ContainsFinalizer(s.cell, v1beta1.Finalizer):
		return reconcile.Result{}, r.addFinalizer(ctx, s)
	case status.Failure != nil && s.reason() != v1beta1.ReasonInstanceGone:
		return r.fail(ctx, s)
	case status.Phase == v1beta1.CellTerminating:
		return r.afterLoss(ctx, s)
	case status.InstanceID == "":
		return r.launch(ctx, s)
	default:
		return r.follow(ctx, s)
	}
}
