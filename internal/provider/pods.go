package provider

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/kubeletapi"
)

var _ kubeletapi.Pods = (*Provider)(nil)

// CellOfPod is part of kubeletapi.Pods.
func (p *Provider) CellOfPod(ctx context.Context, namespace, name string) (*corev1.Pod, string) {
	pod, err := p.pod(ctx, types.NamespacedName{Namespace: namespace, Name: name})
	if err != nil {
		return nil, ""
	}
	own, err := p.cellsOfPod(ctx, v1beta1.PodReference{Namespace: namespace, Name: name, UID: pod.UID})
	if err != nil {
		return pod, ""
	}
	if cell, _ := holder(own); cell != nil {
		return pod, cell.Name
	}
	return pod, ""
}

// cellsOfPod are all cells of one pod, as the cache knows them; nothing of them
// may be changed.
func (p *Provider) cellsOfPod(ctx context.Context, ref v1beta1.PodReference) ([]*v1beta1.Cell, error) {
	var cells v1beta1.CellList
	if err := p.Client.List(ctx, &cells, client.MatchingFields{cellsByPod: ref.Namespace + "/" + ref.Name}, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing the cells of pod %s/%s: %w", ref.Namespace, ref.Name, err)
	}
	var own []*v1beta1.Cell
	for i := range cells.Items {
		if c := &cells.Items[i]; c.Spec.Pod.UID == ref.UID && c.Spec.NodeName == p.NodeName {
			own = append(own, c)
		}
	}
	return own, nil
}

// Holders returns the name of the cell that has each pod, by the pod's UID, for
// all pods that have one.
func (p *Provider) Holders(ctx context.Context) (map[types.UID]string, error) {
	var cells v1beta1.CellList
	// Thousands of cells, of which nothing is changed here.
	if err := p.Client.List(ctx, &cells, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing cells: %w", err)
	}
	ofPod := map[types.UID][]*v1beta1.Cell{}
	for i := range cells.Items {
		if c := &cells.Items[i]; c.Spec.Pod != nil && c.Spec.NodeName == p.NodeName {
			ofPod[c.Spec.Pod.UID] = append(ofPod[c.Spec.Pod.UID], c)
		}
	}
	names := make(map[types.UID]string, len(ofPod))
	for uid, own := range ofPod {
		cell, _ := holder(own)
		if cell == nil || cell.DeletionTimestamp != nil {
			continue
		}
		names[uid] = cell.Name
	}
	return names, nil
}

// Pods is part of kubeletapi.Pods.
func (p *Provider) Pods(ctx context.Context) (*corev1.PodList, error) {
	pods := &corev1.PodList{}
	if err := p.Client.List(ctx, pods); err != nil {
		return nil, fmt.Errorf("listing the pods of the node: %w", err)
	}
	for i := range pods.Items {
		// The cache may be behind what a kubelet said, and the API server has.
		pod := &pods.Items[i]
		pod.Status = latest(&pod.Status, p.known(pod.UID).reported)
	}
	// A kubelet's list has no version, and the cache's none that means anything.
	pods.TypeMeta, pods.ListMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}, metav1.ListMeta{}
	return pods, nil
}
