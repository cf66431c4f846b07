package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// polite ends some time after it was told to.
const polite = `trap 'echo got TERM; sleep 3; echo cleaned up; exit 0' TERM; echo runs; while :; do sleep 1 & wait $!; done`

// interrupt announces that the cloud takes the instance after a while. EC2
// leaves two minutes.
func (s *space) interrupt(instance string, after time.Duration) {
	s.Helper()
	path := fmt.Sprintf("instances/%s/interrupt?after=%s", instance, after)
	if err := shared.cloud.command(s.Context(), http.MethodPost, path, nil, nil); err != nil {
		s.Fatal(err)
	}
}

// followLogs returns what waits for the end of a container's logs, from now on.
func (s *space) followLogs(pod, container string) (all func() string) {
	s.Helper()
	stream, err := shared.kube.CoreV1().Pods(s.name).GetLogs(pod, &corev1.PodLogOptions{Container: container, Follow: true}).Stream(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	var text strings.Builder
	var wg sync.WaitGroup
	wg.Go(func() {
		defer stream.Close()
		_, _ = io.Copy(&text, stream)
	})
	return func() string { wg.Wait(); return text.String() }
}

func disruptionTarget(pod *corev1.Pod) corev1.PodCondition {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.DisruptionTarget {
			return c
		}
	}
	return corev1.PodCondition{}
}

// A spot instance is taken under a pod that nobody would replace: the pod's
// owner is told, the pod ends in order, and the same pod runs on an instance
// that was launched before the first one went.
func TestSpotInterruption(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	pod := newPod("spot", shell("main", polite))
	pod.Annotations = map[string]string{"pod.elotl.co/launch-type": "spot"}
	pod.Spec.TerminationGracePeriodSeconds = new(int64(20))
	before := s.start(pod)
	cell := s.cellOf(before)
	logs := s.followLogs("spot", "main")

	// Long, for a machine that is busy. Nothing here waits for it.
	const notice = time.Minute
	start := time.Now()
	s.interrupt(cell.Status.InstanceID, notice)
	s.awaitPod("spot", "the condition DisruptionTarget", func(pod *corev1.Pod) error {
		if c := disruptionTarget(pod); c.Status != corev1.ConditionTrue || !strings.Contains(c.Message, "spot-interruption") {
			return fmt.Errorf("it is %+v", c)
		}
		return nil
	})
	t.Logf("event: %s", s.awaitEvent("spot", "CellInterruption"))
	if text := logs(); !strings.Contains(text, "got TERM") || !strings.Contains(text, "cleaned up") {
		t.Errorf("the pod was not ended in order: %q", text)
	}

	var after *corev1.Pod
	s.eventually("the pod runs on another instance", func(ctx context.Context) (err error) {
		if after, err = s.pod(ctx, "spot"); err != nil {
			return err
		}
		if after.Status.PodIP == before.Status.PodIP {
			return fmt.Errorf("it has the address of before: %s", conditions(after))
		}
		return isReady(after)
	})
	t.Logf("it was ready again %.1f s after the notice", time.Since(start).Seconds())
	now := s.cellOf(after)
	if after.UID != before.UID || now.Name == cell.Name || now.Spec.Attempt != 1 {
		t.Errorf("pod %s on cell %s, attempt %d; want the same pod on another cell, attempt 1", after.UID, now.Name, now.Spec.Attempt)
	}
	if launched := now.Status.Launch.Time.Time; launched.After(start.Add(notice)) {
		t.Errorf("its instance was launched at %s, when the first one was gone already", launched)
	}
	s.kubectl("exec", "spot", "--", "true")
}

// The same under a pod that must not run again: it fails and says why.
func TestInterruptedForGood(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	pod := newPod("once", shell("main", polite))
	pod.Annotations = map[string]string{"pod.elotl.co/launch-type": "spot"}
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	pod.Spec.TerminationGracePeriodSeconds = new(int64(20))
	cell := s.cellOf(s.start(pod))
	logs := s.followLogs("once", "main")
	s.interrupt(cell.Status.InstanceID, time.Minute)
	ended := s.awaitPod("once", "its end", hasEnded)
	if ended.Status.Phase != corev1.PodFailed || ended.Status.Reason != "CellInterrupted" || disruptionTarget(ended).Status != corev1.ConditionTrue {
		t.Errorf("the pod is %s, %q: %s", ended.Status.Phase, ended.Status.Reason, ended.Status.Message)
	}
	s.eventually("its cell is gone", func(ctx context.Context) error {
		if cell, err := findCell(ctx, ended); err == nil {
			return errors.New(cell.Name + " is there")
		}
		return nil
	})
	if text := logs(); !strings.Contains(text, "cleaned up") {
		t.Errorf("the pod was not ended in order: %q", text)
	}
	if text := s.kubectl("logs", "once"); !strings.Contains(text, "cleaned up") {
		t.Errorf("of what it wrote is left: %q", text)
	}
}

