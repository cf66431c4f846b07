package provider

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
)

const (
	// outOfResource begins the kubelet's message about a resize for which its
	// node has too little.
	outOfResource = "Node didn't have enough resource"
	neverMore     = "; no other pod is on this instance, so there will never be more"
)

// settleResize says of a resize that does not fit the instance that it never
// will. The kubelet calls it deferred, until another pod goes; but there is no
// other.
func settleResize(status *corev1.PodStatus) {
	c := condition(status, corev1.PodResizePending)
	if c == nil || c.Reason != corev1.PodReasonDeferred || !strings.HasPrefix(c.Message, outOfResource) {
		return
	}
	c.Reason = corev1.PodReasonInfeasible
	c.Message += neverMore
}
