package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/gateway/watchcache"
)

// Cell is what the gateway must know of a cell.
type Cell struct {
	// Name is the cell's name, which the tunnel has proven.
	Name string
	// NodeName is the virtual node that the cell's kubelet believes to be.
	NodeName string
	// PodUID is the pod that is bound to the cell, empty while it is standby.
	// It stays when the pod is gone: a cell is never given another.
	PodUID types.UID
	// Capacity is what the instance offers to its pod. It wins over what the
	// kubelet finds out by itself, resource by resource.
	Capacity corev1.ResourceList
	// InternalIP is the instance's primary address: the node's, and that of a
	// pod in the host's network. PodIP is the pod's own. Both may be empty
	// while they are not known.
	InternalIP string
	PodIP      string
	// Labels are the virtual node's and the instance's own. They win over
	// what the kubelet sets.
	Labels map[string]string
}

// State is what the provider knows of cells and pods. Its methods must not
// block and must not call the gateway; they may be called from any goroutine.
type State interface {
	// Cell returns a cell. It returns false until Kip knows for sure which pod
	// the cell has, and after the cell is gone: the kubelet is told to wait
	// then. Anything else after a restart of Kip would end running pods.
	Cell(name string) (Cell, bool)

	// Pod returns the pod bound to the cell, with the newest status that Kip
	// has; nil means for sure that there is none (standby) or none any more.
	// The gateway does not modify it, nor may anybody else.
	Pod(cell string) *corev1.Pod

	// Subscribe returns a channel, of capacity 1, that gets a value after each
	// change of what Cell or Pod return for this cell. cancel ends it.
	Subscribe(cell string) (changed <-chan struct{}, cancel func())
}

// Sink takes what cells report. Calls may come at the same time, also for the
// same cell.
type Sink interface {
	// SetPodStatus makes status the pod's, the newest wins, and returns the
	// pod as State.Pod would. The error may be an API status error, such as
	// NotFound if the cell has no such pod.
	SetPodStatus(ctx context.Context, cell string, uid types.UID, status corev1.PodStatus) (*corev1.Pod, error)

	// PodTerminated says that all of a pod that was being deleted has ended
	// and been cleaned up: the pod's object can go.
	PodTerminated(ctx context.Context, cell string, uid types.UID) error

	// Heartbeat says that the cell's kubelet lives, and what it says of itself if
	// it does not work: why its node is not ready. It must not block.
	Heartbeat(cell, trouble string)

	// Interruption says that the cloud is about to take the instance away.
	Interruption(ctx context.Context, cell string, i Interruption) error
}

// InterruptionKind is what the cloud announced.
type InterruptionKind string

const (
	// SpotInterruption: the instance is ended at the given time.
	SpotInterruption InterruptionKind = v1beta1.SpotInterruption
	// RebalanceRecommendation: the instance is likely to be interrupted.
	RebalanceRecommendation InterruptionKind = "rebalance-recommendation"
)

// Interruption is a notice of the cloud about one instance, as the agent read
// it from the instance metadata service.
type Interruption struct {
	Kind InterruptionKind `json:"kind"`
	// Action is what will be done: "terminate", "stop" or "hibernate"; empty
	// for a recommendation.
	Action string `json:"action,omitempty"`
	// Time is when, or for a recommendation when it was made.
	Time time.Time `json:"time"`
}

// Config is what a Gateway is made of.
type Config struct {
	State      State
	Sink       Sink
	Registries Registries
	PodMetrics PodMetrics
	// ImageCache may be nil: there is none then.
	ImageCache ImageCache
	// CacheReports may be nil: nobody wants to know.
	CacheReports CacheReports
	// Upstream leads to the API server as Kip. The gateway uses it only with
	// the impersonation of a virtual node. It must not impersonate already.
	Upstream *rest.Config
	// Client reads, as Kip itself, the resources that all cells share.
	Client kubernetes.Interface
	// Missing is told, once for each object, that what a cell's pod refers to is
	// not there. It must not block; nil means that nobody wants to know.
	Missing func(pod *corev1.Pod, m Missing)
	// Clock tells the time; nil is the real one.
	Clock clock.WithTicker
	// Metrics is where the gateway's metrics are registered.
	Metrics prometheus.Registerer
	// Log may be nil.
	Log *slog.Logger
}

