package provider

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/gateway"
)

const (
	// reasonInterruption is the reason of the condition DisruptionTarget, and of
	// the status of a pod that failed because of it.
	reasonInterruption = "CellInterrupted"

	// interruptionMargin is what is left of an instance's time when the pod's
	// grace period is over: for the kubelet to report and the logs to be copied.
	interruptionMargin = 5 * time.Second
)

// Interruption is part of gateway.Sink: the cloud will take the instance. It is
// written into the Cell, and all else follows from there. The agent repeats
// what was not acknowledged.
func (p *Provider) Interruption(ctx context.Context, name string, i gateway.Interruption) error {
	cell := p.cell(name)
	if cell == nil {
		return nil
	}
	pod := p.Pod(name)
	if i.Kind == gateway.RebalanceRecommendation {
		p.metrics.interruptions.WithLabelValues(string(i.Kind)).Inc()
		if pod != nil {
			p.Recorder.Eventf(pod, corev1.EventTypeWarning, "CellInterruption",
				"the cloud may soon take the instance of cell %s (%s); nothing is done about it", name, i.Kind)
		}
		return nil
	}
	news, err := p.setInterruption(ctx, cell, v1beta1.InterruptionStatus{
		Kind: string(i.Kind), Action: i.Action, Deadline: metav1.NewTime(i.Time), Noticed: metav1.NewTime(p.Clock.Now()),
	})
	if err != nil || !news {
		return err
	}
	p.metrics.interruptions.WithLabelValues(string(i.Kind)).Inc()
	p.Log.Warn("the cloud takes an instance", "cell", name, "instance", cell.Status.InstanceID, "kind", i.Kind, "action", i.Action, "deadline", i.Time)
	if pod != nil {
		p.Recorder.Eventf(pod, corev1.EventTypeWarning, "CellInterruption", "%s: the cloud will %s the instance of cell %s at %s; %s",
			i.Kind, i.Action, name, i.Time.UTC().Format(time.RFC3339), p.prospect(pod))
	}
	return nil
}

// prospect tells the owner of an interrupted pod what becomes of it.
func (p *Provider) prospect(pod *corev1.Pod) string {
	switch {
	case metav1.GetControllerOf(pod) != nil:
		return "the pod is deleted, and its controller makes another"
	case runsAgain(pod, p.newestStatus(pod)):
		return "the pod is stopped and runs again on another cell"
	}
	return "the pod is stopped and fails, since its restartPolicy is Never"
}

// setInterruption writes the interruption into the Cell, unless it has one that
// comes no later.
func (p *Provider) setInterruption(ctx context.Context, cached *v1beta1.Cell, i v1beta1.InterruptionStatus) (news bool, _ error) {
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		cell := &v1beta1.Cell{}
		if err := p.Live.Get(ctx, client.ObjectKeyFromObject(cached), cell); err != nil {
			return client.IgnoreNotFound(err)
		}
		old := cell.Status.Interruption
		if news = cell.UID == cached.UID && (old == nil || i.Deadline.Before(&old.Deadline)); !news {
			return nil
		}
		base := cell.DeepCopy()
		cell.Status.Interruption = &i
		if old != nil {
			i.PodEnded = old.PodEnded
		}
		return p.patchStatus(ctx, cell, base)
	})
	if err != nil {
		return false, fmt.Errorf("recording the interruption of cell %s: %w", cached.Name, err)
	}
	return news, nil
}

// setPodEnded records that nothing of the pod is left in its interrupted cell.
func (p *Provider) setPodEnded(ctx context.Context, cached *v1beta1.Cell) error {
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		cell := &v1beta1.Cell{}
		if err := p.Live.Get(ctx, client.ObjectKeyFromObject(cached), cell); err != nil {
			return client.IgnoreNotFound(err)
		}
		if cell.UID != cached.UID || !cell.Drains() {
			return nil
		}
		base := cell.DeepCopy()
		now := metav1.NewTime(p.Clock.Now())
		cell.Status.Interruption.PodEnded = &now
		return p.patchStatus(ctx, cell, base)
	})
	if err != nil {
		return fmt.Errorf("recording that the pod has ended in cell %s: %w", cached.Name, err)
	}
	return nil
}

