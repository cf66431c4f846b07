package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cell/limits"
	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/instancetype"
)

const (
	// listensRecheck is how often it is looked whether an instance that is to be
	// stopped has booted.
	listensRecheck = 5 * time.Second
	// settleTime is how long it runs on when its agent listens. The agent starts
	// all that a cell runs, and the blocks of a new disk come from far away when
	// they are read for the first time: the second boot finds them there.
	settleTime = 30 * time.Second
	// stopTimeout is how long an instance may take to stop. EC2 takes a minute, and
	// a few where the operating system does not end.
	stopTimeout = 10 * time.Minute
	// askAgain is when the cloud is asked once more for what it has agreed to and
	// does not show.
	askAgain = 15 * time.Second
)

var errNoStopper = errors.New("the cloud cannot stop instances")

// mayBeStopped says whether the state is one that Kip wishes for the cell.
func mayBeStopped(cell *v1beta1.Cell, state cloudprovider.State) bool {
	return cell.Status.Stop != nil && cell.Status.Enrolment == nil &&
		(state == cloudprovider.StateStopping || state == cloudprovider.StateStopped)
}

// state is that of the Cell's instance in the newest look that shows what was
// done last, "" while there is no such look.
func (r *Reconciler) state(s *scope) (state cloudprovider.State, reason string) {
	mine, _ := r.found(s)
	for _, i := range mine {
		if i.ID == s.cell.Status.InstanceID {
			return i.State, i.StateReason
		}
	}
	return "", ""
}

// stopOnceUp stops an instance that has booted for the first time. Its agent
// listens and was told nothing: the token in its user data is as good as new.
func (r *Reconciler) stopOnceUp(ctx context.Context, s *scope) (reconcile.Result, error) {
	if r.cfg.Listens == nil || !r.cfg.Listens(s.cell.Name) {
		return reconcile.Result{RequeueAfter: listensRecheck}, nil
	}
	if s.mem.listens.IsZero() {
		s.mem.listens = s.now
	}
	if left := s.mem.listens.Add(settleTime).Sub(s.now); left > 0 {
		return reconcile.Result{RequeueAfter: left}, nil
	}
	s.cell.Status.Stop = &v1beta1.StopStatus{Time: metav1.NewTime(s.now)}
	s.cell.Status.Phase = v1beta1.CellStopped
	s.condition(metav1.ConditionFalse, v1beta1.ReasonStopped, fmt.Sprintf("instance %s has booted and is being stopped", s.cell.Status.InstanceID))
	if err := r.write(ctx, s); err != nil {
		return reconcile.Result{}, err
	}
	return r.stop(ctx, s)
}

// keepStopped sees to it that the instance stops and stays so, until the cell has
// a pod.
func (r *Reconciler) keepStopped(ctx context.Context, s *scope) (reconcile.Result, error) {
	stop := s.cell.Status.Stop
	state, _ := r.state(s)
	switch {
	case s.cell.Settled():
		return r.wake(ctx, s)
	case state == cloudprovider.StateStopped:
		if stop.Stopped == nil {
			r.nowStopped(s)
		}
		return reconcile.Result{}, nil
	case stop.Stopped == nil && s.now.Sub(stop.Time.Time) > stopTimeout:
		return r.useless(ctx, s, fmt.Sprintf("instance %s did not stop within %s and is being terminated", s.cell.Status.InstanceID, stopTimeout), "")
	case state == cloudprovider.StateStopping, s.now.Sub(s.mem.stopAsked) < askAgain:
		return reconcile.Result{RequeueAfter: askAgain}, nil
	}
	// The cache may be old, and another Kip have started it for a pod.
	newest, err := r.newest(ctx, s)
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("before the instance is stopped: %w", err)
	}
	if !newest {
		return reconcile.Result{RequeueAfter: time.Second}, nil
	}
	return r.stop(ctx, s)
}

// stop asks the cloud for it. The Cell must be known to say so.
func (r *Reconciler) stop(ctx context.Context, s *scope) (reconcile.Result, error) {
	err := r.ask(s, func(c cloudprovider.Stopper) error { return c.Stop(ctx, s.cell.Status.InstanceID) })
	if err == nil {
		s.mem.stopAsked = s.now
		s.log.Info("instance is being stopped", "instance", s.cell.Status.InstanceID)
		return reconcile.Result{RequeueAfter: askAgain}, nil
	}
	if final(err) {
		// It would cost what a running one does, which is not what was asked for.
		return r.useless(ctx, s, fmt.Sprintf("instance %s cannot be stopped and is being terminated: %s", s.cell.Status.InstanceID, err), "")
	}
	s.log.Warn("stopping instance failed", "instance", s.cell.Status.InstanceID, "err", err)
	return r.after(s, err), nil
}

// nowStopped records that the instance costs no more than its disk, and has given
// its public address back.
func (r *Reconciler) nowStopped(s *scope) {
	status := &s.cell.Status
	now := metav1.NewTime(s.now)
	status.Stop.Stopped, status.PublicIP = &now, ""
	if o := r.offered(s.cell); o != nil {
		status.Stop.RunningUSD, status.Launch.HourlyUSD = status.Launch.HourlyUSD, o.StoppedPrice()
	}
	s.condition(metav1.ConditionFalse, v1beta1.ReasonStopped, fmt.Sprintf("instance %s is stopped until a pod takes the cell", status.InstanceID))
	s.log.Info("instance is stopped", "instance", status.InstanceID, "took", s.now.Sub(status.Stop.Time.Time))
}

