package lifecycle

import (
	"context"
	"fmt"

	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/elotl/kip/v2/api/v1beta1"
)

// fail ends the instance of a Cell that was given up. Its pod may still run in
// it: the instance counts as gone when that is proven, and no earlier.
func (r *Reconciler) fail(ctx context.Context, s *scope) (reconcile.Result, error) {
	failure := s.cell.Status.Failure
	if s.cell.Status.Phase != v1beta1.CellTerminating {
		s.log.Warn("cell is given up, its instance is terminated", "instance", s.cell.Status.InstanceID, "why", failure.Message)
		s.cell.Status.Phase = v1beta1.CellTerminating
		r.say(s, v1beta1.ReasonUnhealthy, failure.Message)
		if err := r.write(ctx, s); err != nil {
			return reconcile.Result{}, err
		}
	}
	rest, err := r.endInstances(ctx, s)
	if err != nil {
		s.log.Warn("terminating instance failed", "instance", s.cell.Status.InstanceID, "err", err)
		r.say(s, reactionTo(err).reason, "terminating instance: "+err.Error())
		return r.after(s, err), nil
	}
	s.mem.failures = 0
	if rest > 0 {
		r.say(s, v1beta1.ReasonUnhealthy, failure.Message)
		return reconcile.Result{RequeueAfter: terminationRecheck}, nil
	}
	return r.lose(ctx, s, fmt.Sprintf("instance %s was terminated: %s", s.cell.Status.InstanceID, failure.Message))
}
