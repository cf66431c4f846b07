package provider

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestSettleResize(t *testing.T) {
	const tooMuch = "Node didn't have enough resource: cpu, requested: 64000, used: 0, capacity: 2000"
	for name, tc := range map[string]struct {
		why                     string
		kind                    corev1.PodConditionType
		reason, message         string
		wantReason, wantMessage string
	}{
		"TooMuch": {
			why:  "nothing will ever make room",
			kind: corev1.PodResizePending, reason: corev1.PodReasonDeferred, message: tooMuch,
			wantReason: corev1.PodReasonInfeasible, wantMessage: tooMuch + neverMore,
		},
		"Infeasible": {
			why:  "the kubelet's word stands",
			kind: corev1.PodResizePending, reason: corev1.PodReasonInfeasible, message: "not with swap",
			wantReason: corev1.PodReasonInfeasible, wantMessage: "not with swap",
		},
		"DeferredForAnotherReason": {
			why:  "it may yet happen",
			kind: corev1.PodResizePending, reason: corev1.PodReasonDeferred, message: "Kubelet cannot get node info.",
			wantReason: corev1.PodReasonDeferred, wantMessage: "Kubelet cannot get node info.",
		},
		"InProgress": {
			why:  "another condition",
			kind: corev1.PodResizeInProgress, reason: corev1.PodReasonError, message: tooMuch,
			wantReason: corev1.PodReasonError, wantMessage: tooMuch,
		},
	} {
		status := corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: tc.kind, Status: corev1.ConditionTrue, Reason: tc.reason, Message: tc.message}}}
		settleResize(&status)
		if c := status.Conditions[0]; c.Reason != tc.wantReason || c.Message != tc.wantMessage {
			t.Errorf("%s (%s): %s: %s", name, tc.why, c.Reason, c.Message)
		}
	}
	settleResize(&corev1.PodStatus{})
}