func (p *Provider) patchStatus(ctx context.Context, cell, base *v1beta1.Cell) error {
	return p.Client.Status().Patch(ctx, cell, client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{}))
}

// holder tells apart the cells of a pod, in any order: the one that has the
// pod, and the one that gets it next. The holder is the newest, unless the
// cloud takes an older one in which the pod may still run. Of two that were made
// for one attempt it is the one that a kubelet may know to have the pod.
func holder(own []*v1beta1.Cell) (cell, next *v1beta1.Cell) {
	for _, c := range own {
		if next == nil || c.Spec.Attempt > next.Spec.Attempt || c.Spec.Attempt == next.Spec.Attempt && precedes(c, next) {
			next = c
		}
	}
	for _, c := range own {
		if c != next && c.Drains() && (cell == nil || c.Spec.Attempt < cell.Spec.Attempt) {
			cell = c
		}
	}
	if cell == nil {
		return next, nil
	}
	return cell, next
}

// precedes orders the cells of one attempt: a standby cell that was bound, a cell
// that was launched for the pod, and a standby cell that was not bound yet; last
// one that is given up before that.
func precedes(a, b *v1beta1.Cell) bool {
	rank := func(c *v1beta1.Cell) int {
		switch {
		case unseen(c) && c.DeletionTimestamp != nil:
			return 3
		case c.Spec.Standby == nil:
			return 1
		case c.Settled():
			return 0
		}
		return 2
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Name, b.Name)) < 0
}

// waits says whether the pod of the cell may still run in another, so that its
// kubelet must not see it yet. Once false it stays false, as long as the pod
// has no newer cell: PodEnded is never taken back.
func (p *Provider) waits(cell *v1beta1.Cell) (bool, error) {
	if !cell.Settled() {
		return false, nil
	}
	own, err := p.cellsOfPod(context.Background(), *cell.Spec.Pod)
	if err != nil {
		return false, err
	}
	has, next := holder(own)
	return next != nil && has.UID != cell.UID || contested(cell, own), nil
}

// contested says whether another Kip may be about to settle that the pod of a
// cell, which was launched for it, has a standby cell. The reconciler ends one of
// the two.
func contested(cell *v1beta1.Cell, own []*v1beta1.Cell) bool {
	return cell.Spec.Standby == nil && slices.ContainsFunc(own, func(c *v1beta1.Cell) bool {
		return c.UID != cell.UID && c.Spec.Attempt == cell.Spec.Attempt && c.DeletionTimestamp == nil
	})
}

// interrupt ends a pod whose instance the cloud takes, and has its replacement
// made meanwhile.
func (p *Provider) interrupt(ctx context.Context, pod *corev1.Pod, cell, next *v1beta1.Cell) (reconcile.Result, error) {
	switch {
	case metav1.GetControllerOf(pod) != nil:
		if c := condition(&pod.Status, corev1.DisruptionTarget); c == nil || c.Status != corev1.ConditionTrue {
			// Controllers judge the end of a pod by this condition, so it is there
			// first. Its event brings us back.
			return reconcile.Result{}, nil
		}
		return reconcile.Result{}, p.evict(ctx, pod, cell)
	case unseen(cell):
		return reconcile.Result{}, p.deleteUnseen(ctx, cell, "its instance is interrupted")
	}
	if asked, err := p.replace(ctx, pod, cell, next); asked || err != nil {
		return reconcile.Result{RequeueAfter: imagesRecheck}, err
	}
	if left := p.stopTime(pod, cell).Add(killSlack).Sub(p.Clock.Now()); left > 0 {
		if !p.holdLogs(ctx, pod, cell) {
			left = min(left, keepRetry)
		}
		return reconcile.Result{RequeueAfter: left}, nil
	}
	p.unresponsive(pod, cell)
	return reconcile.Result{}, p.deleteCell(ctx, cell, "its kubelet did not end the interrupted pod in time", false)
}

