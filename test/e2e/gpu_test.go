package e2e

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// TestGPU: a container gets the GPUs that it asks for, and its neighbour in the
// pod none. The devices are ec2local's, which are nothing but names.
func TestGPU(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	asks := shell("asks", forever)
	asks.Resources.Limits = corev1.ResourceList{"nvidia.com/gpu": resource.MustParse("1")}
	s.create(newPod("gpu", asks, shell("neighbour", forever)))
	s.awaitReady("gpu")
	for container, want := range map[string]string{"asks": "/dev/nvidia0", "neighbour": ""} {
		out := s.kubectl("exec", "gpu", "-c", container, "--", "sh", "-c", "ls /dev/nvidia* 2>/dev/null || true")
		if got := strings.TrimSpace(out); got != want {
			t.Errorf("container %s has %q, want %q", container, got, want)
		}
	}
}
