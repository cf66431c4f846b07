package podmetrics

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	statsv1alpha1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// ownStats finds the pod in the kubelet's stats and leaves of them what can be
// true: its containers and volumes are those of its specification.
func ownStats(raw json.RawMessage, pod *corev1.Pod) (*statsv1alpha1.PodStats, error) {
	var all []statsv1alpha1.PodStats
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, fmt.Errorf("reading the kubelet's stats: %w", err)
	}
	own := statsv1alpha1.PodReference{Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID)}
	for i := range all {
		stats := &all[i]
		if stats.PodRef != own {
			continue
		}
		names := containers(&pod.Spec)
		stats.Containers = slices.DeleteFunc(stats.Containers, func(c statsv1alpha1.ContainerStats) bool {
			known := names[c.Name]
			names[c.Name] = false // each once
			return !known
		})
		for i := range stats.Containers {
			stats.Containers[i].UserDefinedMetrics = nil
		}
		stats.VolumeStats = slices.DeleteFunc(stats.VolumeStats, func(v statsv1alpha1.VolumeStats) bool {
			return !slices.ContainsFunc(pod.Spec.Volumes, func(spec corev1.Volume) bool { return spec.Name == v.Name })
		})
		for i := range stats.VolumeStats {
			stats.VolumeStats[i].PVCRef = claim(pod, stats.VolumeStats[i].Name)
		}
		return stats, nil
	}
	return nil, fmt.Errorf("pod %s/%s is not in it", pod.Namespace, pod.Name)
}

func containers(spec *corev1.PodSpec) map[string]bool {
	names := map[string]bool{}
	for i := range spec.Containers {
		names[spec.Containers[i].Name] = true
	}
	for i := range spec.InitContainers {
		names[spec.InitContainers[i].Name] = true
	}
	for i := range spec.EphemeralContainers {
		names[spec.EphemeralContainers[i].Name] = true
	}
	return names
}

// claim is the claim that the pod's volume is, nil if it is none.
func claim(pod *corev1.Pod, volume string) *statsv1alpha1.PVCReference {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		switch {
		case v.Name != volume:
		case v.PersistentVolumeClaim != nil:
			return &statsv1alpha1.PVCReference{Namespace: pod.Namespace, Name: v.PersistentVolumeClaim.ClaimName}
		case v.Ephemeral != nil:
			return &statsv1alpha1.PVCReference{Namespace: pod.Namespace, Name: pod.Name + "-" + v.Name}
		}
	}
	return nil
}

// cpuTime is what the pod used since it began.
func cpuTime(stats *statsv1alpha1.PodStats) time.Duration {
	if stats.CPU == nil {
		return 0
	}
	return time.Duration(value(stats.CPU.UsageCoreNanoSeconds)) //nolint:gosec // what is negative is not added
}

// value is a figure that may be missing.
func value(p *uint64) uint64 {
	if p == nil {
		return 0
	}
	return *p
}