// replace sees to it that a pod that is to run again has its next cell. asked
// says that registries are being asked about its images.
func (p *Provider) replace(ctx context.Context, pod *corev1.Pod, cell, next *v1beta1.Cell) (asked bool, _ error) {
	if !runsAgain(pod, p.newestStatus(pod)) {
		return false, p.drop(ctx, next)
	}
	if next != nil && (next.DeletionTimestamp != nil || next.Status.Interruption != nil || instanceGone(next)) {
		// One more is made when this one is gone.
		return false, p.drop(ctx, next)
	}
	switch {
	case next == nil, pending(next):
	case next.Spec.Standby != nil && !next.Settled():
		return false, p.bind(ctx, pod, next.DeepCopy())
	default:
		return false, nil
	}
	spec, known, err := p.resolvedWish(pod)
	p.judge(pod, err)
	switch {
	case err != nil:
		return false, nil //nolint:nilerr // judge told it; it is the user's to correct
	case !known:
		return true, nil
	case next == nil:
		_, err := p.place(ctx, pod, spec, cell.Spec.Attempt+1)
		return false, err
	}
	return false, p.refresh(ctx, next, spec)
}

// drop ends the cell that was to get a pod next, if there is one.
func (p *Provider) drop(ctx context.Context, next *v1beta1.Cell) error {
	if next == nil {
		return nil
	}
	return p.deleteCell(ctx, next, "its pod will not need it", false)
}

// evict deletes a pod whose controller makes another.
func (p *Provider) evict(ctx context.Context, pod *corev1.Pod, cell *v1beta1.Cell) error {
	grace := int64(gracePeriod(pod, cell.Status.Interruption.Deadline.Sub(p.Clock.Now())) / time.Second)
	err := p.Client.Delete(ctx, pod, client.GracePeriodSeconds(grace), client.Preconditions{UID: &pod.UID})
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("deleting the interrupted pod: %w", err)
	}
	p.Log.Info("pod of an interrupted cell deleted", "pod", pod.Namespace+"/"+pod.Name, "cell", cell.Name, "graceSeconds", grace)
	return nil
}

// gracePeriod is the pod's own, or what is left of the instance's time. A
// kubelet takes no less than a second.
func gracePeriod(pod *corev1.Pod, left time.Duration) time.Duration {
	grace := corev1.DefaultTerminationGracePeriodSeconds * time.Second
	if g := pod.Spec.TerminationGracePeriodSeconds; g != nil {
		grace = time.Duration(*g) * time.Second
	}
	return max(min(grace, (left-interruptionMargin).Truncate(time.Second)), time.Second)
}

// stopping says whether the pod is being stopped in its cell without being
// deleted: it has no controller that would replace it.
func stopping(pod *corev1.Pod, cell *v1beta1.Cell) bool {
	return cell.Status.Interruption != nil && pod.DeletionTimestamp == nil && metav1.GetControllerOf(pod) == nil
}

// mayBeStopped says whether a kubelet may report this because it was shown a
// deletion by another Kip, which had heard of an interruption when this one's
// cache had not. Such a pod would be taken for one that ended by itself, which is
// not taken back. One that does not run again fails either way.
func mayBeStopped(pod *corev1.Pod, status corev1.PodStatus) bool {
	if pod.DeletionTimestamp != nil || pod.Spec.RestartPolicy == corev1.RestartPolicyNever || metav1.GetControllerOf(pod) != nil {
		return false
	}
	conclude(pod, &status)
	return terminal(status.Phase)
}

// stopTime is when the grace period of a pod that is being stopped ends. It
// follows from the Cell, so that every Kip says the same.
func (p *Provider) stopTime(pod *corev1.Pod, cell *v1beta1.Cell) time.Time {
	i := cell.Status.Interruption
	return i.Noticed.Add(gracePeriod(pod, i.Deadline.Sub(i.Noticed.Time)))
}

