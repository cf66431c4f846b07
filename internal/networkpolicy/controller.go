package networkpolicy

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cell"
	"github.com/elotl/kip/v2/internal/networkpolicy/rules"
)

// ReasonNotEnforced is the reason of the event on a pod whose cell cannot
// enforce the pod's network policy.
const ReasonNotEnforced = "NetworkPolicyNotEnforced"

const (
	// coalesce is how long changes are gathered before cells are told: a
	// Deployment that scales is many changes.
	coalesce = 50 * time.Millisecond
	// tellers bounds how many cells are told at a time.
	tellers = 32
	// tellTimeout bounds how long one is told.
	tellTimeout = 10 * time.Second
	// minRetry and maxRetry are the times between attempts for a cell that is
	// connected and does not take its rules.
	minRetry, maxRetry = 200 * time.Millisecond, 30 * time.Second
)

// Config is what a Controller needs from outside. All is required.
type Config struct {
	// NodeName is the virtual node whose cells to tell.
	NodeName string
	// Client reads Cells, from a cache.
	Client client.Reader
	// Kube watches policies, namespaces and pods.
	Kube kubernetes.Interface
	// Transport reaches a cell's agent. An error means that it cannot be reached
	// now; Connected is called when it can.
	Transport func(cell string) (http.RoundTripper, error)

	Events  record.EventRecorder
	Clock   clock.WithTicker
	Metrics prometheus.Registerer
	Log     *slog.Logger
}

// Controller tells agents what to enforce.
type Controller struct {
	cfg     Config
	index   *index
	sources []source
	metrics *metrics
	queue   workqueue.TypedRateLimitingInterface[string]

	mu sync.Mutex
	// cells is what each cell was told last.
	cells map[string]told
	// connected are cells that may have another agent than before: it is asked,
	// by a change of nothing, whether it has what the cell was told.
	connected map[string]bool
	// reported is what is known to users of a cell's failure.
	reported map[string]string
}

var (
	_ reconcile.Reconciler           = (*Controller)(nil)
	_ manager.Runnable               = (*Controller)(nil)
	_ manager.LeaderElectionRunnable = (*Controller)(nil)
)

// New checks the configuration and registers metrics. It starts nothing.
func New(cfg Config) (*Controller, error) {
	switch {
	case cfg.Client == nil, cfg.Kube == nil, cfg.Transport == nil, cfg.Events == nil, cfg.Clock == nil, cfg.Metrics == nil, cfg.Log == nil:
		return nil, errors.New("networkpolicy: every field of Config must be set")
	case cfg.NodeName == "":
		return nil, errors.New("networkpolicy: node name is empty")
	}
	c := &Controller{
		cfg: cfg,
		queue: workqueue.NewTypedRateLimitingQueueWithConfig(
			workqueue.NewTypedItemExponentialFailureRateLimiter[string](minRetry, maxRetry),
			workqueue.TypedRateLimitingQueueConfig[string]{Clock: cfg.Clock},
		),
		cells: map[string]told{}, connected: map[string]bool{}, reported: map[string]string{},
	}
	c.index = newIndex(rand.Text(), cfg.Clock.Now, func(cell string) { c.queue.AddAfter(cell, coalesce) })
	c.sources = c.newSources()
	var err error
	if c.metrics, err = newMetrics(cfg.Metrics, c.index.pending); err != nil {
		return nil, err
	}
	return c, nil
}

// SetupWithManager registers the controller of Cells, what watches the cluster
// and, as a runnable of the leader, Start.
func (c *Controller) SetupWithManager(mgr ctrl.Manager) error {
	for _, run := range []manager.Runnable{watcher{c}, c} {
		if err := mgr.Add(run); err != nil {
			return fmt.Errorf("networkpolicy: adding the controller: %w", err)
		}
	}
	err := ctrl.NewControllerManagedBy(mgr).
		Named("networkpolicy").
		For(&v1beta1.Cell{}, builder.WithPredicates(cell.OfNode(c.cfg.NodeName))).
		Complete(c)
	if err != nil {
		return fmt.Errorf("networkpolicy: setting up the controller: %w", err)
	}
	return nil
}

// NeedLeaderElection implements manager.LeaderElectionRunnable.
func (c *Controller) NeedLeaderElection() bool { return true }

// Reconcile takes note of which pod a Cell has, and of its address.
func (c *Controller) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var cell v1beta1.Cell
	err := c.cfg.Client.Get(ctx, req.NamespacedName, &cell)
	if apierrors.IsNotFound(err) {
		c.index.removeCell(req.Name)
		c.forget(req.Name)
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("networkpolicy: reading the Cell: %w", err)
	}
	// A standby cell that may still lose its pod to another is told nothing of it.
	if ref := cell.Spec.Pod; cell.Settled() {
		address, _ := netip.ParseAddr(cell.Status.PodIP) // none yet is not valid
		if c.index.putCell(cell.Name, podKey{ref.Namespace, ref.Name}, ref.UID, address) {
			c.queue.Add(cell.Name) // at once, if it waits for its pod with everything else done
		}
	}
	return reconcile.Result{}, nil
}

// Connected is called when a cell's agent can be reached, anew or again. It does
// not wait.
func (c *Controller) Connected(cell string) {
	c.mu.Lock()
	c.connected[cell] = true
	c.mu.Unlock()
	c.queue.Add(cell)
}

