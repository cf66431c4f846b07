package provider

import (
	"context"
	"fmt"
	"time"

	"github.com/virtual-kubelet/virtual-kubelet/errdefs"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/elotl/kip/v2/api/v1beta1"
)

// cellsByPod indexes Cells by the namespace and name of their pod.
const cellsByPod = "spec.pod"

// workers is how many pods are worked on at once. Most of them wait: for the
// API server, or for the logs of pods that ended.
const workers = 100

// conflictRecheck is when what met a conflict is looked at again without news.
// A cache may be behind for long.
const conflictRecheck = time.Second

// imagesRecheck is how often a pod asks whether a registry has answered. Many
// may ask about the same image.
const imagesRecheck = 200 * time.Millisecond

// SetupWithManager registers the reconciler. Call it once, before the manager
// starts; its cache must hold no Pods but this node's.
func (p *Provider) SetupWithManager(ctx context.Context, mgr ctrl.Manager) error {
	if err := mgr.GetFieldIndexer().IndexField(ctx, &v1beta1.Cell{}, cellsByPod, indexCell); err != nil {
		return fmt.Errorf("indexing cells by pod: %w", err)
	}
	if err := p.watch(ctx, mgr.GetCache()); err != nil {
		return err
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named("pod").
		For(&corev1.Pod{}).
		Watches(&v1beta1.Cell{}, handler.EnqueueRequestsFromMapFunc(requestOfCell)).
		WatchesRawSource(source.Func(p.takeQueue)).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers, RateLimiter: rateLimiter[reconcile.Request]()}).
		Complete(p)
}

func indexCell(o client.Object) []string {
	cell := o.(*v1beta1.Cell)
	if cell.Spec.Pod == nil {
		return nil
	}
	return []string{cell.Spec.Pod.Namespace + "/" + cell.Spec.Pod.Name}
}

func requestOfCell(_ context.Context, o client.Object) []reconcile.Request {
	cell := o.(*v1beta1.Cell)
	if cell.Spec.Pod == nil {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: cell.Spec.Pod.Namespace, Name: cell.Spec.Pod.Name}}}
}

// pod reads one of the node's pods from the cache. The error is the library's
// NotFound where there is none.
func (p *Provider) pod(ctx context.Context, key types.NamespacedName, how ...client.GetOption) (*corev1.Pod, error) {
	pod := &corev1.Pod{}
	err := p.Client.Get(ctx, key, pod, how...)
	if apierrors.IsNotFound(err) || (err == nil && pod.Spec.NodeName != p.NodeName) {
		return nil, errdefs.NotFoundf("pod %s is not on node %s", key, p.NodeName)
	}
	if err != nil {
		return nil, fmt.Errorf("reading pod %s: %w", key, err)
	}
	return pod, nil
}

// Reconcile takes the next step for one pod. The package documentation lists
// the steps.
func (p *Provider) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	pod, err := p.pod(ctx, req.NamespacedName)
	if err != nil && !errdefs.IsNotFound(err) {
		return reconcile.Result{}, err
	}
	var cells v1beta1.CellList
	if err := p.Client.List(ctx, &cells, client.MatchingFields{cellsByPod: req.String()}); err != nil {
		return reconcile.Result{}, fmt.Errorf("listing the cells of pod %s: %w", req, err)
	}
	var own []*v1beta1.Cell
	for i := range cells.Items {
		c := &cells.Items[i]
		switch {
		case c.Spec.NodeName != p.NodeName:
		case pod == nil || c.Spec.Pod.UID != pod.UID:
			if err := p.endOrphan(ctx, c); err != nil {
				return reconcile.Result{}, err
			}
		default:
			own = append(own, c)
		}
	}
	if pod == nil {
		return reconcile.Result{}, nil
	}
	cell, next := holder(own)
	for _, c := range own {
		if c == cell || c == next {
			continue
		}
		// The pod has ended in it and runs on elsewhere, or a Kip that knew too
		// little made it. That one may be about to show it the pod.
		if err := p.deleteCell(ctx, c, "its pod has another cell", unseen(c)); err != nil {
			return faster(reconcile.Result{}, err)
		}
	}
	return faster(p.step(ctx, pod, cell, next))
}

// faster waits if somebody else wrote first: their change is on its way to the
// cache, and brings us back when it is there.
func faster(result reconcile.Result, err error) (reconcile.Result, error) {
	if apierrors.IsConflict(err) {
		return reconcile.Result{RequeueAfter: conflictRecheck}, nil
	}
	return result, err
}

