package gateway_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/features"
	featurestesting "k8s.io/client-go/features/testing"
	"k8s.io/client-go/informers"

	"github.com/elotl/kip/v2/internal/gateway"
)

// What a pod refers to and is not there is told once, by whichever way the
// kubelet learns it; what is there is not.
func TestMissing(t *testing.T) {
	yes := true
	pod := webPod()
	pod.Spec.Containers[0].EnvFrom = append(pod.Spec.Containers[0].EnvFrom,
		corev1.EnvFromSource{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "extra"}, Optional: &yes}},
		corev1.EnvFromSource{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "both"}, Optional: &yes}},
	)
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: "both", VolumeSource: corev1.VolumeSource{
		ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "both"}},
	}})
	cases := map[string]struct {
		reason string
		kind   string // as in a path
		name   string
		there  bool
		want   []gateway.Missing
	}{
		"There":     {reason: "nothing is missing", kind: "secrets", name: "password", there: true},
		"Mandatory": {reason: "the pod cannot start", kind: "secrets", name: "password", want: []gateway.Missing{{Kind: "Secret", Name: "password"}}},
		"Optional":  {reason: "it can", kind: "secrets", name: "extra", want: []gateway.Missing{{Kind: "Secret", Name: "extra", Optional: true}}},
		"Both":      {reason: "one reference that is not optional is enough", kind: "configmaps", name: "both", want: []gateway.Missing{{Kind: "ConfigMap", Name: "both"}}},
		"Pull":      {reason: "kubelets complain of pull secrets themselves", kind: "secrets", name: "pull"},
	}
	for name, tc := range cases {
		for _, watchList := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				featurestesting.SetFeatureDuringTest(t, features.WatchListClient, watchList)
				var mu sync.Mutex
				var told []gateway.Missing
				h := newHarness(t, func(c *gateway.Config) {
					c.Missing = func(of *corev1.Pod, m gateway.Missing) {
						mu.Lock()
						defer mu.Unlock()
						if of.UID != pod.UID {
							t.Errorf("told of pod %s", of.Name)
						}
						told = append(told, m)
					}
				})
				if tc.there {
					put(h, "/api/v1/namespaces/shop/"+tc.kind+"/"+tc.name, &corev1.Secret{
						TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: tc.name, ResourceVersion: "7"},
					})
				}
				h.State.Bind(cell, pod)
				// A kubelet has a reflector for each object; twice, as after a while.
				for range 2 {
					follow(t, h, tc.kind, tc.name)
				}
				mu.Lock()
				defer mu.Unlock()
				if diff := cmp.Diff(tc.want, told); diff != "" {
					t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
				}
			})
		}
	}
}

// follow reads an object as a kubelet does, until it knows whether it is there.
func follow(t *testing.T, h *harness, kind, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	factory := informers.NewSharedInformerFactoryWithOptions(h.client(t, false), 0, informers.WithNamespace(ns),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.FieldSelector = "metadata.name=" + name }))
	if kind == "configmaps" {
		factory.Core().V1().ConfigMaps().Informer()
	} else {
		factory.Core().V1().Secrets().Informer()
	}
	factory.Start(ctx.Done())
	for _, synced := range factory.WaitForCacheSync(ctx.Done()) {
		if !synced {
			t.Fatalf("%s %s was not read: %v", kind, name, context.Cause(ctx))
		}
	}
	cancel()
	factory.Shutdown()
}
