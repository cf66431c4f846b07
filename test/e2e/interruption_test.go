package e2e

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// The cloud takes a spot instance: the pod's owner is told while it still runs,
// and then the pod runs again on another.
func TestSpotInterruption(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	pod := newPod("spot", shell("main", forever))
	pod.Annotations = map[string]string{"pod.elotl.co/launch-type": "spot"}
	before := s.start(pod)
	cell := s.cellOf(before)

	// Two minutes, in life.
	const notice = 8 * time.Second
	url := fmt.Sprintf("%s/_ec2local/instances/%s/interrupt?after=%s", shared.cloud.url, cell.Status.InstanceID, notice)
	resp, err := http.Post(url, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		t.Fatalf("interrupting the instance: %s", resp.Status)
	}
	start := time.Now()
	message := s.awaitEvent("spot", "CellInterruption")
	t.Logf("event after %.1f s: %s", time.Since(start).Seconds(), message)

	var after *corev1.Pod
	took := s.eventually("the pod runs on another instance", func(ctx context.Context) (err error) {
		if after, err = s.pod(ctx, "spot"); err != nil {
			return err
		}
		if after.Status.PodIP == before.Status.PodIP {
			return fmt.Errorf("it has the address of before: %s", conditions(after))
		}
		return isReady(after)
	})
	t.Logf("it was ready again %.1f s after that", took.Seconds())
	if now := s.cellOf(after); after.UID != before.UID || now.Name == cell.Name || now.Spec.Attempt != 1 {
		t.Errorf("pod %s on cell %s, attempt %d; want the same pod on another cell, attempt 1", after.UID, now.Name, now.Spec.Attempt)
	}
	s.kubectl("exec", "spot", "--", "true")
}
