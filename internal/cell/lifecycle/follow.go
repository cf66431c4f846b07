package lifecycle

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/instancetype"
)

// Two phases usually pass so fast that writing them would be a waste. They are
// written when they last.
const (
	boundPatience    = 3 * time.Second // from enrolment to the pod's running
	drainingPatience = 5 * time.Second // from the pod's end to the Cell's deletion
)

// aheadRecheck is how often a cell that was launched ahead looks whether it has
// its pod now.
const aheadRecheck = 2 * time.Second

// follow keeps the phase of a Cell with an instance true.
func (r *Reconciler) follow(ctx context.Context, s *scope) (reconcile.Result, error) {
	switch state, why := r.gone(s); {
	case why == "":
	case state == "" || state == cloudprovider.StateTerminated:
		return r.lose(ctx, s, why)
	default:
		// It has not ended yet, and what runs in it may not have either.
		s.cell.Status.Failure = &v1beta1.FailureStatus{Reason: v1beta1.FailureEnded, Message: why, Time: metav1.NewTime(s.now)}
		return r.fail(ctx, s)
	}
	r.avoid(s)
	next := r.run
	switch {
	case s.cell.Status.Enrolment != nil:
	case s.cell.KeptStopped():
		next = r.keepStopped
	case s.cell.Status.Stop != nil:
		next = r.startAgain
	default:
		next = r.boot
	}
	result, err := next(ctx, s)
	if err != nil || s.cell.Status.Phase == v1beta1.CellTerminating {
		return result, err
	}
	routesDue, err := r.route(ctx, s)
	if err != nil {
		return reconcile.Result{}, err
	}
	if routesDue != 0 && (result.RequeueAfter == 0 || result.RequeueAfter > routesDue) {
		result.RequeueAfter = routesDue
	}
	if s.mem.absentLook != 0 && (result.RequeueAfter == 0 || result.RequeueAfter > absenceGrace) {
		// One look did not find the instance; the second one decides, and is no
		// news that would bring us here.
		result.RequeueAfter = absenceGrace
	}
	return result, nil
}

// gone says why the instance is of no use any more, "" while it is, and in what
// state it was seen, "" when it does not exist.
func (r *Reconciler) gone(s *scope) (state cloudprovider.State, why string) {
	id := s.cell.Status.InstanceID
	mine, ok := r.found(s)
	if !ok {
		return "", ""
	}
	for _, i := range mine {
		if i.ID != id {
			continue // what it is doing here is garbage collection's business
		}
		if !i.State.Alive() && !mayBeStopped(s.cell, i.State) {
			return i.State, fmt.Sprintf("instance %s is %s: %s", id, i.State, i.StateReason)
		}
		addresses(s.cell, &i)
		return "", ""
	}
	if r.provenAbsent(s) {
		return "", fmt.Sprintf("instance %s does not exist any more", id)
	}
	return "", ""
}

// boot waits for enrolment, for a time; of a cell that is to be stopped, until
// that can be done.
func (r *Reconciler) boot(ctx context.Context, s *scope) (reconcile.Result, error) {
	var launched time.Time
	if l := s.cell.Status.Launch; l != nil {
		launched = l.Time.Time
	}
	left := r.bootTime(s, launched)
	switch {
	case left <= 0:
		return r.neverUp(ctx, s)
	case s.cell.StopsFirst():
		return r.stopOnceUp(ctx, s)
	}
	return reconcile.Result{RequeueAfter: left}, nil
}

// bootTime is what is left to an instance to enrol. One that was launched while
// Kip was away gets the whole time from Kip's start on.
func (r *Reconciler) bootTime(s *scope, since time.Time) time.Duration {
	if since.Before(r.started) {
		since = r.started
	}
	return since.Add(r.cfg.BootTimeout).Sub(s.now)
}

func (r *Reconciler) neverUp(ctx context.Context, s *scope) (reconcile.Result, error) {
	r.metrics.bootTimeouts.Inc()
	return r.lose(ctx, s,
		fmt.Sprintf("instance %s did not come up within %s and is being terminated", s.cell.Status.InstanceID, r.cfg.BootTimeout))
}

// run follows the pod of an enrolled cell.
func (r *Reconciler) run(ctx context.Context, s *scope) (reconcile.Result, error) {
	status := &s.cell.Status
	var wait time.Duration
	if status.Phase == v1beta1.CellBooting {
		r.metrics.booted(s)
	}
	phase, err := r.podPhase(ctx, s)
	if err != nil {
		return reconcile.Result{}, err
	}
	if phase != v1beta1.CellDraining {
		s.mem.drainingSince = time.Time{}
	}
	switch phase {
	case v1beta1.CellReady:
		message := "the cell waits for a pod"
		switch {
		case s.cell.Spec.Pod == nil:
		case !s.cell.Settled():
			message = "the cell is given a pod"
		default:
			message = "the cell waits until its pod has ended in the cell that the cloud takes"
			wait = aheadRecheck // no event tells
		}
		s.condition(metav1.ConditionTrue, v1beta1.ReasonEnrolled, message)
	case v1beta1.CellBound:
		if left := status.Enrolment.Time.Add(boundPatience).Sub(s.now); left > 0 && status.Phase == v1beta1.CellBooting {
			return reconcile.Result{RequeueAfter: left}, nil
		}
		s.condition(metav1.ConditionTrue, v1beta1.ReasonEnrolled, "the cell starts the pod")
	case v1beta1.CellRunning:
		s.condition(metav1.ConditionTrue, v1beta1.ReasonEnrolled, "the cell runs the pod")
	case v1beta1.CellDraining:
		if s.mem.drainingSince.IsZero() {
			s.mem.drainingSince = s.now
		}
		if left := s.mem.drainingSince.Add(drainingPatience).Sub(s.now); left > 0 && status.Phase != v1beta1.CellDraining {
			return reconcile.Result{RequeueAfter: left}, nil
		}
		s.condition(metav1.ConditionFalse, v1beta1.ReasonDraining, draining(status.Interruption))
	}
	if status.Phase != phase {
		s.log.Info("cell changes phase", "from", status.Phase, "to", phase, "instance", status.InstanceID)
		status.Phase = phase
	}
	return reconcile.Result{RequeueAfter: wait}, nil
}