// watcher is the part of a Controller that runs in every Kip.
type watcher struct{ *Controller }

var _ manager.LeaderElectionRunnable = watcher{}

func (watcher) NeedLeaderElection() bool { return false }

// Start watches all that policies are about, until the context ends. Of a large
// cluster that is much, so that a Kip that stands by has read it before it leads.
func (w watcher) Start(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, s := range w.sources {
		wg.Go(func() { s.reflector.RunWithContext(ctx) })
	}
	return nil
}

// Start tells cells, until the context ends, what follows from what is watched.
func (c *Controller) Start(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer c.queue.ShutDown()
	// Before all is known, a policy that denies may be among what is not.
	for _, s := range c.sources {
		select {
		case <-s.synced:
		case <-ctx.Done():
			return nil
		}
	}
	for range tellers {
		wg.Go(func() {
			for c.tellNext(ctx) {
			}
		})
	}
	<-ctx.Done()
	return nil
}

// tellNext is false when there is nothing more to do.
func (c *Controller) tellNext(ctx context.Context) bool {
	cell, shutdown := c.queue.Get()
	if shutdown {
		return false
	}
	defer c.queue.Done(cell)
	again, err := c.tell(ctx, cell)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		// The first time it may just be the cell's end.
		if c.queue.NumRequeues(cell) > 0 {
			c.report(cell, err)
		}
		c.queue.AddRateLimited(cell)
	case again:
		c.queue.Add(cell)
	default:
		c.queue.Forget(cell)
	}
	return true
}

// tell tells a cell what it does not know yet. A cell that cannot be reached is
// told when it can. again means that it is to be told the whole.
func (c *Controller) tell(ctx context.Context, cell string) (again bool, err error) {
	transport, err := c.cfg.Transport(cell)
	if err != nil {
		return false, nil //nolint:nilerr // Connected is called when it can be reached
	}
	c.mu.Lock()
	last, ask := c.cells[cell], c.connected[cell]
	delete(c.connected, cell)
	c.mu.Unlock()
	update, now, since, ok := c.index.next(cell, last)
	if !ok {
		return false, nil
	}
	if since.IsZero() && update.From != "" && !ask {
		c.index.done(cell, since)
		return false, nil // told together with an earlier change
	}
	kind := "change"
	if update.From == "" {
		kind = "whole"
	}
	err = c.put(ctx, transport, cell, update)
	switch {
	case err == nil:
		c.index.done(cell, time.Time{})
		c.setTold(cell, now)
		c.metrics.updates.WithLabelValues(kind, string(enforced)).Inc()
		if !since.IsZero() && kind == "change" {
			c.metrics.seconds.Observe(c.cfg.Clock.Since(since).Seconds())
		}
		return false, nil
	case errors.Is(err, rules.ErrRevision):
		// Its agent is another than it was, or another Kip told it.
		c.metrics.updates.WithLabelValues(kind, string(unknown)).Inc()
		if again = kind == "change"; again {
			err = nil
		}
	default:
		c.metrics.updates.WithLabelValues(kind, string(failed)).Inc()
		err = fmt.Errorf("telling the cell's agent: %w", err)
	}
	// Whether it arrived is not known: the whole is right in any case.
	c.setTold(cell, told{})
	if since.IsZero() {
		since = c.cfg.Clock.Now()
	}
	c.index.done(cell, since)
	return again, err
}

// put sends an update. rules.ErrRevision is the agent's word.
func (c *Controller) put(ctx context.Context, transport http.RoundTripper, cell string, u rules.Update) error {
	ctx, cancel := context.WithTimeout(ctx, tellTimeout)
	defer cancel()
	body, err := json.Marshal(u)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "https://"+cell+rules.Path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(io.LimitReader(resp.Body, 1024))
	switch {
	case resp.StatusCode == http.StatusConflict:
		return rules.ErrRevision
	case resp.StatusCode/100 == 2:
		return nil
	case err != nil:
		return err
	default:
		return fmt.Errorf("status %d: %s", resp.StatusCode, strings.TrimSpace(string(said)))
	}
}

func (c *Controller) setTold(cell string, now told) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.revision == "" {
		delete(c.cells, cell)
		return
	}
	c.cells[cell] = now
	delete(c.reported, cell)
}

func (c *Controller) forget(cell string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.cells, cell)
	delete(c.connected, cell)
	delete(c.reported, cell)
}

// report tells the users of the pod, once for as long as it stays the same.
func (c *Controller) report(cell string, err error) {
	key, uid, ok := c.index.podOf(cell)
	c.mu.Lock()
	same := c.reported[cell] == err.Error()
	if ok {
		c.reported[cell] = err.Error()
	}
	c.mu.Unlock()
	if same || !ok {
		return
	}
	c.cfg.Log.Warn("a cell does not enforce its pod's network policy; trying on", "cell", cell, "pod", key.namespace+"/"+key.name, "err", err)
	about := &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: key.namespace, Name: key.name, UID: uid}
	c.cfg.Events.Eventf(about, corev1.EventTypeWarning, ReasonNotEnforced, "Cell %s does not enforce what it is to: %v", cell, err)
}
