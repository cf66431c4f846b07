package provider

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/elotl/kip/v2/api/v1beta1"
)

// killSlack is how long after a pod's grace period its kubelet may take to
// report that nothing runs any more; a kubelet kills at the end of the grace
// period and needs a few seconds to clean up.
const killSlack = 30 * time.Second

// finish ends the cell of a pod whose final status the API server holds.
func (p *Provider) finish(ctx context.Context, pod *corev1.Pod, cell *v1beta1.Cell) (reconcile.Result, error) {
	if cell != nil && cell.DeletionTimestamp == nil {
		if wait := p.lastWords(ctx, pod, cell); wait > 0 {
			return reconcile.Result{RequeueAfter: wait}, nil
		}
		if err := p.deleteCell(ctx, cell, "the pod ended", false); err != nil {
			return reconcile.Result{}, err
		}
	}
	if pod.DeletionTimestamp != nil {
		return reconcile.Result{}, p.deletePod(ctx, pod)
	}
	return reconcile.Result{}, nil
}

// end carries out the deletion of a pod that has not ended yet.
func (p *Provider) end(ctx context.Context, pod *corev1.Pod, cell *v1beta1.Cell) (reconcile.Result, error) {
	if cell == nil {
		has, err := p.hasCell(ctx, pod)
		if has || err != nil {
			return reconcile.Result{RequeueAfter: conflictRecheck}, err
		}
		return reconcile.Result{}, p.deletePod(ctx, pod)
	}
	switch {
	case p.known(pod.UID).ended:
		if err := p.deleteCell(ctx, cell, "the pod was deleted", false); err != nil {
			return reconcile.Result{}, err
		}
		return reconcile.Result{}, p.deletePod(ctx, pod)

	case cell.DeletionTimestamp != nil:
		// The pod stays until its instance is proven gone: its successor, of the
		// same name in a StatefulSet, must not run beside it.
		return reconcile.Result{}, nil

	case instanceGone(cell):
		return reconcile.Result{}, p.deleteCell(ctx, cell, "its instance is gone", false)

	case unseen(cell):
		if err := p.deleteUnseen(ctx, cell, "the pod was deleted before it started"); err != nil {
			return reconcile.Result{}, err
		}
		return reconcile.Result{}, p.deletePod(ctx, pod)
	}
	if left := p.killTime(pod).Sub(p.Clock.Now()); left > 0 {
		return reconcile.Result{RequeueAfter: left}, nil
	}
	p.unresponsive(pod, cell)
	return reconcile.Result{}, p.deleteCell(ctx, cell, "its kubelet did not end the pod in time", false)
}

var cellResource = v1beta1.GroupVersion.WithResource("cells").GroupResource()

// deleteUnseen ends a Cell if no kubelet has seen its pod, and then none will:
// that needs the very version of the Cell that is deleted here. The version is the
// API server's, since the one in the cache may be old as long as instances are
// looked for and not found.
func (p *Provider) deleteUnseen(ctx context.Context, cached *v1beta1.Cell, why string) error {
	cell, err := p.liveCell(ctx, cached)
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return err
	case !unseen(cell):
		return apierrors.NewConflict(cellResource, cell.Name, errors.New("it has enrolled meanwhile"))
	}
	return p.deleteCell(ctx, cell, why, true)
}

// liveCell is the cell as the API server has it.
func (p *Provider) liveCell(ctx context.Context, cached *v1beta1.Cell) (*v1beta1.Cell, error) {
	cell := &v1beta1.Cell{}
	if err := p.Live.Get(ctx, client.ObjectKeyFromObject(cached), cell); err != nil {
		return nil, fmt.Errorf("looking at cell %s: %w", cached.Name, err)
	}
	if cell.UID != cached.UID {
		return nil, apierrors.NewConflict(cellResource, cell.Name, errors.New("it is another one"))
	}
	return cell, nil
}

// hasCell asks the API server itself whether the pod has a cell that the cache
// does not know. One that another Kip made may run the pod already.
func (p *Provider) hasCell(ctx context.Context, pod *corev1.Pod) (bool, error) {
	var cells v1beta1.CellList
	if err := p.Live.List(ctx, &cells, client.MatchingLabels{v1beta1.LabelNode: p.NodeName}); err != nil {
		return false, fmt.Errorf("looking for a cell of the deleted pod: %w", err)
	}
	return slices.ContainsFunc(cells.Items, func(c v1beta1.Cell) bool { return c.Spec.Pod != nil && c.Spec.Pod.UID == pod.UID }), nil
}

func (p *Provider) unresponsive(pod *corev1.Pod, cell *v1beta1.Cell) {
	p.Recorder.Eventf(pod, corev1.EventTypeWarning, "CellUnresponsive",
		"the kubelet in cell %s did not end the pod within its grace period and %s more; its instance is terminated", cell.Name, killSlack)
}

// killTime is when a kubelet that has not ended its pod is given up. A pod that
// was deleted while no Kip ran gets its whole grace period from Kip's start on:
// its kubelet hears of it only then.
func (p *Provider) killTime(pod *corev1.Pod) time.Time {
	end := pod.DeletionTimestamp.Time
	if g := pod.DeletionGracePeriodSeconds; g != nil {
		if late := p.began.Add(time.Duration(*g) * time.Second); late.After(end) {
			end = late
		}
	}
	return end.Add(killSlack)
}

// lost deals with a pod that should run and whose cell ends or ended. next is
// the cell that was made ahead, if one was.
func (p *Provider) lost(ctx context.Context, pod *corev1.Pod, cell, next *v1beta1.Cell) error {
	now := metav1.NewTime(p.Clock.Now())
	status := p.newestStatus(pod)
	if runsAgain(pod, status) {
		p.setVerdict(pod, interrupted(status, cell.Name, now))
		p.mu.Lock()
		p.record(pod.UID).attempt = cell.Spec.Attempt + 1
		p.mu.Unlock()
		// The next cell is made, or shown the pod, when this one is gone, its
		// instance with it.
		return p.deleteCell(ctx, cell, "its instance is gone", false)
	}
	if err := p.drop(ctx, next); err != nil {
		return err
	}
	if !instanceGone(cell) {
		return nil // wait for the proof
	}
	p.setVerdict(pod, fail(status, "the instance of cell "+cell.Name, now))
	return nil
}

// endOrphan ends a Cell whose pod the cache does not know, after asking the API
// server itself: a cache that lags must not end a running pod.
func (p *Provider) endOrphan(ctx context.Context, cell *v1beta1.Cell) error {
	if cell.DeletionTimestamp != nil {
		return nil
	}
	var pod corev1.Pod
	ref := cell.Spec.Pod
	err := p.Live.Get(ctx, types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}, &pod)
	switch {
	case apierrors.IsNotFound(err):
	case err != nil:
		return fmt.Errorf("looking for the pod of cell %s: %w", cell.Name, err)
	case pod.UID == ref.UID:
		return fmt.Errorf("the cache does not know pod %s/%s yet", ref.Namespace, ref.Name)
	}
	p.mu.Lock()
	p.setGone(ref.UID)
	p.mu.Unlock()
	return p.deleteCell(ctx, cell, "its pod is gone", false)
}
