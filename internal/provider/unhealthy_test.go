package provider

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/elotl/kip/v2/api/v1beta1"
)

func (w *world) wantReady(status corev1.ConditionStatus, reason string) {
	w.t.Helper()
	s := w.pod().Status
	for _, c := range []corev1.PodConditionType{corev1.PodReady, corev1.ContainersReady} {
		if got := condition(&s, c); got.Status != status || got.Reason != reason {
			w.t.Errorf("%s is %s, %q; want %s, %q", c, got.Status, got.Reason, status, reason)
		}
	}
}

// TestSilent: a pod of whose cell nothing is heard is not ready, and ready again
// as soon as it is.
func TestSilent(t *testing.T) {
	w := newWorld(t)
	w.running()
	w.silent, w.silentSince = true, w.clock.Now()
	w.clock.Step(40 * time.Second)
	w.settle()
	w.wantReady(corev1.ConditionFalse, "CellSilent")
	s := w.pod().Status
	if s.Phase != corev1.PodRunning || s.ContainerStatuses[0].State.Running == nil {
		t.Errorf("nothing else is known of it, but it is %+v", s)
	}
	if c := condition(&s, corev1.PodReady); !c.LastTransitionTime.Time.Equal(w.silentSince) {
		t.Errorf("it is not ready since %s, want %s", c.LastTransitionTime, w.silentSince)
	}
	calls := len(w.calls)
	w.settle()
	if len(w.calls) != calls {
		t.Errorf("without news: %v", w.calls[calls:])
	}
	// The kubelet is shown its own word, not what Kip makes of its silence.
	shown := w.kip.Pod(w.cell().Name)
	if c := condition(&shown.Status, corev1.PodReady); c.Status != corev1.ConditionTrue {
		t.Errorf("its kubelet is shown %+v", c)
	}
	w.silent = false
	w.settle()
	w.wantReady(corev1.ConditionTrue, "")
	w.wantCell(0, false)
}

// TestSilentOverARestart: a new Kip has not heard of the silence, nor from the
// kubelet. It says nothing new, and the kubelet is shown what is on record, so
// that it puts it right.
func TestSilentOverARestart(t *testing.T) {
	w := newWorld(t)
	w.running()
	w.silent, w.silentSince = true, w.clock.Now()
	w.settle()
	w.silent = false
	w.restart()
	w.settle()
	w.wantReady(corev1.ConditionFalse, "CellSilent")
	if c := condition(&w.kip.Pod(w.cell().Name).Status, corev1.PodReady); c.Status != corev1.ConditionFalse {
		t.Errorf("its kubelet is shown %+v", c)
	}
	w.report(statusOf(corev1.PodRunning))
	w.settle()
	w.wantReady(corev1.ConditionTrue, "")
}

// givenUp is what the health monitor and the lifecycle controller write.
func givenUp(c *v1beta1.Cell) {
	c.Status.Failure = &v1beta1.FailureStatus{Reason: v1beta1.FailureSilent, Message: "no sign of life", Time: metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))}
	c.Status.Phase = v1beta1.CellTerminating
	cellCondition(v1beta1.ReasonUnhealthy, metav1.ConditionFalse)(c)
}

// TestGivenUp: the pod waits, not ready, until the instance is proven gone.
func TestGivenUp(t *testing.T) {
	for _, p := range []corev1.RestartPolicy{corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever} {
		t.Run(string(p), func(t *testing.T) {
			w := newWorld(t)
			w.running(policy(p))
			w.lifecycle(givenUp)
			w.settle()
			w.wantCell(0, false)
			w.wantReady(corev1.ConditionFalse, v1beta1.ReasonUnhealthy)
			if w.pod().Status.Phase != corev1.PodRunning {
				t.Errorf("it may still run, and is %s", w.pod().Status.Phase)
			}
			w.restart()
			w.settle()
			w.wantCell(0, false)
			w.wantReady(corev1.ConditionFalse, v1beta1.ReasonUnhealthy)

			w.lifecycle(gone)
			w.settle()
			w.wantCell(0, true)
			w.terminated()
			w.settle()
			if p == corev1.RestartPolicyNever {
				if s := w.pod().Status; s.Phase != corev1.PodFailed || s.Reason != "CellLost" || w.cell() != nil {
					t.Errorf("status %+v", s)
				}
				return
			}
			w.wantCell(1, false)
			w.lifecycle(enrolled)
			w.report(statusOf(corev1.PodRunning))
			w.settle()
			w.wantReady(corev1.ConditionTrue, "")
		})
	}
}

// TestGivenUpWhileInterrupted: nothing is shortened by it. The pod's next cell
// has it when the first one is gone.
func TestGivenUpWhileInterrupted(t *testing.T) {
	w := newWorld(t)
	w.running()
	w.lifecycle(func(c *v1beta1.Cell) {
		c.Status.Interruption = &v1beta1.InterruptionStatus{
			Kind: v1beta1.SpotInterruption, Noticed: metav1.NewTime(w.clock.Now()), Deadline: metav1.NewTime(w.clock.Now().Add(2 * time.Minute)),
		}
	})
	w.settle()
	if w.attempt(1) == nil {
		t.Fatal("there is no replacement")
	}
	w.change(w.attempt(0), givenUp)
	w.settle()
	if w.attempt(0).DeletionTimestamp != nil {
		t.Error("the cell is deleted before its instance is gone")
	}
	w.change(w.attempt(0), gone)
	w.settle()
	w.remove(w.attempt(0))
	w.settle()
	if has := w.cell(); has.Spec.Attempt != 1 || has.DeletionTimestamp != nil {
		t.Errorf("the pod has cell %+v", has)
	}
}

// TestHealthyTimeoutOfThePod: what the annotation says is in the Cell.
func TestHealthyTimeoutOfThePod(t *testing.T) {
	for name, tc := range map[string]struct {
		reason, value string
		want          int32
		refused       bool
	}{
		"seconds":  {"whole seconds, as for Kip 1", "600", 600, false},
		"never":    {"0 is for ever", "0", 0, false},
		"short":    {"no kubelet renews its lease so fast", "5", 0, true},
		"negative": {"it makes no sense", "-1", 0, true},
		"duration": {"it is a number", "5m", 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.add(func(pod *corev1.Pod) { pod.Annotations[annotationHealthyTimeout] = tc.value })
			w.must()
			if tc.refused {
				if c := w.cellReadyOf(); c.Reason != v1beta1.ReasonInvalidPod || w.cell() != nil {
					t.Errorf("%s: %+v", tc.reason, c)
				}
				return
			}
			if got := w.cell().Spec.Instance.HealthyTimeoutSeconds; got == nil || *got != tc.want {
				t.Errorf("%s: the Cell says %v", tc.reason, got)
			}
		})
	}
}
