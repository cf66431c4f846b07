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
	key := types.NamespacedName{Namespace: namespace, Name: name}
	pod, err := p.pod(ctx, key)
	if err != nil {
		return nil, ""
	}
	var cells v1beta1.CellList
	if err := p.Client.List(ctx, &cells, client.MatchingFields{cellsByPod: key.String()}); err != nil {
		return pod, ""
	}
	attempt, cell := int32(-1), ""
	for i := range cells.Items {
		c := &cells.Items[i]
		if c.Spec.Pod.UID == pod.UID && c.Spec.Attempt > attempt {
			attempt, cell = c.Spec.Attempt, c.Name
		}
	}
	return pod, cell
}

// Pods is part of kubeletapi.Pods.
func (p *Provider) Pods(ctx context.Context) (*corev1.PodList, error) {
	pods := &corev1.PodList{}
	if err := p.Client.List(ctx, pods); err != nil {
		return nil, fmt.Errorf("listing the pods of the node: %w", err)
	}
	// A kubelet's list has no version, and the cache's none that means anything.
	pods.TypeMeta, pods.ListMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}, metav1.ListMeta{}
	return pods, nil
}
