package networkpolicy

import (
	"fmt"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/elotl/kip/v2/internal/networkpolicy/rules"
)

// policy is a NetworkPolicy, understood.
type policy struct {
	namespace, name string
	// pods are those that it is about.
	pods labels.Selector
	// isolates are the directions that it is about. In another it says nothing.
	isolatesIngress, isolatesEgress bool
	ingress, egress                 []rule
}

// rule allows some peers some ports.
type rule struct {
	// everybody means that peers does not matter.
	everybody bool
	peers     []peers
	// allPorts means that ports and names do not matter.
	allPorts bool
	ports    []rules.Port
	names    []portName
}

// portName is a port by name, whose number is a matter of who has it.
type portName struct {
	name     string
	protocol rules.Protocol
}

// newPolicy reads a NetworkPolicy. An error is something that the API server
// does not let in.
func newPolicy(np *networkingv1.NetworkPolicy) (*policy, error) {
	pods, err := metav1.LabelSelectorAsSelector(&np.Spec.PodSelector)
	if err != nil {
		return nil, fmt.Errorf("reading NetworkPolicy %s/%s: podSelector: %w", np.Namespace, np.Name, err)
	}
	p := &policy{namespace: np.Namespace, name: np.Name, pods: pods}
	if len(np.Spec.PolicyTypes) == 0 {
		p.isolatesIngress, p.isolatesEgress = true, len(np.Spec.Egress) > 0
	} else {
		p.isolatesIngress = slices.Contains(np.Spec.PolicyTypes, networkingv1.PolicyTypeIngress)
		p.isolatesEgress = slices.Contains(np.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
	}
	for i, r := range np.Spec.Ingress {
		next, err := newRule(np.Namespace, r.From, r.Ports)
		if err != nil {
			return nil, fmt.Errorf("reading NetworkPolicy %s/%s: ingress %d: %w", np.Namespace, np.Name, i, err)
		}
		p.ingress = append(p.ingress, next)
	}
	for i, r := range np.Spec.Egress {
		next, err := newRule(np.Namespace, r.To, r.Ports)
		if err != nil {
			return nil, fmt.Errorf("reading NetworkPolicy %s/%s: egress %d: %w", np.Namespace, np.Name, i, err)
		}
		p.egress = append(p.egress, next)
	}
	return p, nil
}

// closed is what stands for a policy that cannot be understood: it isolates whom
// it may be about, and allows nothing.
func closed(np *networkingv1.NetworkPolicy) *policy {
	return &policy{namespace: np.Namespace, name: np.Name, pods: labels.Everything(), isolatesIngress: true, isolatesEgress: true}
}

func newRule(namespace string, who []networkingv1.NetworkPolicyPeer, where []networkingv1.NetworkPolicyPort) (rule, error) {
	r := rule{everybody: len(who) == 0, allPorts: len(where) == 0}
	var allowed []rules.Member
	blocks := false
	for _, p := range who {
		if p.IPBlock != nil {
			block, err := blockRanges(p.IPBlock)
			if err != nil {
				return r, err
			}
			allowed, blocks = append(allowed, block...), true
			continue
		}
		selected, err := selectedPeers(namespace, p)
		if err != nil {
			return r, err
		}
		r.peers = append(r.peers, selected)
	}
	if blocks {
		r.peers = append(r.peers, peers{kind: rules.Ranges, ranges: union(allowed)})
	}
	for _, p := range where {
		protocol := rules.TCP
		if p.Protocol != nil {
			protocol = rules.Protocol(*p.Protocol)
		}
		switch {
		case p.Port == nil:
			r.ports = append(r.ports, rules.Port{Protocol: protocol, First: 0, Last: 1<<16 - 1})
		case p.Port.StrVal != "":
			r.names = append(r.names, portName{p.Port.StrVal, protocol})
		default:
			port := rules.Port{Protocol: protocol, First: uint16(p.Port.IntVal), Last: uint16(p.Port.IntVal)}
			if p.EndPort != nil {
				port.Last = uint16(*p.EndPort)
			}
			r.ports = append(r.ports, port)
		}
	}
	return r, nil
}

// selectedPeers are the pods that a peer selects. No selector at all and one
// without requirements differ: with podSelector alone, pods are the policy's own
// namespace's.
func selectedPeers(namespace string, p networkingv1.NetworkPolicyPeer) (peers, error) {
	selected := peers{kind: rules.Addresses, namespace: namespace, pods: labels.Everything()}
	var err error
	if p.PodSelector == nil && p.NamespaceSelector == nil {
		selected.pods = labels.Nothing()
	}
	if p.PodSelector != nil {
		if selected.pods, err = metav1.LabelSelectorAsSelector(p.PodSelector); err != nil {
			return selected, fmt.Errorf("podSelector: %w", err)
		}
	}
	if p.NamespaceSelector != nil {
		selected.namespace = ""
		if selected.namespaces, err = metav1.LabelSelectorAsSelector(p.NamespaceSelector); err != nil {
			return selected, fmt.Errorf("namespaceSelector: %w", err)
		}
	}
	return selected, nil
}

// selects is whether the policy is about the pod.
func (p *policy) selects(pod *pod) bool {
	return p.namespace == pod.key.namespace && p.pods.Matches(pod.labels)
}
