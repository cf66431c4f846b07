package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	vk "github.com/virtual-kubelet/virtual-kubelet/test/e2e"

	"github.com/elotl/kip/v2/internal/localcluster"
	"github.com/elotl/kip/v2/internal/ociimage"
)

// notOfAKubelet are tests of virtual-kubelet's suite that no kubelet passes.
var notOfAKubelet = map[string]string{
	// It takes the second label of a metric for the pod. Of a kubelet's metrics
	// of containers that is the namespace: they are in alphabetical order.
	"TestGetMetricsResource": "reads labels by their place, which is another one in a kubelet's metrics",
}

// The suite that virtual-kubelet has for its providers passes.
func TestVirtualKubeletSuite(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	// The containers of its pods only have to run.
	pause, err := ociimage.Build(ociimage.Spec{Files: map[string]string{"/pause": shared.Root + "/bin/pause"}, Entrypoint: []string{"/pause"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"foo", "bar", "baz"} {
		if err := shared.Push(t.Context(), pause, "docker.io/library/"+name+":latest"); err != nil {
			t.Fatal(err)
		}
	}
	s.lendKubeletAPI()
	vk.NewEndToEndTestSuite(vk.EndToEndTestSuiteConfig{
		Kubeconfig: shared.Kubeconfig(), Namespace: s.name, NodeName: localcluster.NodeName, WatchTimeout: patience,
		ShouldSkipTest: func(name string) bool {
			why, skip := notOfAKubelet[name]
			if skip {
				t.Logf("%s is left out: it %s", name, why)
			}
			return skip
		},
	}).Run(t)
}

// summarized are the containers whose statistics the suite wants to see. It asks
// once, as soon as they run; Kip knows what cells report every 15 seconds.
var summarized = []string{"nginx-testgetstatssummary-0", "nginx-testgetstatssummary-1", "nginx-testgetstatssummary-2"}

// lendKubeletAPI makes a pod with the virtual node's name that leads to Kip's
// kubelet API. The suite asks such a pod for statistics, and as nobody: the
// provider that it was written for is a pod beside the tests and lets everybody
// in. Kip does not, so this pod asks with a service account that may.
func (s *space) lendKubeletAPI() {
	s.Helper()
	ctx := s.Context()
	name := s.name + "-stats"
	meta := metav1.ObjectMeta{Name: name}
	if _, err := shared.kube.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"nodes/stats", "nodes/metrics"}, Verbs: []string{"get"}},
	}}, metav1.CreateOptions{}); err != nil {
		s.Fatal(err)
	}
	if _, err := shared.kube.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: meta,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: s.name, Name: "default"}},
	}, metav1.CreateOptions{}); err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := errors.Join(
			shared.kube.RbacV1().ClusterRoleBindings().Delete(ctx, name, metav1.DeleteOptions{}),
			shared.kube.RbacV1().ClusterRoles().Delete(ctx, name, metav1.DeleteOptions{}),
		); err != nil {
			s.Error(err)
		}
	})
	node, err := shared.kube.CoreV1().Nodes().Get(ctx, localcluster.NodeName, metav1.GetOptions{})
	if err != nil {
		s.Fatal(err)
	}
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			s.start(newPod(localcluster.NodeName, program("forward", "forward", "-until", strings.Join(summarized, ","), fmt.Sprintf("https://%s:%d", a.Address, node.Status.DaemonEndpoints.KubeletEndpoint.Port))))
			return
		}
	}
	s.Fatalf("%s has no address: %v", node.Name, node.Status.Addresses)
}
