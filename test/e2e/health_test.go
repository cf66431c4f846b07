package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	corev1 "k8s.io/api/core/v1"
)

// awaitCell waits until the pod, the same object as before, is ready on the cell
// of that attempt.
func (s *space) awaitCell(before *corev1.Pod, attempt int32) *corev1.Pod {
	s.Helper()
	var after *corev1.Pod
	s.within(2*patience, fmt.Sprintf("pod %s is ready on its cell %d", before.Name, attempt), func(ctx context.Context) (err error) {
		if after, err = s.pod(ctx, before.Name); err != nil {
			return err
		}
		cell, err := findCell(ctx, after)
		switch {
		case err != nil:
			return err
		case after.UID != before.UID:
			return errors.New("it is another pod")
		case cell.Spec.Attempt != attempt || after.Status.HostIP != cell.Status.PrimaryIP:
			return fmt.Errorf("it has cell %s, attempt %d", cell.Name, cell.Spec.Attempt)
		}
		return isReady(after)
	})
	return after
}

// The agent of a cell hangs. Nothing that Kubernetes knows of ends: the cell
// falls silent, is given up, and the same pod runs on another.
func TestHungCell(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	pod := newPod("hung", shell("main", "sleep 1000000"))
	pod.Annotations = map[string]string{"pod.elotl.co/healthcheck-healthy-timeout": "60"}
	neighbour := s.create(newPod("well", shell("main", "sleep 1000000")))
	before := s.start(pod)
	neighbour = s.awaitReady(neighbour.Name)
	cell := s.cellOf(before)

	hung := time.Now()
	if err := syscall.Kill(machineOf(t, cell).init, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	silent := s.awaitPod("hung", "it is out of touch", func(pod *corev1.Pod) error {
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodReady && (c.Reason == "CellSilent" || c.Reason == "CellUnhealthy") {
				return nil
			}
		}
		return errors.New(conditions(pod))
	})
	t.Logf("%.0f s after it hung: %s", time.Since(hung).Seconds(), conditions(silent))
	t.Logf("event: %s", s.awaitEvent("hung", "CellUnhealthy"))
	s.awaitCell(before, 1)
	t.Logf("it was ready again %.0f s after it hung", time.Since(hung).Seconds())
	if state, err := shared.cloud.state(t.Context(), cell.Status.InstanceID); err != nil || state != types.InstanceStateNameTerminated {
		t.Errorf("the instance that hung is %s, %v", state, err)
	}
	s.kubectl("exec", "hung", "--", "true")
	if now := s.cellOf(s.awaitReady("well")); now.Spec.Attempt != 0 || now.Status.PrimaryIP != neighbour.Status.HostIP {
		t.Errorf("its neighbour was moved to %s", now.Name)
	}
}

// Cells are given up by the cloud's word alone: one that gives every sign of life
// and that EC2 finds impaired, and not one that is silent. Kip gets another
// configuration for it, so this test runs alone.
func TestImpairedCell(t *testing.T) {
	s := newSpace(t)
	s.cellsConfigurer()("healthcheck: {cloudAPI: {interval: 10, healthyTimeout: 30}}")
	s.create(newPod("silent", shell("main", forever)))
	before := s.start(newPod("impaired", shell("main", forever)))
	silent := s.awaitReady("silent")

	agent := machineOf(t, s.cellOf(silent)).init
	if err := syscall.Kill(agent, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	instance := s.cellOf(before).Status.InstanceID
	if err := shared.cloud.command(t.Context(), http.MethodPut, "instances/"+instance+"/checks", map[string]string{"instance": "impaired"}, nil); err != nil {
		t.Fatal(err)
	}
	found := time.Now()
	if said := s.awaitEvent("impaired", "CellUnhealthy"); !strings.Contains(said, "status checks") {
		t.Errorf("event: %s", said)
	}
	s.awaitCell(before, 1)
	t.Logf("it was ready again %.0f s after EC2 found its instance impaired", time.Since(found).Seconds())
	if state, err := shared.cloud.state(t.Context(), instance); err != nil || state != types.InstanceStateNameTerminated {
		t.Errorf("the impaired instance is %s, %v", state, err)
	}

	// It has been silent for longer than the timeout by now.
	s.awaitEvent("silent", "CellSilent")
	if err := syscall.Kill(agent, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	s.awaitCell(silent, 0)
}

// EC2 schedules the end of an instance: the pod has left it before.
func TestScheduledRetirement(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	pod := newPod("retired", shell("main", polite))
	pod.Spec.TerminationGracePeriodSeconds = new(int64(20))
	before := s.start(pod)
	cell := s.cellOf(before)
	logs := s.followLogs("retired", "main")

	at := time.Now().Add(8 * time.Minute)
	retirement := map[string]string{"code": "instance-retirement", "description": "degraded hardware", "notBefore": at.UTC().Format(time.RFC3339)}
	if err := shared.cloud.command(t.Context(), http.MethodPut, "instances/"+cell.Status.InstanceID+"/events", []map[string]string{retirement}, nil); err != nil {
		t.Fatal(err)
	}
	t.Logf("event: %s", s.awaitEvent("retired", "InstanceEventScheduled"))
	t.Logf("event: %s", s.awaitEvent("retired", "CellInterruption"))
	if text := logs(); !strings.Contains(text, "cleaned up") {
		t.Errorf("the pod was not ended in order: %q", text)
	}
	s.awaitCell(before, 1)
	if time.Now().After(at) {
		t.Error("its instance was retired first")
	}
}
