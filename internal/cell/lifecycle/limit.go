package lifecycle

import (
	"context"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cell/limits"
	"github.com/elotl/kip/v2/internal/cloudprovider"
)

// limitRecheck is for a Cell that waits at a limit and was not told that it can
// go on: another one was, and did not.
const limitRecheck = time.Minute

// limited leaves the Cell as it is until there is room for its launch. An intent
// that may have led to an instance stands.
func (r *Reconciler) limited(s *scope, reached *limits.Reached) reconcile.Result {
	if s.cell.Status.Phase != v1beta1.CellLaunching {
		s.cell.Status.Phase = v1beta1.CellPending
	}
	return r.waitForRoom(s, reached)
}

// waitForRoom says so, in the phase that the Cell has.
func (r *Reconciler) waitForRoom(s *scope, reached *limits.Reached) reconcile.Result {
	r.say(s, v1beta1.ReasonLimitReached, reached.Message)
	if reached.RetryAfter > 0 {
		return reconcile.Result{RequeueAfter: min(reached.RetryAfter, limitRecheck)}
	}
	return reconcile.Result{RequeueAfter: limitRecheck}
}

// fillLimits enters what Cells commit Kip to, once, before anything is launched.
func (r *Reconciler) fillLimits(ctx context.Context) error {
	r.filling.Lock()
	defer r.filling.Unlock()
	if r.filled || !r.limits.Limited() {
		return nil
	}
	var all v1beta1.CellList
	if err := r.cfg.Live.List(ctx, &all); err != nil {
		return fmt.Errorf("counting cells: %w", err)
	}
	r.limits.Fill(slices.DeleteFunc(all.Items, func(c v1beta1.Cell) bool { return c.Spec.NodeName != r.cfg.NodeName }))
	r.filled = true
	return nil
}

// fillLaunches enters what was launched of late, once, before anything else is.
// Where Kip may not ask, what is being launched counts.
func (r *Reconciler) fillLaunches(ctx context.Context) error {
	r.filling.Lock()
	defer r.filling.Unlock()
	if r.launchesFilled || !r.limits.CountsLaunches() {
		return nil
	}
	all, err := r.cfg.Cloud.List(ctx)
	if err != nil && cloudprovider.KindOf(err) != cloudprovider.Denied {
		return fmt.Errorf("counting launches: %w", err)
	}
	r.limits.FillLaunches(all)
	r.launchesFilled = true
	return nil
}

// vanished drops what is remembered of a Cell that the cache does not have. One
// that counts towards limits is asked for, as the cache may not have it yet.
func (r *Reconciler) vanished(ctx context.Context, name string) (reconcile.Result, error) {
	if r.limits.Knows(name) {
		err := r.cfg.Live.Get(ctx, client.ObjectKey{Name: name}, &v1beta1.Cell{})
		if err == nil {
			return reconcile.Result{RequeueAfter: 100 * time.Millisecond}, nil
		}
		if !apierrors.IsNotFound(err) {
			return reconcile.Result{}, fmt.Errorf("looking for cell %s: %w", name, err)
		}
	}
	r.forget(name)
	return reconcile.Result{}, nil
}

// settled reports that the Cell is as the API server has it, after its status was
// written without an answer. Until then its claim stands, and nothing is done: an
// intent that was given up must not be launched.
func (r *Reconciler) settled(ctx context.Context, s *scope) (bool, error) {
	if !s.mem.doubtful {
		return true, nil
	}
	newest, err := r.newest(ctx, s)
	if err != nil {
		return false, fmt.Errorf("after a write without an answer: %w", err)
	}
	s.mem.doubtful = !newest
	return newest, nil
}

// newest reports that the Cell is as the API server has it.
func (r *Reconciler) newest(ctx context.Context, s *scope) (bool, error) {
	live := &v1beta1.Cell{}
	if err := r.cfg.Live.Get(ctx, client.ObjectKeyFromObject(s.cell), live); err != nil {
		return false, fmt.Errorf("reading cell %s: %w", s.cell.Name, err)
	}
	return live.ResourceVersion == s.cell.ResourceVersion, nil
}
