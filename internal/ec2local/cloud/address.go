package cloud

import (
	"net/netip"

	"github.com/elotl/kip/v2/internal/ec2local/query"
)

// reservedAtStart are the addresses at the start of each subnet that no interface gets: the network's own, the
// router's, the name server's and one for the future. The last one, the broadcast address, is not given out either.
const reservedAtStart = 4

// usable is how many addresses of a subnet interfaces can have.
func usable(p netip.Prefix) int { return 1<<(32-p.Bits()) - reservedAtStart - 1 }

// FreeAddresses returns how many addresses each subnet has left, by subnet ID.
func (c *Cloud) FreeAddresses() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[string]int, len(c.world.Subnets))
	for _, s := range c.world.Subnets {
		out[s.ID] = usable(s.CIDR)
	}
	for _, id := range c.addresses {
		out[c.instances[id].Interface.SubnetID]--
	}
	for _, subnet := range c.held {
		out[subnet]--
	}
	return out
}

// takeAddresses finds n free addresses in a subnet and reserves none of them. It goes round, so that an address that
// was just freed is not given to the next instance while others still remember the last one. c.mu is held.
func (c *Cloud) takeAddresses(s Subnet, n int, taken map[netip.Addr]bool) ([]netip.Addr, error) {
	total, at := usable(s.CIDR), c.nextAddress[s.ID]
	var out []netip.Addr
	for tries := 0; tries < total && len(out) < n; tries++ {
		addr := addrAt(s.CIDR, reservedAtStart+at)
		at = (at + 1) % total
		if !c.used(addr) && !taken[addr] {
			out = append(out, addr)
			taken[addr] = true
		}
	}
	if len(out) < n {
		return nil, query.Errorf("InsufficientFreeAddressesInSubnet",
			"There are not enough free addresses in subnet '%s' to satisfy the requested number of instances.", s.ID)
	}
	c.nextAddress[s.ID] = at
	return out, nil
}

// wantAddress checks that an address can be given to a new interface. c.mu is held.
func (c *Cloud) wantAddress(s Subnet, addr netip.Addr, taken map[netip.Addr]bool) error {
	last := addrAt(s.CIDR, reservedAtStart+usable(s.CIDR))
	if !s.CIDR.Contains(addr) || addr.Less(addrAt(s.CIDR, reservedAtStart)) || !addr.Less(last) {
		return query.Errorf("InvalidParameterValue", "Address %s does not fall within the subnet's address range", addr)
	}
	if c.used(addr) || taken[addr] {
		return query.Errorf("InvalidIPAddress.InUse", "Address %s is in use.", addr)
	}
	taken[addr] = true
	return nil
}

// publicNetwork is a range kept for benchmarks of network devices: nothing on the internet has these addresses.
var publicNetwork = netip.MustParsePrefix("198.18.0.0/16")

// publicAddress is the address on paper of an interface with this primary address.
func (c *Cloud) publicAddress(primary netip.Addr) netip.Addr {
	a := primary.As4()
	return addrAt(publicNetwork, int(a[2])<<8|int(a[3]))
}
