package vpcnet

import (
	"context"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
	"sigs.k8s.io/knftables"

	"github.com/elotl/kip/v2/internal/ec2local/machine"
)

// The table of the policy. It is made by the first Enforce; until then all that is checked passes.
const (
	policyTable = "kip-policy"
	// Maps by device: the mark that chooses a port's route table, and the chains for what it sends and gets.
	markMap    = "tables"
	egressMap  = "egress"
	ingressMap = "ingress"
)

var _ machine.Network = (*Network)(nil)

// Enforce implements [machine.Network]. The first one replaces the policy of an earlier process as a whole, later ones
// write what has changed.
func (n *Network) Enforce(ctx context.Context, p machine.Policy) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	next, unchecked := render(p), map[string]bool{}
	for _, port := range p.Ports {
		if port.AnyAddress {
			unchecked[port.NIC.Device] = true
		}
	}
	first := n.policy == nil
	n.policy = nil // an error leaves it open what is in force
	if err := n.setUnchecked(ctx, unchecked, first); err != nil {
		return fmt.Errorf("switching source/destination checks: %w", err)
	}
	if err := n.setGroups(ctx, next, first); err != nil {
		return fmt.Errorf("enforcing security groups: %w", err)
	}
	if err := n.setRoutes(p); err != nil {
		return fmt.Errorf("enforcing route tables: %w", err)
	}
	n.policy, n.enforced, n.unchecked = &p, next, unchecked
	return nil
}

// setUnchecked says which devices are not checked. n.mu is held.
func (n *Network) setUnchecked(ctx context.Context, devices map[string]bool, first bool) error {
	return n.locked(tableName, func(nft knftables.Interface) error {
		tx := nft.NewTransaction()
		if first {
			tx.Flush(&knftables.Set{Name: uncheckedSet})
		}
		for device := range n.unchecked {
			if !first && !devices[device] {
				tx.Delete(&knftables.Element{Set: uncheckedSet, Key: []string{device}})
			}
		}
		for device := range devices {
			if first || !n.unchecked[device] {
				tx.Add(&knftables.Element{Set: uncheckedSet, Key: []string{device}})
			}
		}
		return run(ctx, nft, tx)
	})
}

// setGroups writes the policy's table. n.mu is held.
func (n *Network) setGroups(ctx context.Context, next ruleset, first bool) error {
	return n.locked(policyTable, func(nft knftables.Interface) error {
		tx := nft.NewTransaction()
		old := n.enforced
		if first {
			old = newRuleset()
			tx.Add(&knftables.Table{}) // to delete what is not there is an error
			tx.Delete(&knftables.Table{})
			tx.Add(&knftables.Table{})
			tx.Add(&knftables.Map{Name: markMap, Type: "ifname : mark"})
			tx.Add(&knftables.Map{Name: egressMap, Type: "ifname : verdict"})
			tx.Add(&knftables.Map{Name: ingressMap, Type: "ifname : verdict"})
			baseChain(tx, "choose-table", knftables.PreroutingHook, "-290", knftables.AcceptPolicy,
				"meta mark set iifname map @"+markMap)
			// What one of these two accepts goes on to the next.
			baseChain(tx, egressMap, knftables.ForwardHook, "0", knftables.DropPolicy,
				"ct state established,related accept", `iifname "`+hostPeerName+`" accept`, "iifname vmap @"+egressMap)
			baseChain(tx, ingressMap, knftables.ForwardHook, "10", knftables.DropPolicy,
				"ct state established,related accept", `oifname "`+hostPeerName+`" accept`, "oifname vmap @"+ingressMap)
		}
		next.write(tx, old)
		return run(ctx, nft, tx)
	})
}

// run runs a transaction unless there is nothing in it: to start nft costs milliseconds.
func run(ctx context.Context, nft knftables.Interface, tx *knftables.Transaction) error {
	if tx.NumOperations() == 0 {
		return nil
	}
	return nft.Run(ctx, tx)
}

// render turns a policy into nftables' words.
func render(p machine.Policy) ruleset {
	out := newRuleset()
	for _, m := range []string{markMap, egressMap, ingressMap} {
		out.maps[m] = map[string]string{}
	}
	for _, g := range p.Groups {
		out.sets[g.ID] = map[string]bool{}
		out.chains[g.ID+"-in"] = renderRules(g.Ingress, "saddr")
		out.chains[g.ID+"-out"] = renderRules(g.Egress, "daddr")
	}
	out.maps[markMap][hostPeerName] = strconv.Itoa(markOf(p.MainTable))
	for _, port := range p.Ports {
		device := port.NIC.Device
		in, away := "in-"+device, "out-"+device
		out.chains[in], out.chains[away] = nil, nil
		for _, g := range port.Groups {
			out.chains[in] = append(out.chains[in], "jump "+g+"-in")
			out.chains[away] = append(out.chains[away], "jump "+g+"-out")
			for _, a := range addresses(port.NIC) {
				out.sets[g][a.String()] = true
			}
		}
		out.maps[ingressMap][device], out.maps[egressMap][device] = "goto "+in, "goto "+away
		out.maps[markMap][device] = strconv.Itoa(markOf(port.Table))
	}
	return out
}

// renderRules writes rules; peer is the field of the header that the other side is in.
func renderRules(rules []machine.Rule, peer string) []string {
	var out []string
	for _, r := range rules {
		from := ""
		switch {
		case r.Group != "":
			from = "ip " + peer + " @" + r.Group + " "
		case !r.Peer.IsValid():
			continue // it names nobody
		case r.Peer.Bits() > 0:
			from = "ip " + peer + " " + r.Peer.Masked().String() + " "
		}
		out = append(out, from+renderProtocol(r)+"accept")
	}
	return out
}

func renderProtocol(r machine.Rule) string {
	switch r.Protocol {
	case machine.Any:
		return ""
	case unix.IPPROTO_TCP:
		return fmt.Sprintf("tcp dport %d-%d ", r.From, r.To)
	case unix.IPPROTO_UDP:
		return fmt.Sprintf("udp dport %d-%d ", r.From, r.To)
	case unix.IPPROTO_ICMP:
		out := "ip protocol icmp "
		if r.From != machine.Any {
			out = fmt.Sprintf("icmp type %d ", r.From)
			if r.To != machine.Any {
				out += fmt.Sprintf("icmp code %d ", r.To)
			}
		}
		return out
	}
	return fmt.Sprintf("ip protocol %d ", r.Protocol)
}
