package e2e

import (
	"fmt"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	corev1 "k8s.io/api/core/v1"
)

// Somebody terminates an instance. A pod that must not run twice fails when the
// instance is proven gone, and not before; one that may run again does so, as the
// same object.
func TestInstanceTerminatedFromOutside(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	once := newPod("once", shell("main", "sleep 1000000"))
	once.Spec.RestartPolicy = corev1.RestartPolicyNever
	s.create(once)
	before := s.start(newPod("again", shell("main", "sleep 1000000")))
	ids := []string{s.cellOf(s.awaitReady("once")).Status.InstanceID, s.cellOf(before).Status.InstanceID}
	if _, err := shared.cloud.api.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: ids}); err != nil {
		t.Fatal(err)
	}
	s.awaitPod("once", "it failed", func(pod *corev1.Pod) error {
		if pod.Status.Phase != corev1.PodFailed {
			return fmt.Errorf("it is %s: %s", pod.Status.Phase, conditions(pod))
		}
		if pod.Status.Reason != "CellLost" {
			t.Errorf("it failed for %s: %s", pod.Status.Reason, pod.Status.Message)
		}
		return nil
	})
	if state, err := shared.cloud.state(t.Context(), ids[0]); err != nil || state != types.InstanceStateNameTerminated {
		t.Errorf("it failed while its instance is %s, %v", state, err)
	}
	s.awaitCell(before, 1)
	s.kubectl("exec", "again", "--", "true")
}