// visible is the pod as the kubelet of its cell sees it. One that is being
// stopped looks deleted: that is what a kubelet ends a pod for, with hooks and
// grace period. Its status is the kubelet's own word, since a kubelet says that
// nothing is left only when it sees that its final status has arrived. And what
// is known of containers in an earlier cell is nothing that this kubelet should
// take for its own.
func (p *Provider) visible(pod *corev1.Pod, cell *v1beta1.Cell) *corev1.Pod {
	if stopping(pod, cell) {
		end := p.stopTime(pod, cell)
		grace := int64(end.Sub(cell.Status.Interruption.Noticed.Time) / time.Second)
		pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &metav1.Time{Time: end}, &grace
		if own := p.known(pod.UID).own; own != nil {
			pod.Status = compose(&pod.Status, own, cellReady(cell, cell.Status.Interruption.Noticed))
		}
	}
	if ip := pod.Status.HostIP; ip != "" && ip != cell.Status.PrimaryIP {
		waitAgain(&pod.Status, reasonInterruption, "the pod is started again on cell "+cell.Name)
	}
	return pod
}

// stopped turns what a kubelet says of a pod that it was shown as deleted into
// what becomes of the pod.
func stopped(pod *corev1.Pod, cell *v1beta1.Cell, status *corev1.PodStatus) {
	notReady(status, reasonInterruption, cell.Status.Interruption.Noticed)
	switch {
	case !terminal(status.Phase), endedByItself(pod, status, cell.Status.Interruption.Noticed.Time):
	case runsAgain(pod, status):
		status.Phase = corev1.PodPending
		if started(status) {
			status.Phase = corev1.PodRunning
		}
		waitAgain(status, reasonInterruption, "the cloud takes the instance of cell "+cell.Name+"; the pod is started again on another")
	default:
		status.Phase, status.Reason = corev1.PodFailed, reasonInterruption
		status.Message = "the cloud takes the instance of cell " + cell.Name + ", and the pod's restartPolicy is Never"
	}
}

// endedByItself says whether a pod that ended would have done so without being
// stopped.
func endedByItself(pod *corev1.Pod, status *corev1.PodStatus, stop time.Time) bool {
	switch {
	case status.Reason != "":
		return true // the kubelet's own decision: evicted, deadline exceeded
	case pod.Spec.RestartPolicy == corev1.RestartPolicyAlways:
		return false
	}
	for i := range status.ContainerStatuses {
		t := status.ContainerStatuses[i].State.Terminated
		if t == nil || t.FinishedAt.IsZero() || !t.FinishedAt.Time.Before(stop) || t.ExitCode != 0 && pod.Spec.RestartPolicy == corev1.RestartPolicyOnFailure {
			return false
		}
	}
	return len(status.ContainerStatuses) > 0
}

// podStopped takes a kubelet's word that nothing is left of a pod that was
// being stopped. Until the pod's end is on record, or where the pod runs again
// is, the kubelet is to say so again.
func (p *Provider) podStopped(ctx context.Context, pod *corev1.Pod, cell *v1beta1.Cell) error {
	known, err := p.pod(ctx, client.ObjectKeyFromObject(pod))
	switch {
	case err != nil:
		return err
	case terminal(known.Status.Phase):
		return nil
	case p.known(pod.UID).over(), !runsAgain(pod, &pod.Status):
		return apierrors.NewServiceUnavailable("the pod's final status is not on record yet")
	}
	if err := p.setPodEnded(ctx, cell); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.record(pod.UID).own = nil
	return nil
}

// disruption is the condition that tells of the interruption of the pod's cell;
// nil when there is nothing to tell.
func disruption(pod *corev1.Pod, cell *v1beta1.Cell, now metav1.Time) *corev1.PodCondition {
	c := corev1.PodCondition{Type: corev1.DisruptionTarget, LastTransitionTime: now}
	switch old := condition(&pod.Status, corev1.DisruptionTarget); {
	case cell == nil:
		return nil
	case cell.Status.Interruption != nil:
		i := cell.Status.Interruption
		c.Status, c.Reason = corev1.ConditionTrue, reasonInterruption
		c.Message = fmt.Sprintf("%s: the cloud will %s the instance of cell %s at %s", i.Kind, i.Action, cell.Name, i.Deadline.UTC().Format(time.RFC3339))
	case old != nil && old.Reason == reasonInterruption && old.Status == corev1.ConditionTrue && pod.DeletionTimestamp == nil:
		c.Status, c.Reason = corev1.ConditionFalse, reasonInterruption
		c.Message = "the pod has another cell now: " + cell.Name
	default:
		return nil
	}
	return &c
}
