package e2e

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

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

// A kubelet is stopped, as one whose loops are stuck: it runs and does nothing.
// Its agent starts it again before the cell is given up, and the pod's container
// has not noticed.
func TestStuckKubelet(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	pod := newPod("pod", shell("main", "sleep 1000000"))
	pod.Annotations = map[string]string{"pod.elotl.co/healthcheck-healthy-timeout": "600"} // on a busy machine too
	before := s.start(pod)
	cell := s.cellOf(before)
	m := machineOf(t, cell)
	stuck := m.processes(t, "kubelet")
	if len(stuck) != 1 {
		t.Fatalf("the cell has kubelets %v", stuck)
	}
	began := time.Now()
	if err := syscall.Kill(stuck[0], syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	s.within(2*patience, "its cell has another kubelet", func(context.Context) error {
		if now := m.processes(t, "kubelet"); len(now) != 1 || now[0] == stuck[0] {
			return fmt.Errorf("kubelets %v", now)
		}
		return nil
	})
	t.Logf("it was started again %.0f s after it was stopped", time.Since(began).Seconds())
	after := s.awaitPod("pod", "it is ready", func(pod *corev1.Pod) error {
		if out, code := s.tryKubectl("", "exec", "pod", "--", "true"); code != 0 {
			return errors.New(out)
		}
		return isReady(pod)
	})
	if now := s.cellOf(after); now.Name != cell.Name {
		t.Errorf("the pod has cell %s now", now.Name)
	}
	if was, is := before.Status.ContainerStatuses[0], after.Status.ContainerStatuses[0]; is.ContainerID != was.ContainerID || is.RestartCount != 0 {
		t.Errorf("its container was started again: %+v", is)
	}
}
