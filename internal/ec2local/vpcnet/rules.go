package vpcnet

import (
	"context"
	"fmt"

	"sigs.k8s.io/knftables"

	"github.com/elotl/kip/v2/internal/ec2local/machine"
)

const (
	tableName = "kip"
	// addressSet holds device . MAC . address of everything that a machine may be.
	addressSet = "addresses"
)

// setUpRules writes the source/destination check. The set keeps its elements, the chains are written anew, all in one
// transaction: at no time do machines go unchecked.
func (n *Network) setUpRules(ctx context.Context) error {
	return n.withRules(ctx, func() error {
		tx := n.rules.NewTransaction()
		tx.Add(&knftables.Table{})
		tx.Add(&knftables.Set{Name: addressSet, Type: "ifname . ether_addr . ipv4_addr"})
		chain := func(name string, hook knftables.BaseChainHook, rules ...string) {
			tx.Add(&knftables.Chain{
				Name:     name,
				Type:     knftables.PtrTo(knftables.FilterType),
				Hook:     knftables.PtrTo(hook),
				Priority: knftables.PtrTo(knftables.BaseChainPriority("-200")),
				Policy:   knftables.PtrTo(knftables.DropPolicy),
			})
			tx.Flush(&knftables.Chain{Name: name})
			for _, r := range rules {
				tx.Add(&knftables.Rule{Chain: name, Rule: r})
			}
		}
		chain("from-machine", knftables.PreroutingHook,
			"ether type ip iifname . ether saddr . ip saddr @"+addressSet+" accept",
			"ether type arp iifname . ether saddr . arp saddr ip @"+addressSet+" iifname . arp saddr ether . arp saddr ip @"+addressSet+" accept",
		)
		// Bridged to a machine, and sent or routed to one by the namespace itself.
		toMachine := []string{
			"ether type ip oifname . ether daddr . ip daddr @" + addressSet + " accept",
			"ether type arp accept",
		}
		chain("to-machine", knftables.ForwardHook, toMachine...)
		chain("from-router", knftables.OutputHook, toMachine...)
		return n.rules.Run(ctx, tx)
	})
}

// allow lets the NIC's traffic, and only that, through.
func (n *Network) allow(ctx context.Context, nic machine.NIC) error {
	return n.withRules(ctx, func() error {
		tx := n.rules.NewTransaction()
		for _, e := range elements(nic) {
			tx.Add(e)
		}
		return n.rules.Run(ctx, tx)
	})
}

// forbid takes back what allow did, if it did.
func (n *Network) forbid(ctx context.Context, nic machine.NIC) error {
	return n.withRules(ctx, func() error {
		tx := n.rules.NewTransaction()
		for _, e := range elements(nic) {
			tx.Add(e) // to delete what is not there is an error, and "destroy" is not known to every nft
			tx.Delete(e)
		}
		return n.rules.Run(ctx, tx)
	})
}

func elements(nic machine.NIC) []*knftables.Element {
	var all []*knftables.Element
	for _, a := range addresses(nic) {
		all = append(all, &knftables.Element{Set: addressSet, Key: []string{nic.Device, nic.MAC, a.String()}})
	}
	return all
}

// withRules runs f inside the namespace with n.rules set, one at a time: nft is a process that is started in there.
func (n *Network) withRules(ctx context.Context, f func() error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return inNamespace(n.ns, func() (err error) {
		if n.rules == nil {
			if n.rules, err = knftables.New(knftables.BridgeFamily, tableName); err != nil {
				return fmt.Errorf("using nftables: %w", err)
			}
		}
		return f()
	})
}
