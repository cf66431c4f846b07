package vpcnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/elotl/kip/v2/internal/ec2local/machine"
)

// Route tables are the kernel's own, chosen by the mark that rules put on a packet when it comes from a port. Each has
// the routes of the policy and one that sends the VPC's addresses back to the main table, where the machines are: a
// longer prefix is preferred to it, a shorter one is not.

// firstMark is the mark and the kernel's number of table 0; the kernel uses some below.
const firstMark = 1000

// tablePriority is that of the rules that choose a table: before the main one.
const tablePriority = 1000

func markOf(table int) int { return firstMark + table }

// setRoutes makes the kernel's tables those of the policy. n.mu is held.
func (n *Network) setRoutes(p machine.Policy) error {
	ports := map[string]machine.NIC{}
	for _, port := range p.Ports {
		ports[port.NIC.Device] = port.NIC
	}
	wanted := map[int]bool{}
	for _, t := range p.Tables {
		wanted[markOf(t.Number)] = true
		if err := n.setTable(markOf(t.Number), t.Routes, ports); err != nil {
			return err
		}
	}
	rules, err := n.links.RuleList(unix.AF_INET)
	if err != nil {
		return fmt.Errorf("listing the rules that choose tables: %w", err)
	}
	for _, r := range rules {
		switch {
		case r.Priority != tablePriority:
		case wanted[int(r.Mark)]:
			delete(wanted, int(r.Mark))
		default:
			if err := errors.Join(n.setTable(r.Table, nil, nil), n.links.RuleDel(&r)); err != nil {
				return fmt.Errorf("removing table %d: %w", r.Table, err)
			}
		}
	}
	for mark := range wanted {
		rule := netlink.NewRule()
		rule.Family, rule.Priority, rule.Mark, rule.Table = unix.AF_INET, tablePriority, uint32(mark), mark
		if err := n.links.RuleAdd(rule); err != nil {
			return fmt.Errorf("adding a rule that chooses table %d: %w", mark, err)
		}
	}
	return nil
}

// setTable makes a table's routes those given, as far as their devices exist. A table with no ports is emptied.
func (n *Network) setTable(table int, routes map[netip.Prefix]string, ports map[string]machine.NIC) error {
	wanted := map[string]*netlink.Route{}
	if ports != nil {
		dst := ipNet(n.config.CIDR)
		wanted[dst.String()] = &netlink.Route{Table: table, Dst: dst, Type: unix.RTN_THROW}
	}
	for destination, device := range routes {
		link, err := n.links.LinkByName(device)
		var notFound netlink.LinkNotFoundError
		switch {
		case errors.As(err, &notFound):
			continue
		case err != nil:
			return fmt.Errorf("finding %s: %w", device, err)
		}
		dst := ipNet(destination)
		wanted[dst.String()] = &netlink.Route{
			Table: table, Dst: dst, Type: unix.RTN_UNICAST, LinkIndex: link.Attrs().Index,
			Gw: net.IP(ports[device].PrimaryIP.Addr().AsSlice()), Flags: int(netlink.FLAG_ONLINK),
		}
	}
	have, err := n.links.RouteListFiltered(unix.AF_INET, &netlink.Route{Table: table}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return fmt.Errorf("listing the routes of table %d: %w", table, err)
	}
	for _, r := range have {
		want, ok := wanted[r.Dst.String()]
		if ok && want.LinkIndex == r.LinkIndex && want.Gw.Equal(r.Gw) && want.Type == r.Type {
			delete(wanted, r.Dst.String())
			continue
		}
		if err := n.links.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("removing the route to %s: %w", r.Dst, err)
		}
	}
	for _, r := range wanted {
		if err := n.links.RouteReplace(r); err != nil {
			return fmt.Errorf("leading %s to a machine: %w", r.Dst, err)
		}
	}
	return nil
}
