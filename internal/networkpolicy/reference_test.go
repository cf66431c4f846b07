package networkpolicy

import (
	"net"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// cluster is what a test's cluster holds.
type cluster struct {
	namespaces []*corev1.Namespace
	pods       []*corev1.Pod
	policies   []*networkingv1.NetworkPolicy
}

// connection is one that somebody wants to open.
type connection struct {
	// egress is from the pod that is asked about to the peer; else it is the
	// other way round.
	egress   bool
	peer     string
	protocol corev1.Protocol
	port     int32
}

// permits is NetworkPolicy's definition, read aloud: slow, and shares nothing
// with what it is compared to.
func (c cluster) permits(pod *corev1.Pod, conn connection) bool {
	if pod.Spec.HostNetwork {
		return true
	}
	isolated := false
	for _, np := range c.policies {
		if np.Namespace != pod.Namespace || !selectorMatches(&np.Spec.PodSelector, pod.Labels) {
			continue
		}
		if conn.egress {
			if !slices.Contains(np.Spec.PolicyTypes, "Egress") && (len(np.Spec.PolicyTypes) > 0 || len(np.Spec.Egress) == 0) {
				continue
			}
			isolated = true
			for _, r := range np.Spec.Egress {
				// Peer and port must be the same pod's, if for a moment two have
				// one address.
				for _, at := range c.podsAt(conn.peer) {
					if c.peerListed(np, r.To, conn.peer, at) && portListed(r.Ports, conn, at) {
						return true
					}
				}
			}
			continue
		}
		if !slices.Contains(np.Spec.PolicyTypes, "Ingress") && len(np.Spec.PolicyTypes) > 0 {
			continue
		}
		isolated = true
		for _, r := range np.Spec.Ingress {
			for _, at := range c.podsAt(conn.peer) {
				if c.peerListed(np, r.From, conn.peer, at) && portListed(r.Ports, conn, pod) {
					return true
				}
			}
		}
	}
	return !isolated
}

// podsAt are the pods whose own address it is; nil stands for none.
func (c cluster) podsAt(address string) (out []*corev1.Pod) {
	for _, p := range c.pods {
		if p.Spec.HostNetwork || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		if slices.Contains(p.Status.PodIPs, corev1.PodIP{IP: address}) {
			out = append(out, p)
		}
	}
	if len(out) == 0 {
		return []*corev1.Pod{nil}
	}
	return out
}

func (c cluster) peerListed(np *networkingv1.NetworkPolicy, peers []networkingv1.NetworkPolicyPeer, address string, p *corev1.Pod) bool {
	if len(peers) == 0 {
		return true
	}
	for _, peer := range peers {
		if peer.IPBlock != nil {
			if inCIDR(peer.IPBlock.CIDR, address) && !slices.ContainsFunc(peer.IPBlock.Except, func(e string) bool { return inCIDR(e, address) }) {
				return true
			}
			continue
		}
		if p == nil {
			continue
		}
		if peer.NamespaceSelector == nil {
			if p.Namespace == np.Namespace && selectorMatches(peer.PodSelector, p.Labels) {
				return true
			}
			continue
		}
		for _, ns := range c.namespaces {
			if ns.Name == p.Namespace && selectorMatches(peer.NamespaceSelector, ns.Labels) &&
				(peer.PodSelector == nil || selectorMatches(peer.PodSelector, p.Labels)) {
				return true
			}
		}
	}
	return false
}

func portListed(ports []networkingv1.NetworkPolicyPort, conn connection, destination *corev1.Pod) bool {
	if len(ports) == 0 {
		return true
	}
	for _, port := range ports {
		protocol := corev1.ProtocolTCP
		if port.Protocol != nil {
			protocol = *port.Protocol
		}
		if protocol != conn.protocol {
			continue
		}
		switch {
		case port.Port == nil:
			return true
		case port.Port.StrVal == "" && port.EndPort == nil:
			if port.Port.IntVal == conn.port {
				return true
			}
		case port.Port.StrVal == "":
			if port.Port.IntVal <= conn.port && conn.port <= *port.EndPort {
				return true
			}
		default:
			if destination == nil {
				continue
			}
			for _, container := range destination.Spec.Containers {
				for _, has := range container.Ports {
					if has.Name == port.Port.StrVal && has.Protocol == protocol && has.ContainerPort == conn.port {
						return true
					}
				}
			}
		}
	}
	return false
}

func inCIDR(cidr, address string) bool {
	_, block, err := net.ParseCIDR(cidr)
	return err == nil && block.Contains(net.ParseIP(address))
}

func selectorMatches(s *metav1.LabelSelector, labels map[string]string) bool {
	if s == nil {
		return false
	}
	for k, v := range s.MatchLabels {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	for _, e := range s.MatchExpressions {
		got, has := labels[e.Key]
		listed := has && slices.Contains(e.Values, got)
		switch e.Operator {
		case metav1.LabelSelectorOpIn:
			if !listed {
				return false
			}
		case metav1.LabelSelectorOpNotIn:
			if listed {
				return false
			}
		case metav1.LabelSelectorOpExists:
			if !has {
				return false
			}
		case metav1.LabelSelectorOpDoesNotExist:
			if has {
				return false
			}
		}
	}
	return true
}
