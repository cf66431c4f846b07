package provider

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/elotl/kip/v2/internal/gateway"
)

// Missing tells who looks at a pod that something it refers to is not there.
// The reasons of Secrets and ConfigMaps are those of virtual-kubelet, whose own
// resolver Kip does not use.
func (p *Provider) Missing(pod *corev1.Pod, m gateway.Missing) {
	secret := m.Kind == "Secret"
	switch {
	case m.Kind == "VolumeAttachment":
		p.Recorder.Eventf(pod, corev1.EventTypeWarning, "VolumeNotAttached",
			"volume %s is mounted when it is attached to the pod's instance; Kip attaches no volumes, and the status of node %s does not say that anybody else has", m.Name, p.NodeName)
	case m.Optional && secret:
		p.Recorder.Eventf(pod, corev1.EventTypeNormal, "OptionalSecretNotFound", "there is no Secret %s; the pod starts without it", m.Name)
	case m.Optional:
		p.Recorder.Eventf(pod, corev1.EventTypeNormal, "OptionalConfigMapNotFound", "there is no ConfigMap %s; the pod starts without it", m.Name)
	case secret:
		p.Recorder.Eventf(pod, corev1.EventTypeWarning, "MandatorySecretNotFound", "there is no Secret %s; the pod waits for it", m.Name)
	default:
		p.Recorder.Eventf(pod, corev1.EventTypeWarning, "MandatoryConfigMapNotFound", "there is no ConfigMap %s; the pod waits for it", m.Name)
	}
}
