package cloud

import (
	"net/netip"
)

// Hold takes an address of a subnet for something that is no instance, such as a mount target: the one that is wanted,
// or any if that is invalid. Whoever holds addresses remembers them, and holds them again at the next start.
func (c *Cloud) Hold(subnet string, want netip.Addr) (netip.Addr, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.subnet(subnet)
	if s.ID == "" {
		return netip.Addr{}, NotFound("subnet", subnet)
	}
	taken := map[netip.Addr]bool{}
	if want.IsValid() {
		if err := c.wantAddress(s, want, taken); err != nil {
			return netip.Addr{}, err
		}
	} else {
		found, err := c.takeAddresses(s, 1, taken)
		if err != nil {
			return netip.Addr{}, err
		}
		want = found[0]
	}
	c.held[want] = s.ID
	return want, nil
}

// Release gives an address that was held back.
func (c *Cloud) Release(addr netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.held, addr)
}

// used tells whether somebody has an address. c.mu is held.
func (c *Cloud) used(addr netip.Addr) bool {
	_, instance := c.addresses[addr]
	_, held := c.held[addr]
	return instance || held
}

// SecurityGroups checks that an interface may have these groups; without any it gets the default one.
func (c *Cloud) SecurityGroups(ids []string) ([]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(ids) == 0 {
		return []string{c.defaultGroup().ID}, nil
	}
	return ids, c.checkGroups(ids)
}

// NewID makes an ID for what other services put into the account's network.
func (c *Cloud) NewID(prefix string) (string, error) { return c.newID(prefix) }
