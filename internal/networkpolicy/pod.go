package networkpolicy

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/elotl/kip/v2/internal/networkpolicy/rules"
)

type podKey struct{ namespace, name string }

// pod is what policies can know of a pod.
type pod struct {
	key    podKey
	uid    types.UID
	labels labels.Set
	// reported are the IPv4 addresses of the pod's status. addresses are those
	// that count: where Kip launched the pod it knows them, and better.
	reported, addresses []netip.Addr
	// onHost means that its addresses are its node's: no selector of pods means
	// it, and no policy is about it.
	onHost bool
	// ended means that its addresses are another's, or nobody's.
	ended bool
	ports []containerPort
}

type containerPort struct {
	portName
	number uint16
}

func newPod(p *corev1.Pod) *pod {
	next := &pod{
		key: podKey{p.Namespace, p.Name}, uid: p.UID, labels: p.Labels,
		onHost: p.Spec.HostNetwork,
		ended:  p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed,
	}
	for _, ip := range p.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil && a.Is4() {
			next.reported = append(next.reported, a)
		}
	}
	containers := slices.Clone(p.Spec.Containers)
	for _, c := range p.Spec.InitContainers {
		// A sidecar listens as long as the pod lives.
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			containers = append(containers, c)
		}
	}
	for _, c := range containers {
		for _, port := range c.Ports {
			if port.Name == "" {
				continue
			}
			protocol := rules.Protocol(port.Protocol)
			if protocol == "" {
				protocol = rules.TCP
			}
			next.ports = append(next.ports, containerPort{
				portName{port.Name, protocol}, uint16(port.ContainerPort),
			})
		}
	}
	return next
}

// trim takes from a pod all that newPod does not look at, so that a list of all
// pods of a cluster is a small one.
func trim(o any) (any, error) {
	p, ok := o.(*corev1.Pod)
	if !ok {
		return o, nil
	}
	ports := func(containers []corev1.Container) []corev1.Container {
		var out []corev1.Container
		for _, c := range containers {
			if slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool { return p.Name != "" }) {
				out = append(out, corev1.Container{Ports: c.Ports, RestartPolicy: c.RestartPolicy})
			}
		}
		return out
	}
	trimmed := &corev1.Pod{}
	trimmed.Namespace, trimmed.Name, trimmed.UID, trimmed.Labels = p.Namespace, p.Name, p.UID, p.Labels
	trimmed.ResourceVersion = p.ResourceVersion // the reflector goes by it
	trimmed.Spec.HostNetwork = p.Spec.HostNetwork
	trimmed.Spec.Containers, trimmed.Spec.InitContainers = ports(p.Spec.Containers), ports(p.Spec.InitContainers)
	trimmed.Status.Phase, trimmed.Status.PodIPs = p.Status.Phase, p.Status.PodIPs
	return trimmed, nil
}

// numbers are the ports that the pod has under the name.
func (p *pod) numbers(name portName) []uint16 {
	var out []uint16
	for _, port := range p.ports {
		if port.portName == name && !slices.Contains(out, port.number) {
			out = append(out, port.number)
		}
	}
	return out
}
