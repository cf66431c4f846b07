package main

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/elotl/kip/v2/internal/localcluster"
	"github.com/elotl/kip/v2/internal/provider"
)

// The measured pod: one container, the service account's token as its only
// volume, no probes, so that Ready follows from started alone.
func newPod(name string, node map[string]string) *corev1.Pod {
	grace := int64(2)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.PodSpec{
			NodeSelector:                  node,
			Tolerations:                   []corev1.Toleration{{Key: provider.TaintKey, Operator: corev1.TolerationOpExists}},
			TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{
				Name: "web", Image: localcluster.ExampleImage, ImagePullPolicy: corev1.PullIfNotPresent,
				Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
					corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("64Mi"),
				}},
			}},
		},
	}
}

var (
	onKip   = map[string]string{"type": "virtual-kubelet"}
	onPlain = map[string]string{corev1.LabelHostname: plainName}
)

func (b *bench) create(ctx context.Context, pod *corev1.Pod) (*corev1.Pod, error) {
	made, err := b.kube.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("making pod %s: %w", pod.Name, err)
	}
	return made, nil
}

// remove deletes a pod and waits until it is gone.
func (b *bench) remove(ctx context.Context, name string) error {
	pods := b.kube.CoreV1().Pods(namespace)
	if err := pods.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("deleting pod %s: %w", name, err)
	}
	return await(ctx, "the end of pod "+name, func(ctx context.Context) (bool, error) {
		_, err := pods.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return false, err
	})
}
