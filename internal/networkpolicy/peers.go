package networkpolicy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/elotl/kip/v2/internal/networkpolicy/rules"
)

// peers say who belongs to a set.
type peers struct {
	kind rules.Kind

	// Of Addresses and Endpoints: pods that match, in the one namespace, or in
	// all that namespaces selects; nil with no namespace is all there are.
	namespace  string
	namespaces labels.Selector
	pods       labels.Selector

	// ranges are the members of Ranges. Of Endpoints, if bounded, the pods'
	// addresses are within them.
	ranges  []rules.Member
	bounded bool

	// Of Endpoints: the port.
	port portName
}

// everyPod are all pods of the cluster.
var everyPod = peers{kind: rules.Addresses, pods: labels.Everything()}

// at are the peers' endpoints on a port that each of them has under its own
// number.
func (p peers) at(port portName) peers {
	if p.kind == rules.Ranges {
		p.pods, p.bounded = labels.Everything(), true
	}
	p.kind, p.port = rules.Endpoints, port
	return p
}

// setName follows from what is in the set: two policies that mean the same peers
// share one.
func (p peers) setName() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%s\n%s\n%s\n%s %s\n%t", p.kind, p.namespace, canonical(p.namespaces), canonical(p.pods), p.port.protocol, p.port.name, p.bounded)
	for _, r := range p.ranges {
		fmt.Fprintf(&b, "\n%s", r)
	}
	sum := sha256.Sum256([]byte(b.String()))
	return string(p.kind) + "-" + hex.EncodeToString(sum[:8])
}

// canonical is the same for selectors that are the same, whatever order their
// requirements are in.
func canonical(s labels.Selector) string {
	if s == nil {
		return "-"
	}
	requirements, selectable := s.Requirements()
	if !selectable {
		return "nothing"
	}
	var parts []string
	for _, r := range requirements {
		parts = append(parts, r.String())
	}
	slices.Sort(parts)
	return strings.Join(parts, ",")
}

// members are what the pod is in the set, if it belongs to it. known is whether
// there is such a namespace, inNamespace are its labels.
func (p peers) members(pod *pod, inNamespace labels.Set, known bool) []rules.Member {
	switch {
	case p.kind == rules.Ranges, pod.onHost, pod.ended, len(pod.addresses) == 0:
		return nil
	case p.namespace != "" && p.namespace != pod.key.namespace:
		return nil
	case p.namespaces != nil && (!known || !p.namespaces.Matches(inNamespace)):
		return nil
	case !p.pods.Matches(pod.labels):
		return nil
	}
	var out []rules.Member
	for _, a := range pod.addresses {
		if p.bounded && !contains(p.ranges, a) {
			continue
		}
		if p.kind == rules.Addresses {
			out = append(out, rules.Address(a))
			continue
		}
		for _, number := range pod.numbers(p.port) {
			out = append(out, rules.Endpoint(a, number))
		}
	}
	return out
}

func contains(ranges []rules.Member, a netip.Addr) bool {
	return slices.ContainsFunc(ranges, func(r rules.Member) bool { return !a.Less(r.First) && !r.Last.Less(a) })
}
