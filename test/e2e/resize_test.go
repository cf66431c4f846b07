package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/elotl/kip/v2/internal/localcluster"
)

// resizeCondition is a pod's condition of that type, nil if it has none.
func resizeCondition(p *corev1.Pod, kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == kind {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

// resized waits until a container has these requests, in its status too.
func (s *space) resized(pod, container, cpu, memory string) *corev1.Pod {
	s.Helper()
	return s.awaitPod(pod, fmt.Sprintf("%s has %s, %s", container, cpu, memory), func(p *corev1.Pod) error {
		for _, c := range p.Status.ContainerStatuses {
			if c.Name != container {
				continue
			}
			if c.Resources == nil {
				return errors.New("its status tells no resources")
			}
			got := c.Resources.Requests
			if got.Cpu().String() != cpu || got.Memory().String() != memory {
				return fmt.Errorf("it has %s, %s; %+v", got.Cpu(), got.Memory(), p.Status.Conditions)
			}
			for _, kind := range []corev1.PodConditionType{corev1.PodResizePending, corev1.PodResizeInProgress} {
				if c := resizeCondition(p, kind); c != nil {
					return fmt.Errorf("%s: %s: %s", kind, c.Reason, c.Message)
				}
			}
			return nil
		}
		return fmt.Errorf("there is no status of %s", container)
	})
}

// A pod grows and shrinks in place, as far as its instance goes. What does not
// fit is Infeasible, with the reason, and changes nothing.
func TestResize(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	main, other := shell("main", forever), shell("other", forever)
	main.Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: *quantity("64Mi")}
	main.ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: corev1.ResourceMemory, RestartPolicy: corev1.NotRequired}}
	other.ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: corev1.ResourceCPU, RestartPolicy: corev1.RestartContainer}}
	s.start(newPod("pod", main, other))
	resize := func(patch string) {
		t.Helper()
		s.kubectl("patch", "pod", "pod", "--subresource=resize", "-p", `{"spec":{"containers":[`+patch+`]}}`)
	}
	restarts := func(p *corev1.Pod, container string) int32 {
		for _, c := range p.Status.ContainerStatuses {
			if c.Name == container {
				return c.RestartCount
			}
		}
		return -1
	}

	resize(`{"name":"main","resources":{"requests":{"cpu":"100m","memory":"48Mi"},"limits":{"memory":"80Mi"}}}`)
	if pod := s.resized("pod", "main", "100m", "48Mi"); restarts(pod, "main") != 0 {
		t.Error("main restarted")
	}
	// Either version of control groups.
	s.outputs("pod", "main", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max", fmt.Sprint(80<<20))
	resize(`{"name":"other","resources":{"requests":{"cpu":"70m"}}}`)
	if pod := s.resized("pod", "other", "70m", "32Mi"); restarts(pod, "other") != 1 || restarts(pod, "main") != 0 {
		t.Errorf("main restarted %d times, other %d times", restarts(pod, "main"), restarts(pod, "other"))
	}

	for resource, much := range map[string]string{"cpu": "64", "memory": "900Gi"} {
		limit := `"limits":{"memory":"80Mi"}`
		if resource == "memory" {
			limit = `"limits":{"memory":"900Gi"}`
		}
		resize(`{"name":"main","resources":{"requests":{"` + resource + `":"` + much + `"},` + limit + `}}`)
		s.awaitPod("pod", much+" of "+resource+" are too much", func(p *corev1.Pod) error {
			c := resizeCondition(p, corev1.PodResizePending)
			if c == nil || c.Reason != corev1.PodReasonInfeasible || !strings.Contains(c.Message, resource) || !strings.Contains(c.Message, "capacity") {
				return fmt.Errorf("the condition is %+v", c)
			}
			t.Logf("%s: %s", c.Reason, c.Message)
			return nil
		})
		resize(`{"name":"main","resources":{"requests":{"cpu":"100m","memory":"48Mi"},"limits":{"memory":"80Mi"}}}`)
		if pod := s.resized("pod", "main", "100m", "48Mi"); restarts(pod, "main") != 0 {
			t.Error("main restarted")
		}
	}
}

// A pod's own budget, which its containers share, can be resized too.
func TestResizePodLevel(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	main := shell("main", forever)
	main.Resources = corev1.ResourceRequirements{}
	pod := newPod("pod", main)
	pod.Spec.Resources = &corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceCPU: *quantity("100m"), corev1.ResourceMemory: *quantity("64Mi")},
		Limits:   corev1.ResourceList{corev1.ResourceMemory: *quantity("96Mi")},
	}
	cell := s.cellOf(s.start(pod))

	// The API server lets it happen because the virtual node declares what the
	// kubelets of cells declare.
	declared := map[string][]string{}
	_, kubelet := machineOf(t, cell).stolen(t, kubeletConfig)
	for what, api := range map[string]kubernetes.Interface{"the virtual node": shared.kube, "the cell's": kubelet} {
		node, err := api.CoreV1().Nodes().Get(t.Context(), localcluster.NodeName, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		declared[what] = node.Status.DeclaredFeatures
	}
	if diff := cmp.Diff(declared["the cell's"], declared["the virtual node"]); diff != "" {
		t.Errorf("the virtual node declares other features than a cell's kubelet, -want +got:\n%s", diff)
	}

	s.kubectl("patch", "pod", "pod", "--subresource=resize", "-p", `{"spec":{"resources":{"requests":{"cpu":"150m"},"limits":{"memory":"128Mi"}}}}`)
	s.awaitPod("pod", "it was resized", func(p *corev1.Pod) error {
		if r := p.Status.Resources; r == nil || r.Requests.Cpu().String() != "150m" || r.Limits.Memory().String() != "128Mi" {
			return fmt.Errorf("its status is %+v, %+v", r, p.Status.Conditions)
		}
		return nil
	})
}
