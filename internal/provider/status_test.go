package provider

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/elotl/kip/v2/api/v1beta1"
)

func cond(t corev1.PodConditionType, s corev1.ConditionStatus) corev1.PodCondition {
	return corev1.PodCondition{Type: t, Status: s}
}

func TestCompose(t *testing.T) {
	const gate = corev1.PodConditionType("example.com/gate")
	yes, no := corev1.ConditionTrue, corev1.ConditionFalse
	ready := cond(v1beta1.PodConditionCellReady, yes)
	status := func(phase corev1.PodPhase, conditions ...corev1.PodCondition) *corev1.PodStatus {
		return &corev1.PodStatus{Phase: phase, Conditions: conditions}
	}
	tests := map[string]struct {
		reason        string
		api, reported *corev1.PodStatus
		want          *corev1.PodStatus
	}{
		"nothing reported": {
			"the API server's stands",
			status(corev1.PodPending, cond(corev1.PodScheduled, yes), cond(gate, no)), nil,
			status(corev1.PodPending, cond(corev1.PodScheduled, yes), cond(gate, no), ready),
		},
		"kubelet's conditions": {
			"those that the kubelet reports are its own",
			status(corev1.PodPending, cond(corev1.PodScheduled, yes), cond(corev1.PodReady, no)),
			status(corev1.PodRunning, cond(corev1.PodReady, yes), cond(corev1.PodInitialized, yes), cond(corev1.PodScheduled, yes)),
			status(corev1.PodRunning, cond(corev1.PodScheduled, yes), cond(corev1.PodReady, yes), cond(corev1.PodInitialized, yes), ready),
		},
		"kubelet's condition removed": {
			"a resize that is over",
			status(corev1.PodRunning, cond(corev1.PodResizePending, yes), cond(corev1.PodReady, yes)),
			status(corev1.PodRunning, cond(corev1.PodReady, yes)),
			status(corev1.PodRunning, cond(corev1.PodReady, yes), ready),
		},
		"foreign condition changed": {
			"the kubelet's copy of it is old",
			status(corev1.PodRunning, cond(gate, yes), cond(corev1.PodReady, no)),
			status(corev1.PodRunning, cond(corev1.PodReady, yes), cond(gate, no)),
			status(corev1.PodRunning, cond(gate, yes), cond(corev1.PodReady, yes), ready),
		},
		"foreign condition removed": {
			"it is not brought back",
			status(corev1.PodRunning, cond(corev1.PodReady, yes)),
			status(corev1.PodRunning, cond(corev1.PodReady, yes), cond(gate, no)),
			status(corev1.PodRunning, cond(corev1.PodReady, yes), ready),
		},
		"disruption by others": {
			"a kubelet that knows of none does not take it away",
			status(corev1.PodRunning, cond(corev1.DisruptionTarget, yes)),
			status(corev1.PodRunning),
			status(corev1.PodRunning, cond(corev1.DisruptionTarget, yes), ready),
		},
		"disruption by the kubelet": {
			"evicted for want of disk",
			status(corev1.PodRunning),
			status(corev1.PodFailed, cond(corev1.DisruptionTarget, yes)),
			status(corev1.PodFailed, cond(corev1.DisruptionTarget, yes), ready),
		},
		"CellReady in the report": {
			"a cell does not judge itself",
			status(corev1.PodRunning),
			status(corev1.PodRunning, cond(v1beta1.PodConditionCellReady, no)),
			status(corev1.PodRunning, ready),
		},
		"no way back": {
			"what ended does not run",
			status(corev1.PodSucceeded, cond(corev1.PodReady, no)),
			status(corev1.PodRunning, cond(corev1.PodReady, yes)),
			status(corev1.PodSucceeded, cond(corev1.PodReady, no), ready),
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			before := tc.api.DeepCopy()
			got := compose(tc.api, tc.reported, ready)
			if diff := cmp.Diff(*tc.want, got); diff != "" {
				t.Errorf("%s: %s", tc.reason, diff)
			}
			if diff := cmp.Diff(before, tc.api); diff != "" {
				t.Errorf("the cache's object was changed: %s", diff)
			}
			// Once written, nothing looks changed any more.
			if diff := cmp.Diff(got, compose(&got, tc.reported, ready)); diff != "" {
				t.Errorf("composed again: %s", diff)
			}
		})
	}
}

func TestCellReadyKeepsItsTime(t *testing.T) {
	old, now := metav1.NewTime(time.Unix(100, 0)), metav1.NewTime(time.Unix(200, 0))
	s := &corev1.PodStatus{}
	setCondition(s, corev1.PodCondition{Type: v1beta1.PodConditionCellReady, Status: corev1.ConditionFalse, Reason: "A", LastTransitionTime: old})
	setCondition(s, corev1.PodCondition{Type: v1beta1.PodConditionCellReady, Status: corev1.ConditionFalse, Reason: "B", LastTransitionTime: now})
	if c := s.Conditions[0]; len(s.Conditions) != 1 || c.Reason != "B" || !c.LastTransitionTime.Equal(&old) {
		t.Errorf("%+v", s.Conditions)
	}
	setCondition(s, corev1.PodCondition{Type: v1beta1.PodConditionCellReady, Status: corev1.ConditionTrue, LastTransitionTime: now})
	if c := s.Conditions[0]; !c.LastTransitionTime.Equal(&now) {
		t.Errorf("%+v", c)
	}
}

func TestInterruptedIsStable(t *testing.T) {
	now := metav1.NewTime(time.Unix(100, 0))
	running := statusOf(corev1.PodRunning)
	once := interrupted(&running, "cell-1", now)
	again := interrupted(&once, "cell-1", metav1.NewTime(now.Add(time.Minute)))
	if diff := cmp.Diff(once, again); diff != "" {
		t.Errorf("each look changes it: %s", diff)
	}
	if running.ContainerStatuses[0].State.Running == nil {
		t.Error("the argument was changed")
	}
}

func TestFailKeepsWhatIsKnown(t *testing.T) {
	now := metav1.NewTime(time.Unix(100, 0))
	s := statusOf(corev1.PodRunning)
	s.InitContainerStatuses = []corev1.ContainerStatus{{Name: "init", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 0}}}}
	failed := fail(&s, "the instance of cell cell-1", now)
	if failed.Phase != corev1.PodFailed || failed.Message != "the instance of cell cell-1 is gone, and the pod's restartPolicy is Never" {
		t.Errorf("%+v", failed)
	}
	if failed.InitContainerStatuses[0].State.Terminated.ExitCode != 0 {
		t.Error("a container that ended well before is said to have failed")
	}
	if c := failed.ContainerStatuses[0]; c.Ready || c.State.Running != nil || c.State.Terminated.ExitCode != 137 || c.State.Terminated.ContainerID != "containerd://app" {
		t.Errorf("%+v", c)
	}
	if condition(&failed, corev1.PodReady).Status != corev1.ConditionFalse {
		t.Error("a failed pod is Ready")
	}
}
