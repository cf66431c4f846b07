package vpcnet

import (
	"context"
	"fmt"

	"sigs.k8s.io/knftables"

	"github.com/elotl/kip/v2/internal/ec2local/machine"
)

// The table of the source/destination check, which Attach and Detach keep. What policies say is in a table of its own.
const (
	tableName = "kip"
	// hardwareSet holds device . MAC of every machine, addressSet device . address of everything that it may be, and
	// uncheckedSet the devices of machines that may be anything.
	hardwareSet  = "hardware"
	addressSet   = "addresses"
	uncheckedSet = "unchecked"
)

// setUpRules writes the source/destination check. The sets keep their elements, the chains are written anew, all in one
// transaction: at no time do machines go unchecked.
func (n *Network) setUpRules(ctx context.Context) error {
	return n.withRules(tableName, func(nft knftables.Interface) error {
		tx := nft.NewTransaction()
		tx.Add(&knftables.Table{})
		tx.Add(&knftables.Set{Name: hardwareSet, Type: "ifname . ether_addr"})
		tx.Add(&knftables.Set{Name: addressSet, Type: "ifname . ipv4_addr"})
		tx.Add(&knftables.Set{Name: uncheckedSet, Type: "ifname"})
		baseChain(tx, "from-machine", knftables.PreroutingHook, "-300", knftables.DropPolicy,
			`iifname { "lo", "`+hostPeerName+`" } accept`,
			"iifname . ether saddr != @"+hardwareSet+" drop",
			"iifname . ip saddr @"+addressSet+" accept",
			// A machine that asks for its address has none yet; nothing but DHCP answers.
			"ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept",
			// The metadata service knows machines by their addresses: there nobody may be anything.
			"ip daddr != "+MetadataAddress.Addr().String()+" iifname @"+uncheckedSet+" accept",
		)
		baseChain(tx, "to-machine", knftables.ForwardHook, "-10", knftables.DropPolicy,
			`oifname "`+hostPeerName+`" accept`,
			"oifname . ip daddr @"+addressSet+" accept",
			"oifname @"+uncheckedSet+" accept",
		)
		return nft.Run(ctx, tx)
	})
}

// baseChain writes a chain that packets pass at a hook, in place of what there was under its name.
func baseChain(tx *knftables.Transaction, name string, hook knftables.BaseChainHook, priority knftables.BaseChainPriority,
	policy knftables.BaseChainPolicy, rules ...string) {
	tx.Add(&knftables.Chain{
		Name: name, Type: knftables.PtrTo(knftables.FilterType), Hook: &hook, Priority: &priority, Policy: &policy,
	})
	tx.Flush(&knftables.Chain{Name: name})
	for _, r := range rules {
		tx.Add(&knftables.Rule{Chain: name, Rule: r})
	}
}

// allow lets the NIC's traffic, and only that, through.
func (n *Network) allow(ctx context.Context, nic machine.NIC) error {
	return n.withRules(tableName, func(nft knftables.Interface) error {
		tx := nft.NewTransaction()
		for _, e := range elements(nic) {
			tx.Add(e)
		}
		return nft.Run(ctx, tx)
	})
}

// forbid takes back what allow did, if it did.
func (n *Network) forbid(ctx context.Context, nic machine.NIC) error {
	return n.withRules(tableName, func(nft knftables.Interface) error {
		tx := nft.NewTransaction()
		for _, e := range elements(nic) {
			tx.Add(e) // to delete what is not there is an error, and "destroy" is not known to every nft
			tx.Delete(e)
		}
		return nft.Run(ctx, tx)
	})
}

func elements(nic machine.NIC) []*knftables.Element {
	all := []*knftables.Element{{Set: hardwareSet, Key: []string{nic.Device, nic.MAC}}}
	for _, a := range addresses(nic) {
		all = append(all, &knftables.Element{Set: addressSet, Key: []string{nic.Device, a.String()}})
	}
	return all
}

// withRules runs f inside the namespace with an nftables table, one at a time: nft is a process that is started in
// there.
func (n *Network) withRules(table string, f func(knftables.Interface) error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.locked(table, f)
}

// locked is withRules for those who hold n.mu.
func (n *Network) locked(table string, f func(knftables.Interface) error) error {
	return inNamespace(n.ns, func() (err error) {
		if n.rules[table] == nil {
			if n.rules[table], err = knftables.New(knftables.IPv4Family, table); err != nil {
				return fmt.Errorf("using nftables: %w", err)
			}
		}
		return f(n.rules[table])
	})
}
