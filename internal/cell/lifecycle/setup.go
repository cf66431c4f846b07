package lifecycle

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cell"
)

// workers is how many Cells are worked on at once. A launch keeps one busy for
// as long as the cloud takes to answer, a second or two on EC2, so this is what
// lets a burst of pods go out at the pace the cloud allows.
const workers = 20

// indexPodUID finds the Cells of a pod.
const indexPodUID = "spec.pod.uid"

var (
	_ reconcile.Reconciler           = (*Reconciler)(nil)
	_ manager.Runnable               = (*Reconciler)(nil)
	_ manager.LeaderElectionRunnable = (*Reconciler)(nil)
)

// SetupWithManager registers the controller, its field index and, as a
// runnable of the leader, Start.
func (r *Reconciler) SetupWithManager(ctx context.Context, mgr ctrl.Manager) error {
	if err := mgr.GetFieldIndexer().IndexField(ctx, &v1beta1.Cell{}, indexPodUID, podUIDs); err != nil {
		return fmt.Errorf("lifecycle: indexing cells by pod: %w", err)
	}
	if err := mgr.Add(r); err != nil {
		return fmt.Errorf("lifecycle: adding the observer: %w", err)
	}
	err := ctrl.NewControllerManagedBy(mgr).
		Named("cell.lifecycle").
		For(&v1beta1.Cell{}, builder.WithPredicates(cell.OfNode(r.cfg.NodeName))).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(r.cellsOfPod), builder.WithPredicates(podPhaseChanged)).
		WatchesRawSource(source.Channel(r.changed, &handler.EnqueueRequestForObject{})).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: workers,
			RateLimiter:             cell.Retries[reconcile.Request](50 * time.Millisecond),
		}).
		Complete(r)
	if err != nil {
		return fmt.Errorf("lifecycle: setting up the controller: %w", err)
	}
	return nil
}

func podUIDs(o client.Object) []string {
	c, ok := o.(*v1beta1.Cell)
	if !ok || c.Spec.Pod == nil {
		return nil
	}
	return []string{string(c.Spec.Pod.UID)}
}

func (r *Reconciler) cellsOfPod(ctx context.Context, pod client.Object) []reconcile.Request {
	var cells v1beta1.CellList
	if err := r.cfg.Client.List(ctx, &cells, client.MatchingFields{indexPodUID: string(pod.GetUID())}); err != nil {
		r.cfg.Logger.Error("finding the cell of a pod failed", "pod", client.ObjectKeyFromObject(pod), "err", err)
		return nil
	}
	var requests []reconcile.Request
	for i := range cells.Items {
		requests = append(requests, reconcile.Request{NamespacedName: types.NamespacedName{Name: cells.Items[i].Name}})
	}
	return requests
}

// podPhaseChanged lets through what changes a Cell's phase, and not every
// heartbeat of a pod's status.
var podPhaseChanged = predicate.Funcs{
	UpdateFunc: func(e event.UpdateEvent) bool {
		before, ok1 := e.ObjectOld.(*corev1.Pod)
		after, ok2 := e.ObjectNew.(*corev1.Pod)
		return !ok1 || !ok2 || before.Status.Phase != after.Status.Phase || before.UID != after.UID ||
			(before.DeletionTimestamp == nil) != (after.DeletionTimestamp == nil)
	},
}

// NeedLeaderElection implements manager.LeaderElectionRunnable: only the
// leader's reconciler needs to know.
func (r *Reconciler) NeedLeaderElection() bool { return true }
