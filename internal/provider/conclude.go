package provider

import corev1 "k8s.io/api/core/v1"

// Reasons by which a kubelet says, in the condition ContainersReady, what phase
// it has decided on.
const (
	reasonPodCompleted = "PodCompleted"
	reasonPodFailed    = "PodFailed"
)

// conclude gives a status the phase that the kubelet has decided on and still
// holds back. When the last container has ended a kubelet says so in the reason
// of the condition ContainersReady; the phase follows when it has looked at the
// runtime once more, up to a second later, and has taken the sandbox down. An
// instance that goes as a whole need not be paid for meanwhile.
//
// A pod is only concluded when not one of its containers runs or may run again:
// one whose containers are killed, of which sidecars outlive the others, or that
// never got beyond an init container is the kubelet's to end.
func conclude(pod *corev1.Pod, status *corev1.PodStatus) {
	if status.Phase != corev1.PodRunning || pod.DeletionTimestamp != nil {
		return
	}
	ready := condition(status, corev1.ContainersReady)
	if ready == nil || ready.Status != corev1.ConditionFalse {
		return
	}
	for _, list := range []struct {
		want     int
		statuses []corev1.ContainerStatus
	}{
		{len(pod.Spec.InitContainers), status.InitContainerStatuses},
		{len(pod.Spec.Containers), status.ContainerStatuses},
		{len(pod.Spec.EphemeralContainers), status.EphemeralContainerStatuses},
	} {
		if len(list.statuses) != list.want {
			return
		}
		for i := range list.statuses {
			if list.statuses[i].State.Terminated == nil {
				return
			}
		}
	}
	switch ready.Reason {
	case reasonPodCompleted:
		status.Phase = corev1.PodSucceeded
	case reasonPodFailed:
		status.Phase = corev1.PodFailed
	}
}
