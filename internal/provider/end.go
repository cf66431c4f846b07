package provider

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/podlogs"
)

const (
	// killSlack is how long after a pod's grace period its kubelet may take to
	// report that nothing runs any more; a kubelet kills at the end of the grace
	// period and needs a few seconds to clean up.
	killSlack = 30 * time.Second

	// keepTimeout bounds how long logs of an ended pod are fetched while its
	// instance costs money, all attempts together.
	keepTimeout = 60 * time.Second

	// keepRetry is the wait after a failed attempt.
	keepRetry = time.Second
)

// finish ends the cell of a pod whose final status the API server holds.
func (p *Provider) finish(ctx context.Context, pod *corev1.Pod, cell *v1beta1.Cell) (reconcile.Result, error) {
	if cell != nil && cell.DeletionTimestamp == nil {
		if pod.DeletionTimestamp == nil && !instanceGone(cell) {
			if again := p.keepLogs(ctx, pod, cell); again {
				return reconcile.Result{RequeueAfter: keepRetry}, nil
			}
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
		return reconcile.Result{}, p.deletePod(ctx, pod)
	}
	p.mu.Lock()
	ended := p.record(pod).ended
	p.mu.Unlock()
	switch {
	case ended:
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

	case cell.Status.Enrolment == nil:
		// No kubelet has seen the pod, and none will: enrolment needs the very
		// version of the Cell that is deleted here.
		if err := p.deleteCell(ctx, cell, "the pod was deleted before it started", true); err != nil {
			return reconcile.Result{}, err
		}
		return reconcile.Result{}, p.deletePod(ctx, pod)
	}
	if left := pod.DeletionTimestamp.Add(killSlack).Sub(p.Clock.Now()); left > 0 {
		return reconcile.Result{RequeueAfter: left}, nil
	}
	p.Recorder.Eventf(pod, corev1.EventTypeWarning, "CellUnresponsive",
		"the kubelet in cell %s did not end the pod within its grace period and %s more; its instance is terminated", cell.Name, killSlack)
	return reconcile.Result{}, p.deleteCell(ctx, cell, "its kubelet did not end the pod in time", false)
}

// lost deals with a pod that should run and whose cell ends or ended.
func (p *Provider) lost(ctx context.Context, pod *corev1.Pod, cell *v1beta1.Cell) error {
	now := metav1.NewTime(p.Clock.Now())
	if !started(pod) || pod.Spec.RestartPolicy != corev1.RestartPolicyNever {
		p.mu.Lock()
		r := p.record(pod)
		r.reported = ptr(interrupted(&pod.Status, cell.Name, now))
		r.attempt = cell.Spec.Attempt + 1
		p.mu.Unlock()
		// The next cell is made when this one is gone, its instance with it.
		return p.deleteCell(ctx, cell, "its instance is gone", false)
	}
	if !instanceGone(cell) {
		return nil // wait for the proof
	}
	p.setReported(pod, fail(&pod.Status, cell.Name, now))
	return nil
}

func ptr[T any](v T) *T { return &v }

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

// keepLogs fetches the logs of an ended pod. It returns true when it should be
// called again.
func (p *Provider) keepLogs(ctx context.Context, pod *corev1.Pod, cell *v1beta1.Cell) bool {
	if p.Logs.Has(pod.UID) {
		return false
	}
	p.mu.Lock()
	r := p.record(pod)
	if r.keepUntil.IsZero() {
		r.keepUntil = p.Clock.Now().Add(keepTimeout)
	}
	deadline := r.keepUntil
	p.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, deadline.Sub(p.Clock.Now()))
	defer cancel()
	err := p.Logs.Keep(ctx, pod.UID, p.logSources(pod, cell.Name))
	if err == nil {
		return false
	}
	if p.Clock.Now().Before(deadline) {
		p.Log.Warn("keeping the logs of an ended pod", "pod", pod.Namespace+"/"+pod.Name, "cell", cell.Name, "err", err)
		return true
	}
	p.Recorder.Eventf(pod, corev1.EventTypeWarning, "LogsLost",
		"the logs of the ended pod could not be fetched from cell %s within %s: %v", cell.Name, keepTimeout, err)
	return false
}

// logSources are the logs of every container that ran.
func (p *Provider) logSources(pod *corev1.Pod, cell string) []podlogs.Source {
	var sources []podlogs.Source
	for _, list := range [][]corev1.ContainerStatus{
		pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses,
	} {
		for _, s := range list {
			if s.ContainerID == "" {
				continue
			}
			sources = append(sources, p.logSource(pod, cell, s.Name, false))
			if t := s.LastTerminationState.Terminated; t != nil && t.ContainerID != "" {
				sources = append(sources, p.logSource(pod, cell, s.Name, true))
			}
		}
	}
	return sources
}

func (p *Provider) logSource(pod *corev1.Pod, cell, container string, previous bool) podlogs.Source {
	return podlogs.Source{Container: container, Previous: previous, Open: func(ctx context.Context) (io.ReadCloser, error) {
		transport, err := p.Transport(cell)
		if err != nil {
			return nil, err
		}
		query := url.Values{"timestamps": {"true"}}
		if previous {
			query.Set("previous", "true")
		}
		u := url.URL{Scheme: "https", Host: cell, RawQuery: query.Encode(),
			Path: "/kubelet/containerLogs/" + pod.Namespace + "/" + pod.Name + "/" + container}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
		if err != nil {
			return nil, err
		}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode == http.StatusOK {
			return resp.Body, nil
		}
		defer resp.Body.Close()
		// Why the kubelet refused; it is a line of text.
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 512))
		return nil, fmt.Errorf("the kubelet answered %s: %s", resp.Status, text)
	}}
}

// SweepLogs removes, once, the kept logs of pods that were deleted while no Kip
// ran. The caches must be synced; it returns at once.
func (p *Provider) SweepLogs(ctx context.Context) error {
	var pods corev1.PodList
	if err := p.Client.List(ctx, &pods); err != nil {
		return fmt.Errorf("listing pods: %w", err)
	}
	known := map[types.UID]bool{}
	for i := range pods.Items {
		known[pods.Items[i].UID] = true
	}
	uids, err := p.Logs.UIDs()
	if err != nil {
		return err
	}
	for _, uid := range uids {
		if !known[uid] {
			if err := p.Logs.Remove(uid); err != nil {
				return fmt.Errorf("removing the logs of deleted pod %s: %w", uid, err)
			}
		}
	}
	return nil
}