// offered is the offering that the Cell was launched as, nil if the catalogue does
// not have it any more.
func (r *Reconciler) offered(cell *v1beta1.Cell) *instancetype.Offering {
	opts := r.cfg.Options
	opts.Zones = []string{cell.Status.Launch.Zone}
	for _, o := range r.cfg.Offerings(cell.Spec.Requirements, opts).Offerings {
		if o.Key() == offeringOf(cell.Status.Launch) {
			return &o
		}
	}
	return nil
}

// wake decides to start the instance for the pod that took the cell. It is a
// launch as far as the operator's limits are concerned.
func (r *Reconciler) wake(ctx context.Context, s *scope) (reconcile.Result, error) {
	if result, barred := r.barred(s); barred {
		return result, nil
	}
	if err := r.fillLaunches(ctx); err != nil {
		return r.refusedKeeping(s, err), nil
	}
	status := &s.cell.Status
	running := *status.Launch
	if status.Stop.RunningUSD != "" {
		running.HourlyUSD = status.Stop.RunningUSD
	}
	if reached := r.limits.Claim(s.cell, limits.MicroUSD(&running)); reached != nil {
		return r.waitForRoom(s, reached), nil
	}
	now := metav1.NewTime(s.now)
	status.Stop.Started, status.Launch, status.Phase = &now, &running, v1beta1.CellBooting
	s.condition(metav1.ConditionFalse, v1beta1.ReasonBooting, fmt.Sprintf("instance %s (%s), which was kept stopped, is being started", status.InstanceID, running.InstanceType))
	if err := r.write(ctx, s); err != nil {
		return reconcile.Result{}, err
	}
	return r.startAgain(ctx, s)
}

// startAgain starts the instance of a cell that has a pod, and waits for its
// enrolment. If it cannot be started the cell is of no use any more, and the pod
// gets another one.
func (r *Reconciler) startAgain(ctx context.Context, s *scope) (reconcile.Result, error) {
	id := s.cell.Status.InstanceID
	left := r.bootTime(s, s.cell.Status.Stop.Started.Time)
	state, reason := r.state(s)
	asked := s.mem.startAsked
	switch {
	case left <= 0:
		return r.neverUp(ctx, s)
	case state.Alive():
		return reconcile.Result{RequeueAfter: left}, nil
	case !asked.IsZero() && s.now.Sub(asked) < askAgain:
		return reconcile.Result{RequeueAfter: askAgain}, nil
	case !asked.IsZero() && state == cloudprovider.StateStopped:
		return r.unstarted(ctx, s, fmt.Sprintf("instance %s was started and stopped again: %s", id, reason))
	}
	err := r.ask(s, func(c cloudprovider.Stopper) error { return c.Start(ctx, id) })
	switch {
	case err == nil:
		s.mem.startAsked = s.now
		s.log.Info("stopped instance is started", "instance", id, "type", s.cell.Status.Launch.InstanceType, "zone", s.cell.Status.Launch.Zone)
		return reconcile.Result{RequeueAfter: askAgain}, nil
	case final(err):
		if cloudprovider.KindOf(err) == cloudprovider.InsufficientCapacity {
			r.unavailable.Mark(offeringOf(s.cell.Status.Launch), s.now)
		}
		return r.unstarted(ctx, s, fmt.Sprintf("instance %s cannot be started again: %s", id, err))
	}
	s.log.Warn("starting instance failed", "instance", id, "err", err)
	return r.after(s, err), nil
}

// unstarted gives a cell up, and keeps others of its kind from being tried for a
// while: its pod would only wait for each.
func (r *Reconciler) unstarted(ctx context.Context, s *scope, message string) (reconcile.Result, error) {
	r.unstartable.Mark(offeringOf(s.cell.Status.Launch), s.now)
	return r.useless(ctx, s, message, "")
}

// Startable says whether the stopped instance of a cell can be started, as far as
// is known.
func (r *Reconciler) Startable(cell *v1beta1.Cell) bool {
	_, refused := r.unstartable.Until(offeringOf(cell.Status.Launch), r.cfg.Clock.Now())
	return !refused
}

// ask calls the cloud for something that older looks do not show.
func (r *Reconciler) ask(s *scope, call func(cloudprovider.Stopper) error) error {
	stopper, ok := r.cfg.Cloud.(cloudprovider.Stopper)
	if !ok {
		return &cloudprovider.Error{Kind: cloudprovider.Unsupported, Err: errNoStopper}
	}
	err := call(stopper)
	r.touching(s)
	if err == nil {
		s.mem.failures = 0
	}
	return err
}

// final says whether there is no use in asking again. Being too fast is.
func final(err error) bool {
	kind := cloudprovider.KindOf(err)
	return kind.Definite() && kind != cloudprovider.Throttled
}
