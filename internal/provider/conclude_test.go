package provider

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestConclude(t *testing.T) {
	ended := corev1.ContainerStatus{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}
	runs := corev1.ContainerStatus{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
	waits := corev1.ContainerStatus{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}}
	pod := func(change ...func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{Spec: corev1.PodSpec{
			RestartPolicy:  corev1.RestartPolicyNever,
			InitContainers: []corev1.Container{{Name: "init"}},
			Containers:     []corev1.Container{{Name: "a"}, {Name: "b"}},
		}}
		p.Status = corev1.PodStatus{
			Phase:                 corev1.PodRunning,
			Conditions:            []corev1.PodCondition{{Type: corev1.ContainersReady, Status: corev1.ConditionFalse, Reason: "PodCompleted"}},
			InitContainerStatuses: []corev1.ContainerStatus{ended},
			ContainerStatuses:     []corev1.ContainerStatus{ended, ended},
		}
		for _, c := range change {
			c(p)
		}
		return p
	}
	for name, tc := range map[string]struct {
		reason string
		pod    *corev1.Pod
		want   corev1.PodPhase
	}{
		"Completed": {
			reason: "All containers have ended, and the kubelet says that this is the end.",
			pod:    pod(), want: corev1.PodSucceeded,
		},
		"Failed": {
			reason: "The same with a failure.",
			pod:    pod(func(p *corev1.Pod) { p.Status.Conditions[0].Reason = "PodFailed" }), want: corev1.PodFailed,
		},
		"WillRestart": {
			reason: "All containers have ended, but by the pod's policy they run again.",
			pod:    pod(func(p *corev1.Pod) { p.Status.Conditions[0].Reason = "ContainersNotReady" }), want: corev1.PodRunning,
		},
		"OneRuns": {
			reason: "A pod that is being evicted has Failed by the kubelet's decision while its containers still run.",
			pod: pod(func(p *corev1.Pod) {
				p.Status.Conditions[0].Reason = "PodFailed"
				p.Status.ContainerStatuses[1] = runs
			}), want: corev1.PodRunning,
		},
		"OneWaits": {
			reason: "Nothing is known of what a waiting container will do.",
			pod:    pod(func(p *corev1.Pod) { p.Status.ContainerStatuses[1] = waits }), want: corev1.PodRunning,
		},
		"SidecarRuns": {
			reason: "A sidecar ends after the others, with a grace period of its own.",
			pod:    pod(func(p *corev1.Pod) { p.Status.InitContainerStatuses[0] = runs }), want: corev1.PodRunning,
		},
		"Debugged": {
			reason: "Somebody still looks at the pod from inside.",
			pod: pod(func(p *corev1.Pod) {
				p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{}}
				p.Status.EphemeralContainerStatuses = []corev1.ContainerStatus{runs}
			}), want: corev1.PodRunning,
		},
		"StatusIncomplete": {
			reason: "A container without a status may be about to start.",
			pod:    pod(func(p *corev1.Pod) { p.Status.ContainerStatuses = p.Status.ContainerStatuses[:1] }), want: corev1.PodRunning,
		},
		"BeingDeleted": {
			reason: "The end of a deleted pod is the kubelet's final DELETE.",
			pod:    pod(func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} }), want: corev1.PodRunning,
		},
		"AlwaysRestarted": {
			reason: "Containers of such a pod end for good only when the kubelet ends them, for a reason that it has yet to tell.",
			pod:    pod(func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyAlways }), want: corev1.PodRunning,
		},
		"Evicted": {
			reason: "The kubelet wants memory; that the containers ended well is not the whole story.",
			pod: pod(func(p *corev1.Pod) {
				p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue})
			}), want: corev1.PodRunning,
		},
		"LimitedVolume": {
			reason: "It may have been evicted for what it wrote there.",
			pod: pod(func(p *corev1.Pod) {
				p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: resource.NewQuantity(1, resource.BinarySI)}}}}
			}), want: corev1.PodRunning,
		},
		"LimitedContainer": {
			reason: "The same of a container's files.",
			pod: pod(func(p *corev1.Pod) {
				p.Spec.Containers[1].Resources.Limits = corev1.ResourceList{corev1.ResourceEphemeralStorage: *resource.NewQuantity(1, resource.BinarySI)}
			}), want: corev1.PodRunning,
		},
		"NotStarted": {
			reason: "A pod that failed before its containers ran goes the ordinary way.",
			pod:    pod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }), want: corev1.PodPending,
		},
		"NoCondition": {
			reason: "A kubelet that says nothing has decided nothing.",
			pod:    pod(func(p *corev1.Pod) { p.Status.Conditions = nil }), want: corev1.PodRunning,
		},
	} {
		t.Run(name, func(t *testing.T) {
			status := tc.pod.Status.DeepCopy()
			conclude(tc.pod, status)
			if status.Phase != tc.want {
				t.Errorf("%s\nphase %s, want %s", tc.reason, status.Phase, tc.want)
			}
		})
	}
}