func draining(i *v1beta1.InterruptionStatus) string {
	if i != nil {
		return fmt.Sprintf("the cloud takes the instance at %s (%s), so its pod is being ended", i.Deadline.UTC().Format(time.RFC3339), i.Kind)
	}
	return "the pod ends, or ended and its logs are being kept"
}

// avoid keeps launches away, for some minutes, from an offering of which the
// cloud takes an instance for lack of capacity.
func (r *Reconciler) avoid(s *scope) {
	launch, i := s.cell.Status.Launch, s.cell.Status.Interruption
	if i == nil || i.Kind != v1beta1.SpotInterruption || s.mem.avoided || launch.CapacityType != v1beta1.Spot {
		return
	}
	s.mem.avoided = true
	r.unavailable.Mark(instancetype.Key{InstanceType: launch.InstanceType, Zone: launch.Zone, CapacityType: launch.CapacityType}, s.now)
}

// podPhase is the phase of an enrolled cell as its pod shows it.
func (r *Reconciler) podPhase(ctx context.Context, s *scope) (v1beta1.CellPhase, error) {
	if !s.cell.Settled() {
		return v1beta1.CellReady, nil
	}
	ref := s.cell.Spec.Pod
	pod := &corev1.Pod{}
	err := r.cfg.Client.Get(ctx, types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}, pod)
	switch {
	case apierrors.IsNotFound(err):
		return v1beta1.CellDraining, nil
	case err != nil:
		return "", fmt.Errorf("reading pod %s/%s: %w", ref.Namespace, ref.Name, err)
	case pod.UID != ref.UID, pod.DeletionTimestamp != nil,
		pod.Status.Phase == corev1.PodSucceeded, pod.Status.Phase == corev1.PodFailed:
		return v1beta1.CellDraining, nil
	}
	waits, err := r.waits(ctx, s)
	switch {
	case err != nil:
		return "", err
	case waits:
		return v1beta1.CellReady, nil
	case s.cell.Status.Interruption != nil:
		return v1beta1.CellDraining, nil
	case pod.Status.Phase == corev1.PodRunning:
		return v1beta1.CellRunning, nil
	default:
		return v1beta1.CellBound, nil
	}
}

// waits says whether the pod may still run in an older cell, which the cloud
// takes.
func (r *Reconciler) waits(ctx context.Context, s *scope) (bool, error) {
	if s.cell.Spec.Attempt == 0 {
		return false, nil
	}
	var cells v1beta1.CellList
	if err := r.cfg.Client.List(ctx, &cells, client.MatchingFields{indexPodUID: string(s.cell.Spec.Pod.UID)}); err != nil {
		return false, fmt.Errorf("listing the cells of pod %s: %w", s.cell.Spec.Pod.UID, err)
	}
	for i := range cells.Items {
		if c := &cells.Items[i]; c.Spec.Attempt < s.cell.Spec.Attempt && c.Drains() {
			return true, nil
		}
	}
	return false, nil
}

// lose records that the Cell's instance is of no use any more. What becomes of
// the pod is the provider's decision, who then deletes the Cell. Of an instance
// that never enrolled its last words are told too.
func (r *Reconciler) lose(ctx context.Context, s *scope, message string) (reconcile.Result, error) {
	words := ""
	if s.cell.Status.Enrolment == nil && s.cell.Status.InstanceID != "" {
		words = r.console(ctx, s)
	}
	return r.useless(ctx, s, message, words)
}

func (r *Reconciler) useless(ctx context.Context, s *scope, message, words string) (reconcile.Result, error) {
	s.log.Warn("instance lost", "instance", s.cell.Status.InstanceID, "why", message)
	s.cell.Status.Phase = v1beta1.CellTerminating
	s.condition(metav1.ConditionFalse, v1beta1.ReasonInstanceGone, message)
	r.event(s, corev1.EventTypeWarning, v1beta1.ReasonInstanceGone, message+words)
	if err := r.write(ctx, s); err != nil {
		return reconcile.Result{}, err
	}
	return r.afterLoss(ctx, s)
}

// afterLoss sees to it that a lost instance does not cost money while the
// provider decides: it may be stopped, or have failed to boot.
func (r *Reconciler) afterLoss(ctx context.Context, s *scope) (reconcile.Result, error) {
	rest, err := r.endInstances(ctx, s)
	if err != nil {
		s.log.Warn("terminating lost instance failed", "err", err)
		return r.after(s, err), nil
	}
	if rest == 0 || s.cell.Status.InstanceID == "" {
		return reconcile.Result{}, nil
	}
	return reconcile.Result{RequeueAfter: terminationRecheck}, nil
}
