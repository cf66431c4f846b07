package provider

import (
	"context"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/gateway"
	"github.com/elotl/kip/v2/internal/instancetype"
)

var (
	_ gateway.State = (*Provider)(nil)
	_ gateway.Sink  = (*Provider)(nil)
)

// LabelCapacityType is the label on a cell's Node that says how its instance
// was bought.
const LabelCapacityType = "kip.elotl.co/capacity-type"

// Cell is part of gateway.State: the instance as its kubelet sees its Node.
// False also means that it is not known yet whether the cell's pod still
// exists: a kubelet that was told "no pod" because of a cache that lags would
// end a running one. And that the pod may still run in another cell.
func (p *Provider) Cell(name string) (gateway.Cell, bool) {
	cell := p.cell(name)
	if cell == nil || cell.Status.Launch == nil {
		return gateway.Cell{}, false
	}
	if ref := cell.Spec.Pod; cell.Settled() && p.cachedPod(ref) == nil {
		p.mu.Lock()
		gone := p.gone[ref.UID]
		p.mu.Unlock()
		if !gone {
			return gateway.Cell{}, false
		}
	}
	if wait, err := p.waits(cell); wait || err != nil {
		return gateway.Cell{}, false
	}
	launch := cell.Status.Launch
	capacity := corev1.ResourceList{}
	if c, ok := p.Capacity(launch.InstanceType); ok {
		capacity = maps.Clone(c)
	}
	capacity[corev1.ResourcePods] = *resource.NewQuantity(1, resource.DecimalSI)
	if g := cell.Spec.Requirements.VolumeGiB; g > 0 {
		capacity[corev1.ResourceEphemeralStorage] = *resource.NewQuantity(int64(g)<<30, resource.BinarySI)
	}

	instance := map[string]string{
		corev1.LabelInstanceTypeStable: launch.InstanceType,
		corev1.LabelTopologyZone:       launch.Zone,
		corev1.LabelTopologyRegion:     p.Region,
		corev1.LabelArchStable:         launch.Architecture,
		corev1.LabelOSStable:           "linux",
		corev1.LabelHostname:           p.NodeName,
		LabelCapacityType:              string(launch.CapacityType),
	}
	// The scheduler matched the pod against the virtual node: its labels win,
	// but for those by which the pod chose its instance. Of these the instance's
	// are what the pod asked for, and true.
	labels := maps.Clone(instance)
	maps.Copy(labels, p.NodeLabels)
	for key := range labels {
		if own := instancetype.InstanceLabel(key); own != "" {
			labels[key] = instance[own]
		}
	}

	g := gateway.Cell{
		Name: name, NodeName: p.NodeName,
		Capacity:   capacity,
		InternalIP: cell.Status.PrimaryIP,
		PodIP:      cell.Status.PodIP,
		Labels:     labels,
	}
	if cell.Settled() {
		g.PodUID = cell.Spec.Pod.UID
	}
	return g, true
}

// Pod is part of gateway.State: the pod bound to the cell, with the newest
// status there is, or nil.
func (p *Provider) Pod(name string) *corev1.Pod {
	cell := p.cell(name)
	if cell == nil || !cell.Settled() {
		return nil
	}
	pod := p.podOf(cell)
	if pod == nil {
		return nil
	}
	return p.visible(pod, cell)
}

// podOf is the cell's pod with the newest status there is, nil if there is none.
func (p *Provider) podOf(cell *v1beta1.Cell) *corev1.Pod {
	pod := p.cachedPod(cell.Spec.Pod)
	if pod == nil {
		return nil
	}
	pod.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
	pod.Status = compose(&pod.Status, p.known(pod.UID).reported, cellReady(cell, metav1.NewTime(p.Clock.Now())))
	return pod
}

// asCached has the cache answer with what it holds, whose fields may be set and
// below which nothing may be changed. Each request of thousands of kubelets
// looks at its cell and pod, some times over; copies would be most of its cost.
var asCached = &client.GetOptions{UnsafeDisableDeepCopy: new(true)}

// cachedPod is a pod of this node as the API server has it, nil where there is
// none. It is as cached.
func (p *Provider) cachedPod(ref *v1beta1.PodReference) *corev1.Pod {
	pod, err := p.pod(context.Background(), types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}, asCached)
	if err != nil || pod.UID != ref.UID {
		return nil
	}
	return pod
}

// cell reads a Cell of this node from the cache, nil where there is none. It is
// as cached.
func (p *Provider) cell(name string) *v1beta1.Cell {
	cell := &v1beta1.Cell{}
	// The cache answers from memory: there is nothing to cancel.
	if err := p.Client.Get(context.Background(), client.ObjectKey{Name: name}, cell, asCached); err != nil || cell.Spec.NodeName != p.NodeName {
		return nil
	}
	return cell
}

// bound returns the cell and its pod if uid is the pod's. The error is the API
// server's NotFound, which the kubelet understands.
func (p *Provider) bound(name string, uid types.UID) (*v1beta1.Cell, *corev1.Pod, error) {
	cell := p.cell(name)
	if cell == nil || !cell.Settled() || cell.Spec.Pod.UID != uid {
		return nil, nil, apierrors.NewNotFound(corev1.Resource("pods"), string(uid))
	}
	pod := p.podOf(cell)
	if pod == nil {
		return nil, nil, apierrors.NewNotFound(corev1.Resource("pods"), cell.Spec.Pod.Name)
	}
	return cell, pod, nil
}

// SetPodStatus is part of gateway.Sink: the kubelet's word on its pod. It is
// taken here and written to the API server by the library.
func (p *Provider) SetPodStatus(ctx context.Context, name string, uid types.UID, status corev1.PodStatus) (*corev1.Pod, error) {
	cell, pod, err := p.bound(name, uid)
	if err != nil {
		return nil, err
	}
	if cell.Status.Interruption == nil && mayBeStopped(pod, status) {
		if cell, err = p.liveCell(ctx, cell); err != nil {
			return nil, err
		}
	}
	// A kubelet reports the whole status, and in it what Kip told of an
	// interruption: that is no word of the kubelet's.
	status.Conditions = slices.DeleteFunc(status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.DisruptionTarget && c.Reason == reasonInterruption
	})
	var own *corev1.PodStatus
	switch {
	case instanceGone(cell):
		return nil, fmt.Errorf("the instance of cell %s is gone", name)
	case cell.Status.Interruption != nil && !cell.Drains():
		return nil, apierrors.NewNotFound(corev1.Resource("pods"), pod.Name) // it is another cell's now
	case stopping(pod, cell):
		own = status.DeepCopy()
		stopped(pod, cell, &status)
	default:
		conclude(pod, &status)
	}
	p.setReported(uid, name, status, own)
	p.poke(client.ObjectKeyFromObject(pod))
	pod.Status = compose(&pod.Status, &status, cellReady(cell, metav1.NewTime(p.Clock.Now())))
	return p.visible(pod, cell), nil
}

// PodTerminated is part of gateway.Sink: the kubelet has removed the pod.
func (p *Provider) PodTerminated(ctx context.Context, name string, uid types.UID) error {
	cell, pod, err := p.bound(name, uid)
	if err != nil {
		return err
	}
	if stopping(pod, cell) {
		return p.podStopped(ctx, pod, cell)
	}
	p.mu.Lock()
	p.record(uid).ended = true
	p.mu.Unlock()
	p.poke(client.ObjectKeyFromObject(pod))
	return nil
}

// Heartbeat is part of gateway.Sink: the cell's kubelet renewed its lease.
func (p *Provider) Heartbeat(cell, trouble string) { p.Health.Heartbeat(cell, trouble) }
