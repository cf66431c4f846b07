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
// never got beyond an init container is the kubelet's to end. So is one that it
// may have evicted: why, it says only with the phase.
func conclude(pod *corev1.Pod, status *corev1.PodStatus) {
	if status.Phase != corev1.PodRunning || pod.DeletionTimestamp != nil || mayBeEvicted(pod, status) {
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

// mayBeEvicted tells whether the end of all containers can be the kubelet's
// doing. Of an eviction for want of memory or disk a condition tells, of one for
// a limit that the pod exceeds nothing does. Containers that are always
// restarted never end otherwise.
func mayBeEvicted(pod *corev1.Pod, status *corev1.PodStatus) bool {
	if pod.Spec.RestartPolicy == corev1.RestartPolicyAlways || condition(status, corev1.DisruptionTarget) != nil {
		return true
	}
	for i := range pod.Spec.Volumes {
		if dir := pod.Spec.Volumes[i].EmptyDir; dir != nil && dir.SizeLimit != nil {
			return true
		}
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if _, limited := list[i].Resources.Limits[corev1.ResourceEphemeralStorage]; limited {
				return true
			}
		}
	}
	return false
}
