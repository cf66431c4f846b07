package networkpolicy

import (
	"cmp"
	"slices"

	"github.com/elotl/kip/v2/internal/networkpolicy/rules"
)

// compute works out the rules of a pod, and the sets that they name. Only
// policies that select the pod count; their order does not.
func compute(pod *pod, policies []*policy) (rules.Rules, map[string]peers) {
	var out rules.Rules
	sets := map[string]peers{}
	if pod.onHost {
		return out, sets
	}
	for _, p := range policies {
		if !p.selects(pod) {
			continue
		}
		if p.isolatesIngress {
			out.Ingress.Isolated = true
			for _, r := range p.ingress {
				out.Ingress.Allow = append(out.Ingress.Allow, r.ingress(pod, sets)...)
			}
		}
		if p.isolatesEgress {
			out.Egress.Isolated = true
			for _, r := range p.egress {
				out.Egress.Allow = append(out.Egress.Allow, r.egress(sets)...)
			}
		}
	}
	out.Ingress.Allow, out.Egress.Allow = distinct(out.Ingress.Allow), distinct(out.Egress.Allow)
	return out, sets
}

// ingress is the rule for connections to the pod, by whose own ports the names
// are resolved.
func (r rule) ingress(pod *pod, sets map[string]peers) []rules.Allow {
	ports := slices.Clone(r.ports)
	for _, name := range r.names {
		for _, number := range pod.numbers(name) {
			ports = append(ports, rules.Port{Protocol: name.protocol, First: number, Last: number})
		}
	}
	if len(ports) == 0 && !r.allPorts {
		return nil
	}
	return r.allow(ports, sets)
}

// egress is the rule for connections of the pod. What a port's name means is
// another number for each peer.
func (r rule) egress(sets map[string]peers) []rules.Allow {
	var out []rules.Allow
	if len(r.ports) > 0 || r.allPorts {
		out = r.allow(slices.Clone(r.ports), sets)
	}
	who := r.peers
	if r.everybody {
		who = []peers{everyPod}
	}
	for _, name := range r.names {
		for _, p := range who {
			out = append(out, rules.Allow{
				Peers: use(p.at(name), sets),
				Ports: []rules.Port{{Protocol: name.protocol, First: 0, Last: 1<<16 - 1}},
			})
		}
	}
	return out
}

// allow allows the rule's peers the ports; none is all.
func (r rule) allow(ports []rules.Port, sets map[string]peers) []rules.Allow {
	slices.SortFunc(ports, comparePorts)
	ports = slices.Compact(ports)
	if r.everybody {
		return []rules.Allow{{Ports: ports}}
	}
	var out []rules.Allow
	for _, p := range r.peers {
		out = append(out, rules.Allow{Peers: use(p, sets), Ports: ports})
	}
	return out
}

// use adds a set to those that are needed and returns its name.
func use(p peers, sets map[string]peers) string {
	name := p.setName()
	sets[name] = p
	return name
}

func comparePorts(a, b rules.Port) int {
	return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last))
}

// distinct puts what is allowed in an order that depends on nothing else, so
// that rules that mean the same are the same.
func distinct(allowed []rules.Allow) []rules.Allow {
	slices.SortFunc(allowed, func(a, b rules.Allow) int {
		return cmp.Or(cmp.Compare(a.Peers, b.Peers), slices.CompareFunc(a.Ports, b.Ports, comparePorts))
	})
	return slices.CompactFunc(allowed, func(a, b rules.Allow) bool {
		return a.Peers == b.Peers && slices.Equal(a.Ports, b.Ports)
	})
}
