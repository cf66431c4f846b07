package provider

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/elotl/kip/v2/api/v1beta1"
)

// place gives a pod a cell: a standby cell that would do, or else a new one.
// The cell is returned if it has the pod already.
func (p *Provider) place(ctx context.Context, pod *corev1.Pod, spec v1beta1.CellSpec, attempt int32) (*v1beta1.Cell, error) {
	if p.Standby != nil {
		spec.Attempt = attempt
		cell, done, err := p.claim(ctx, pod, spec)
		if done || err != nil {
			return cell, err
		}
	}
	return nil, p.launch(ctx, pod, spec, attempt)
}

// claim has a pod take the best standby cell for it. done is false if there is
// none.
//
// Three steps, each of which finds out whether another Kip, or this one before
// it was killed, went another way. The cell is claimed by its resource version,
// so it has one pod. Then the API server is asked for other cells of the pod:
// of two that were claimed for it, the second finds the first, and is given up.
// Then that is written into the cell, by the version that was claimed; before,
// nobody shows the pod to its kubelet. So the pod runs in one cell.
func (p *Provider) claim(ctx context.Context, pod *corev1.Pod, spec v1beta1.CellSpec) (cell *v1beta1.Cell, done bool, err error) {
	if done, err = p.claimedBefore(ctx, pod, spec.Attempt); done || err != nil {
		return nil, done, err
	}
	candidates, err := p.Standby.Candidates(ctx, spec)
	if err != nil {
		p.Log.Warn("no standby cell can be chosen", "pod", pod.Namespace+"/"+pod.Name, "err", err)
		return nil, false, nil // a launch will meet the same trouble, and tell of it
	}
	for _, c := range candidates {
		if !p.Standby.Reserve(c, pod.Namespace) {
			continue
		}
		cell, err := p.take(ctx, c, spec)
		if err != nil {
			p.Standby.Release(c)
		}
		switch {
		case apierrors.IsConflict(err), apierrors.IsNotFound(err):
			continue // it is another pod's now, or no more
		case err != nil:
			return nil, false, err
		}
		p.metrics.standby.WithLabelValues("taken").Inc()
		p.Log.Info("standby cell taken", "pod", pod.Namespace+"/"+pod.Name, "cell", cell.Name, "instance", cell.Status.InstanceID, "attempt", spec.Attempt)
		p.mu.Lock()
		p.record(pod.UID).claimed = cell.Name
		p.mu.Unlock()
		return cell, true, p.bind(ctx, pod, cell)
	}
	p.metrics.standby.WithLabelValues("none").Inc()
	return nil, false, nil
}

// take writes into a standby cell which pod it has. What decided about the
// instance stays as it was.
func (p *Provider) take(ctx context.Context, free *v1beta1.Cell, spec v1beta1.CellSpec) (*v1beta1.Cell, error) {
	cell := free.DeepCopy()
	volume := cell.Spec.Requirements.VolumeGiB
	cell.Spec.Pod, cell.Spec.Attempt = spec.Pod, spec.Attempt
	cell.Spec.Requirements, cell.Spec.Instance = spec.Requirements, spec.Instance
	cell.Spec.Requirements.VolumeGiB = volume
	cell.Labels[v1beta1.LabelPodUID] = string(spec.Pod.UID)
	if err := p.Client.Update(ctx, cell); err != nil {
		return nil, fmt.Errorf("taking standby cell %s: %w", cell.Name, err)
	}
	return cell, nil
}

// bind settles that a standby cell, which was taken for the pod, has it; or
// gives the cell up if the pod has another.
func (p *Provider) bind(ctx context.Context, pod *corev1.Pod, cell *v1beta1.Cell) error {
	other, err := p.rival(ctx, cell)
	if err != nil {
		return err
	}
	if other != "" {
		p.Log.Warn("standby cell was taken for a pod that has a cell", "pod", pod.Namespace+"/"+pod.Name, "cell", cell.Name, "other", other)
		return p.deleteCell(ctx, cell, "its pod has another cell", true)
	}
	base := cell.DeepCopy()
	now := metav1.NewTime(p.Clock.Now())
	cell.Status.Standby = &v1beta1.StandbyStatus{PodBound: now}
	ready := metav1.Condition{
		Type: v1beta1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1beta1.ReasonEnrolled, Message: "the cell starts the pod",
		ObservedGeneration: cell.Generation, LastTransitionTime: now,
	}
	if cell.KeptStopped() {
		ready.Status, ready.Reason, ready.Message = metav1.ConditionFalse, v1beta1.ReasonLaunching, "the cell's instance is stopped, and is about to be started"
	} else {
		cell.Status.Phase = v1beta1.CellBound
	}
	meta.SetStatusCondition(&cell.Status.Conditions, ready)
	if err := p.patchStatus(ctx, cell, base); err != nil {
		return fmt.Errorf("binding the pod to standby cell %s: %w", cell.Name, err)
	}
	return nil
}

// rival is another cell of the same attempt to run the cell's pod, "" if there
// is none. One that is being deleted before its kubelet saw the pod is none: it
// was deleted by its resource version, which whoever shows it the pod needs.
func (p *Provider) rival(ctx context.Context, cell *v1beta1.Cell) (string, error) {
	var cells v1beta1.CellList
	if err := p.Live.List(ctx, &cells, client.MatchingLabels{v1beta1.LabelPodUID: string(cell.Spec.Pod.UID)}); err != nil {
		return "", fmt.Errorf("looking for other cells of the pod: %w", err)
	}
	for i := range cells.Items {
		c := &cells.Items[i]
		if c.UID != cell.UID && c.Spec.Pod != nil && c.Spec.Pod.UID == cell.Spec.Pod.UID && c.Spec.Attempt == cell.Spec.Attempt &&
			(c.DeletionTimestamp == nil || !unseen(c)) {
			return c.Name, nil
		}
	}
	return "", nil
}

// unseen says whether no kubelet can have been shown the cell's pod: one that
// is not enrolled is shown nothing.
func unseen(cell *v1beta1.Cell) bool { return cell.Status.Enrolment == nil || !cell.Settled() }

// claimedBefore says whether a cell was taken for this attempt at the pod and the
// cache does not know yet. Its event brings the reconciler back.
func (p *Provider) claimedBefore(ctx context.Context, pod *corev1.Pod, attempt int32) (bool, error) {
	name := p.known(pod.UID).claimed
	if name == "" {
		return false, nil
	}
	var cell v1beta1.Cell
	err := p.Live.Get(ctx, client.ObjectKey{Name: name}, &cell)
	if client.IgnoreNotFound(err) != nil {
		return false, fmt.Errorf("reading standby cell %s: %w", name, err)
	}
	if err == nil && cell.Spec.Pod != nil && cell.Spec.Pod.UID == pod.UID && cell.Spec.Attempt == attempt && cell.DeletionTimestamp == nil {
		return true, nil
	}
	p.mu.Lock()
	p.record(pod.UID).claimed = ""
	p.mu.Unlock()
	return false, nil
}