// Gateway shows each cell the part of the Kubernetes API that is its own.
type Gateway struct {
	state        State
	sink         Sink
	registries   Registries
	podMetrics   PodMetrics
	cacheReports CacheReports
	imageCache   ImageCache
	missing      func(*corev1.Pod, Missing)
	upstream     *upstream
	clock        clock.WithTicker
	metrics      *metrics
	log          *slog.Logger
	versions     *watchcache.Versions
	shared       []*sharedResource
	following    following

	// refusals limits the log lines about refused requests, for all cells
	// together.
	refusals *rate.Limiter

	mu    sync.Mutex
	cells map[string]*cellState
}

// New makes a Gateway. Its caches are filled once Start runs.
func New(config Config) (*Gateway, error) {
	if config.State == nil || config.Sink == nil || config.Registries == nil || config.PodMetrics == nil || config.Upstream == nil || config.Client == nil || config.Metrics == nil {
		return nil, errors.New("making a gateway: State, Sink, Registries, PodMetrics, Upstream, Client and Metrics must be set")
	}
	g := &Gateway{
		state:        config.State,
		sink:         config.Sink,
		registries:   config.Registries,
		podMetrics:   config.PodMetrics,
		cacheReports: config.CacheReports,
		imageCache:   config.ImageCache,
		missing:      config.Missing,
		clock:        config.Clock,
		log:          config.Log,
		refusals:     rate.NewLimiter(rate.Every(time.Second), 20),
		cells:        map[string]*cellState{},
		following:    following{all: map[followedKey]*followed{}},
	}
	if g.clock == nil {
		g.clock = clock.RealClock{}
	}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	g.versions = watchcache.NewVersions(g.clock.Now())
	g.shared = newSharedResources(config.Client, g.versions)
	var err error
	if g.upstream, err = newUpstream(config.Upstream); err != nil {
		return nil, fmt.Errorf("making a gateway: %w", err)
	}
	if g.metrics, err = newMetrics(config.Metrics); err != nil {
		return nil, fmt.Errorf("making a gateway: %w", err)
	}
	return g, nil
}

// sweepInterval is how often the gateway looks at cells that nobody asks about.
const sweepInterval = time.Minute

// Start fills the caches that all cells share and keeps them so until ctx
// ends. It returns when all it started has ended. Requests that come before
// wait a little, and are then told to come again.
func (g *Gateway) Start(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer g.following.stop()
	for _, s := range g.shared {
		wg.Go(func() { s.reflector.RunWithContext(ctx) })
	}
	ticker := g.clock.NewTicker(sweepInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
			g.sweep()
		}
	}
}

// sweep forgets the cells that are gone, ends what pods that are gone left
// open, and counts the shared objects.
func (g *Gateway) sweep() {
	g.mu.Lock()
	cells := make([]*cellState, 0, len(g.cells))
	for _, c := range g.cells {
		cells = append(cells, c)
	}
	g.mu.Unlock()
	for _, c := range cells {
		if _, ok := g.state.Cell(c.name); ok {
			c.refreshPod()
			continue
		}
		c.endStreams()
		g.mu.Lock()
		delete(g.cells, c.name)
		g.mu.Unlock()
	}
	for _, s := range g.shared {
		g.metrics.objects.WithLabelValues(s.resource.Resource).Set(float64(s.collection.Len()))
	}
}

// ForCell returns the handler of everything that the named cell asks. The
// caller vouches for the name: it is what the tunnel has proven. Handlers of
// the same cell share what its kubelet has written, so that nothing is lost
// when the cell's connection is made anew.
func (g *Gateway) ForCell(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { g.serve(name, w, r) })
}

// cell returns the memory of a cell, made if need be.
func (g *Gateway) cell(name string) *cellState {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.cells[name]
	if c == nil {
		c = newCellState(g, name)
		g.cells[name] = c
	}
	return c
}
