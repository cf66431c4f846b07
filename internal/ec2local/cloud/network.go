package cloud

import (
	"cmp"
	"context"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"sync"

	"github.com/elotl/kip/v2/internal/ec2local/machine"
)

// enforcer is what the cloud remembers of telling the network.
type enforcer struct {
	changed chan struct{} // capacity 1

	mu   sync.Mutex // one at a time
	told int        // the generation that the network knows
}

// networkChanged says that the network has to be told something. c.mu is held, or nobody else knows c yet.
func (c *Cloud) networkChanged() {
	c.generation++
	select {
	case c.net.changed <- struct{}{}:
	default:
	}
}

// keepEnforcing tells the network about every change until ctx ends.
func (c *Cloud) keepEnforcing(ctx context.Context) {
	backoff := minBackoff
	for ctx.Err() == nil {
		err := c.enforce(ctx)
		if err == nil {
			backoff = minBackoff
			select {
			case <-c.net.changed:
			case <-ctx.Done():
			}
			continue
		}
		if ctx.Err() != nil {
			return
		}
		c.cfg.Log.Warn("security groups and routes are not enforced, will try again", "in", backoff, "error", err)
		timer := c.cfg.Clock.NewTimer(backoff)
		select {
		case <-timer.C():
		case <-ctx.Done():
			timer.Stop()
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// enforce tells the network what it does not know yet, and returns when it knows all that was said before the call.
func (c *Cloud) enforce(ctx context.Context) error {
	if c.cfg.Network == nil {
		return nil
	}
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	c.mu.Lock()
	generation := c.generation
	if generation == c.net.told {
		c.mu.Unlock()
		return nil
	}
	p := c.policy()
	c.mu.Unlock()
	if err := c.cfg.Network.Enforce(ctx, p); err != nil {
		return err
	}
	c.net.told = generation
	return nil
}

// policy is what the records say of traffic. c.mu is held.
func (c *Cloud) policy() machine.Policy {
	main := c.world.mainTable()
	p := machine.Policy{MainTable: main.Seq}
	tables := map[string]int{} // by subnet, if it is not the main one
	devices := map[string]string{}
	for _, i := range c.instances {
		if i.HasMachine() {
			devices[i.Interface.ID] = device(i.ID)
		}
	}
	for _, t := range c.world.RouteTables {
		for _, subnet := range t.Subnets {
			tables[subnet] = t.Seq
		}
		routes := map[netip.Prefix]string{}
		for destination, to := range t.Routes {
			if d, ok := devices[to.InterfaceID]; ok {
				routes[destination] = d
			}
		}
		p.Tables = append(p.Tables, machine.RouteTable{Number: t.Seq, Routes: routes})
	}
	for _, id := range slices.Sorted(maps.Keys(c.world.SecurityGroups)) {
		g := c.world.SecurityGroups[id]
		p.Groups = append(p.Groups, machine.Group{ID: id, Ingress: policyRules(g.Ingress), Egress: policyRules(g.Egress)})
	}
	for _, i := range c.instances {
		if !i.HasMachine() {
			continue
		}
		table, ok := tables[i.Interface.SubnetID]
		if !ok {
			table = main.Seq
		}
		p.Ports = append(p.Ports, machine.Port{
			NIC: i.nic(c.subnet(i.Interface.SubnetID)), Groups: i.Interface.Groups,
			AnyAddress: !i.Interface.SourceDestCheck, Table: table,
		})
	}
	slices.SortFunc(p.Ports, func(x, y machine.Port) int { return cmp.Compare(x.NIC.Device, y.NIC.Device) })
	return p
}

// protocolNumbers are the protocols that rules have a name for. ICMPv6 is left out, with all of IPv6.
var protocolNumbers = map[string]int{"-1": machine.Any, "icmp": 1, "tcp": 6, "udp": 17}

// policyRules are rules as the network understands them: those for IPv4.
func policyRules(rules []Rule) []machine.Rule {
	var out []machine.Rule
	for _, r := range rules {
		number, ok := protocolNumbers[r.Protocol]
		if !ok {
			var err error
			if number, err = strconv.Atoi(r.Protocol); err != nil {
				continue
			}
		}
		rule := machine.Rule{Protocol: number, From: machine.Any, To: machine.Any, Group: r.Source.GroupID}
		if r.FromPort != nil && r.ToPort != nil {
			rule.From, rule.To = *r.FromPort, *r.ToPort
		}
		if rule.Group == "" {
			var err error
			if rule.Peer, err = netip.ParsePrefix(r.Source.CIDR); err != nil {
				continue // of IPv6
			}
		}
		out = append(out, rule)
	}
	return out
}
