package standby

import (
	"context"
	"fmt"
	"time"

	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cell"
)

// indexWaiting finds the cells of a node that wait for a pod.
const indexWaiting = "standby"

var _ reconcile.Reconciler = (*Controller)(nil)

// pools is the one request: all pools are looked at together.
var pools = reconcile.Request{NamespacedName: client.ObjectKey{Name: "pools"}}

// SetupWithManager registers the controller and its index. Pools that are not
// configured any more are ended too, so it is registered without any.
func (c *Controller) SetupWithManager(ctx context.Context, mgr ctrl.Manager) error {
	if err := mgr.GetFieldIndexer().IndexField(ctx, &v1beta1.Cell{}, indexWaiting, waitingFor); err != nil {
		return fmt.Errorf("standby: indexing cells: %w", err)
	}
	toPools := handler.TypedEnqueueRequestsFromMapFunc(func(context.Context, *v1beta1.Cell) []reconcile.Request {
		return []reconcile.Request{pools}
	})
	ours := predicate.NewTypedPredicateFuncs(func(cell *v1beta1.Cell) bool {
		return cell.Spec.NodeName == c.cfg.NodeName && cell.Spec.Standby != nil
	})
	err := ctrl.NewControllerManagedBy(mgr).
		Named("cell.standby").
		WatchesRawSource(source.Kind(mgr.GetCache(), &v1beta1.Cell{}, toPools, ours)).
		WatchesRawSource(source.Func(func(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
			queue.Add(pools) // there may be no cell yet
			return nil
		})).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: 1,
			RateLimiter:             cell.Retries[reconcile.Request](50 * time.Millisecond),
		}).
		Complete(c)
	if err != nil {
		return fmt.Errorf("standby: setting up the controller: %w", err)
	}
	return nil
}

func waitingFor(o client.Object) []string {
	cell, ok := o.(*v1beta1.Cell)
	if !ok || !cell.Waiting() {
		return nil
	}
	return []string{cell.Spec.NodeName}
}