// step looks at a pod, the cell that has it and the one that gets it next.
func (p *Provider) step(ctx context.Context, pod *corev1.Pod, cell, next *v1beta1.Cell) (reconcile.Result, error) {
	now := metav1.NewTime(p.Clock.Now())
	ready := cellReady(cell, now)
	disrupted := disruption(pod, cell, now)
	defer func() { p.report(pod, cell, ready, disrupted) }()

	if terminal(pod.Status.Phase) || pod.DeletionTimestamp != nil {
		if err := p.drop(ctx, next); err != nil {
			return reconcile.Result{}, err
		}
	}
	switch {
	case terminal(pod.Status.Phase):
		return p.finish(ctx, pod, cell)
	case pod.DeletionTimestamp != nil:
		return p.end(ctx, pod, cell)
	case p.known(pod.UID).over():
		// Whatever becomes of the cell now, the pod has ended. The API server is
		// about to hear it.
		return reconcile.Result{}, nil
	case cell != nil && (cell.DeletionTimestamp != nil || instanceGone(cell)):
		return reconcile.Result{}, p.lost(ctx, pod, cell, next)
	case cell != nil && cell.Status.Failure != nil:
		// Its instance is being terminated, and its pod is decided about when that
		// is proven.
		return reconcile.Result{}, nil
	case cell != nil && cell.Status.Interruption != nil:
		return p.interrupt(ctx, pod, cell, next)
	case cell != nil && cell.Spec.Standby != nil && !cell.Settled():
		return reconcile.Result{}, p.bind(ctx, pod, cell.DeepCopy())
	case cell != nil && !pending(cell):
		// What the pod says about its instance comes too late now.
		return reconcile.Result{}, nil
	}

	spec, known, err := p.resolvedWish(pod)
	p.judge(pod, err)
	if err != nil {
		// The user's to correct; the corrected pod comes back by its event. What no
		// user can correct is rejected, as by any kubelet.
		ready.Status, ready.Reason, ready.Message = corev1.ConditionFalse, v1beta1.ReasonInvalidPod, err.Error()
		if otherOS(pod) {
			p.setVerdict(pod, rejected("PodOSNotSupported", err))
		}
		return reconcile.Result{}, nil
	}
	if !known {
		return reconcile.Result{RequeueAfter: imagesRecheck}, nil
	}
	if cell != nil {
		return reconcile.Result{}, p.refresh(ctx, cell, spec)
	}
	if status := p.newestStatus(pod); !runsAgain(pod, status) {
		p.setVerdict(pod, fail(status, "the instance on which it ran", now))
		return reconcile.Result{}, nil
	}
	placed, err := p.place(ctx, pod, spec, p.known(pod.UID).attempt)
	if placed != nil {
		ready = cellReady(placed, now)
	}
	return reconcile.Result{}, err
}

// judge tells the user, once, what is wrong with the pod; nil means that it is
// all right now.
func (p *Provider) judge(pod *corev1.Pod, mistake error) {
	text := ""
	if mistake != nil {
		text = mistake.Error()
	}
	p.mu.Lock()
	r := p.record(pod.UID)
	news := r.refused != text
	r.refused = text
	p.mu.Unlock()
	if news && mistake != nil {
		p.Recorder.Event(pod, corev1.EventTypeWarning, v1beta1.ReasonInvalidPod, text)
	}
}

// runsAgain says whether a pod that lost its cell may run on another.
func runsAgain(pod *corev1.Pod, status *corev1.PodStatus) bool {
	return pod.Spec.RestartPolicy != corev1.RestartPolicyNever || !started(status)
}

// started says whether a container of the pod may have run.
func started(status *corev1.PodStatus) bool {
	if status.Phase == corev1.PodRunning {
		return true
	}
	for _, list := range [][]corev1.ContainerStatus{status.InitContainerStatuses, status.ContainerStatuses} {
		for i := range list {
			if list[i].ContainerID != "" {
				return true
			}
		}
	}
	return false
}

// pending says whether no instance was asked for yet.
func pending(cell *v1beta1.Cell) bool {
	return cell.Status.Phase == "" || cell.Status.Phase == v1beta1.CellPending
}

func instanceGone(cell *v1beta1.Cell) bool {
	c := meta.FindStatusCondition(cell.Status.Conditions, v1beta1.ConditionReady)
	return c != nil && c.Reason == v1beta1.ReasonInstanceGone
}

// setReported takes the word of a pod's kubelet. own is nil unless that word
// had to be translated.
func (p *Provider) setReported(uid types.UID, cell string, status corev1.PodStatus, own *corev1.PodStatus) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.record(uid)
	r.reported, r.own = &status, own
	p.wake(cell)
}

// setVerdict is Kip's own word on a pod whose cell was lost. A kubelet's word
// that the pod ended goes before it.
func (p *Provider) setVerdict(pod *corev1.Pod, status corev1.PodStatus) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.record(pod.UID); !r.over() {
		r.reported = &status
	}
}

// deleteCell asks for the end of a Cell and so of its instance. With
// onlyIfUnchanged it fails with a conflict when the Cell is newer than the one
// given.
func (p *Provider) deleteCell(ctx context.Context, cell *v1beta1.Cell, why string, onlyIfUnchanged bool) error {
	if cell.DeletionTimestamp != nil {
		return nil
	}
	pre := metav1.Preconditions{UID: &cell.UID}
	if onlyIfUnchanged {
		pre.ResourceVersion = &cell.ResourceVersion
	}
	err := p.Client.Delete(ctx, cell, client.Preconditions(pre))
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("deleting cell %s: %w", cell.Name, err)
	}
	p.Log.Info("cell ended", "cell", cell.Name, "instance", cell.Status.InstanceID, "why", why)
	return nil
}

// deletePod removes the pod object. Call it only when nothing of the pod runs.
// The cache has the pod for a while after it was removed.
func (p *Provider) deletePod(ctx context.Context, pod *corev1.Pod) error {
	if p.known(pod.UID).removed {
		return nil
	}
	err := p.Client.Delete(ctx, pod, client.GracePeriodSeconds(0), client.Preconditions{UID: &pod.UID})
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("removing the ended pod: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.records[pod.UID]; r != nil {
		r.removed = true
	}
	return nil
}
