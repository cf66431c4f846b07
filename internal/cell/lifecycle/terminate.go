package lifecycle

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider"
)

const (
	// terminateAgain: an instance that is alive so long after the cloud agreed
	// to terminate it is asked for once more.
	terminateAgain = 15 * time.Second
	// terminationRecheck is how often a Cell that waits for its instance's end
	// is looked at without news from the cloud.
	terminationRecheck = 5 * time.Second
)

// terminate ends a deleted Cell: its instances first, the Cell itself when
// they are proven gone.
func (r *Reconciler) terminate(ctx context.Context, s *scope) (reconcile.Result, error) {
	if !controllerutil.ContainsFinalizer(s.cell, v1beta1.Finalizer) {
		return reconcile.Result{}, nil
	}
	if r.neverLaunched(s) {
		return reconcile.Result{}, r.removeFinalizer(ctx, s)
	}
	rest, err := r.endInstances(ctx, s)
	if err == nil && (rest == 0 || !s.mem.unrouted) {
		if err = r.unroute(ctx, s); err == nil {
			s.mem.unrouted = true
		}
	}
	if err != nil {
		s.log.Warn("terminating instance failed", "instance", s.cell.Status.InstanceID, "err", err)
		r.say(s, reactionTo(err).reason, "terminating instance: "+err.Error())
		s.cell.Status.Phase = v1beta1.CellTerminating
		return r.after(s, err), nil
	}
	s.mem.failures = 0
	if rest == 0 && s.cell.Status.Enrolment != nil && r.cfg.Ended != nil {
		if err := r.cfg.Ended(ctx, s.cell); err != nil {
			return reconcile.Result{}, fmt.Errorf("counting the use of cell %s: %w", s.cell.Name, err)
		}
	}
	if rest == 0 {
		s.log.Info("instance is gone, the cell goes", "instance", s.cell.Status.InstanceID)
		return reconcile.Result{}, r.removeFinalizer(ctx, s)
	}
	s.cell.Status.Phase = v1beta1.CellTerminating
	s.condition(metav1.ConditionFalse, v1beta1.ReasonTerminating, "the instance is being terminated")
	return reconcile.Result{RequeueAfter: terminationRecheck}, nil
}

// neverLaunched: no intent was written, or the last one was refused for sure,
// or this process wrote it and every call for it was. The lock on the
// finalizer's removal guards against a Cell read too early.
func (r *Reconciler) neverLaunched(s *scope) bool {
	status := s.cell.Status
	if status.InstanceID != "" || s.mem.instanceID != "" {
		return false
	}
	switch status.Phase {
	case "", v1beta1.CellPending:
		return true
	case v1beta1.CellLaunching:
		return s.mem.token == s.token() && !s.mem.ambiguous
	}
	return false
}

// endInstances asks the cloud to terminate what belongs to the Cell and is not
// ending yet, and returns how many may still exist. An unknown instance, of a
// launch that had no answer, counts as one until it is proven absent.
func (r *Reconciler) endInstances(ctx context.Context, s *scope) (rest int, err error) {
	states := map[string]cloudprovider.State{}
	for _, id := range []string{s.cell.Status.InstanceID, s.mem.instanceID} {
		if id != "" {
			states[id] = "" // not known
		}
	}
	mine, looked := r.found(s)
	listed := 0
	for _, i := range mine {
		states[i.ID] = i.State
		listed++
	}
	for id, state := range states {
		if state == cloudprovider.StateTerminated {
			continue
		}
		rest++
		if state == cloudprovider.StateShuttingDown {
			continue
		}
		if agreed, ok := s.mem.ended[id]; ok && (s.now.Sub(agreed) < terminateAgain || state == "") {
			continue
		}
		err := r.cfg.Cloud.Delete(ctx, id)
		if err != nil && !cloudprovider.IsNotFound(err) {
			r.metrics.terminated(err)
			return rest, err
		}
		r.metrics.terminated(nil)
		s.mem.ended[id] = s.now
		s.log.Info("instance is being terminated", "instance", id)
	}
	if looked && listed == 0 && r.provenAbsent(s) {
		return 0, nil
	}
	if len(states) == 0 {
		rest++
	}
	return rest, nil
}