// Eight spot instances are taken at once under a Deployment: every pod ends in
// order and says why, and all replacements are launched before the deadline.
// The same with a hundred cells is TestHundredInterruptions of package
// provider, with simulated instances.
func TestInterruptedDeployment(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	const replicas = 8
	s.apply(fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: spot}
spec:
  replicas: %d
  selector: {matchLabels: {app: spot}}
  template:
    metadata:
      labels: {app: spot}
      annotations: {pod.elotl.co/launch-type: spot}
    spec:
      nodeSelector: {type: virtual-kubelet}
      tolerations: [{key: virtual-kubelet.io/provider, operator: Exists}]
      terminationGracePeriodSeconds: 30
      containers:
      - name: main
        image: busybox
        imagePullPolicy: IfNotPresent
        command:
        - sh
        - -c
        - %s
`, replicas, polite))
	ready := func(of func([]corev1.Pod) []corev1.Pod) func(context.Context) error {
		return func(context.Context) error {
			pods := of(s.podsOf("spot"))
			if len(pods) != replicas {
				return fmt.Errorf("%d pods", len(pods))
			}
			for i := range pods {
				if err := isReady(&pods[i]); err != nil {
					return fmt.Errorf("%s: %w", pods[i].Name, err)
				}
			}
			return nil
		}
	}
	s.within(2*patience, "all pods are ready", ready(func(pods []corev1.Pod) []corev1.Pod { return pods }))
	first := s.podsOf("spot")
	logs := map[string]func() string{}
	instances := map[string]string{}
	for i := range first {
		logs[first[i].Name] = s.followLogs(first[i].Name, "main")
		instances[first[i].Name] = s.cellOf(&first[i]).Status.InstanceID
	}

	// Watched from before: a pod of a Deployment is gone soon.
	watch, err := shared.kube.CoreV1().Pods(s.name).Watch(t.Context(), metav1.ListOptions{LabelSelector: "app=spot"})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	const notice = 2 * time.Minute
	deadline := time.Now().Add(notice)
	for _, id := range instances {
		s.interrupt(id, notice)
	}
	disrupted := map[string]bool{}
	gone := map[string]bool{}
	for len(gone) < replicas {
		select {
		case e, ok := <-watch.ResultChan():
			pod, isPod := e.Object.(*corev1.Pod)
			if !ok || !isPod {
				t.Fatalf("the watch broke: %+v", e.Object)
			}
			if logs[pod.Name] == nil {
				continue
			}
			if disruptionTarget(pod).Status == corev1.ConditionTrue {
				disrupted[pod.Name] = true
			} else if pod.DeletionTimestamp != nil {
				t.Errorf("%s is deleted and does not say why", pod.Name)
			}
			if e.Type == "DELETED" {
				gone[pod.Name] = true
			}
		case <-time.After(notice):
			t.Fatalf("of %d pods only %d are gone", replicas, len(gone))
		}
	}
	if time.Now().After(deadline) {
		t.Error("the pods were gone no earlier than their instances")
	}
	for name, all := range logs {
		if text := all(); !strings.Contains(text, "got TERM") || !strings.Contains(text, "cleaned up") {
			t.Errorf("%s was not ended in order: %q", name, text)
		}
		if !disrupted[name] {
			t.Errorf("%s never had the condition DisruptionTarget", name)
		}
		s.awaitEvent(name, "CellInterruption")
	}

	others := func(pods []corev1.Pod) []corev1.Pod {
		return slices.DeleteFunc(pods, func(p corev1.Pod) bool { return logs[p.Name] != nil })
	}
	s.within(2*patience, "all pods were replaced", ready(others))
	second := others(s.podsOf("spot"))
	for i := range second {
		if launch := s.cellOf(&second[i]).Status.Launch; launch.Time.After(deadline) {
			t.Errorf("the instance of %s was launched at %s, after the deadline", second[i].Name, launch.Time)
		}
	}
	s.eventually("the interrupted instances are gone", func(ctx context.Context) error {
		living, err := shared.cloud.living(ctx)
		for _, id := range instances {
			if _, lives := living[id]; lives {
				err = errors.Join(err, errors.New(id+" lives"))
			}
		}
		return err
	})
	count, err := metric(t.Context(), "kip_interruptions_total")
	if err != nil || count < replicas {
		t.Errorf("kip_interruptions_total is %v, %v", count, err)
	}
}
