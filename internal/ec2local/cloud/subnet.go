package cloud

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/elotl/kip/v2/internal/ec2local/query"
)

// EC2's bounds of a subnet's size, as prefix lengths.
const (
	largestSubnet  = 16
	smallestSubnet = 28
)

// Subnet returns a subnet by its ID; the zero Subnet if there is none.
func (c *Cloud) Subnet(id string) Subnet {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.subnet(id)
}

// subnet does the same while c.mu is held.
func (c *Cloud) subnet(id string) Subnet {
	for _, s := range c.world.Subnets {
		if s.ID == id {
			return s
		}
	}
	return Subnet{}
}

// CreateSubnet makes a subnet in a zone, given by name or ID; without one it is the first zone.
func (c *Cloud) CreateSubnet(cidr netip.Prefix, zone string, tags Tags, dryRun bool) (Subnet, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, err := c.zoneOf(zone)
	if err != nil {
		return Subnet{}, err
	}
	cidr = cidr.Masked() // EC2 drops host bits silently
	vpc := c.world.VPC.CIDR
	if cidr.Bits() < max(largestSubnet, vpc.Bits()) || cidr.Bits() > smallestSubnet || !vpc.Contains(cidr.Addr()) {
		return Subnet{}, query.Errorf("InvalidSubnet.Range", "The CIDR '%s' is invalid.", cidr)
	}
	for _, other := range c.world.Subnets {
		if other.CIDR.Overlaps(cidr) {
			return Subnet{}, query.Errorf("InvalidSubnet.Conflict", "The CIDR '%s' conflicts with another subnet", cidr)
		}
	}
	if hostBlock(vpc).Overlaps(cidr) {
		return Subnet{}, query.Errorf("InvalidSubnet.Conflict", "The CIDR '%s' conflicts with %s, where the host of this "+
			"ec2local is", cidr, hostBlock(vpc))
	}
	if dryRun {
		return Subnet{}, ErrDryRun()
	}
	id, err := c.newID("subnet")
	if err != nil {
		return Subnet{}, err
	}
	s := Subnet{ID: id, Zone: at.Name, ZoneID: at.ID, CIDR: cidr}
	return s, c.changeWorld(func(w *World) {
		w.Subnets = append(slices.Clone(w.Subnets), s)
		w.Tags = maps.Clone(w.Tags)
		w.Tags[id] = tags
	})
}

// hostBlock is the part of the VPC that the network needs for itself: its last 256 addresses.
func hostBlock(vpc netip.Prefix) netip.Prefix {
	return netip.PrefixFrom(addrAt(vpc, 1<<(32-vpc.Bits())-256), 24)
}

func (c *Cloud) zoneOf(zone string) (Zone, error) {
	zones := c.Zones()
	if zone == "" {
		return zones[0], nil
	}
	i := slices.IndexFunc(zones, func(z Zone) bool { return z.Name == zone || z.ID == zone })
	if i < 0 {
		return Zone{}, query.Errorf("InvalidParameterValue", "Value (%s) for parameter availabilityZone is invalid. "+
			"Subnets can currently only be created in the following availability zones: %s.", zone, strings.Join(c.cfg.Zones, ", "))
	}
	return zones[i], nil
}

// DeleteSubnet removes a subnet without instances, and its association with a route table.
func (c *Cloud) DeleteSubnet(id string, dryRun bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.subnet(id).ID == "" {
		return NotFound("subnet", id)
	}
	for _, i := range c.instances {
		if i.HasMachine() && i.Interface.SubnetID == id {
			return query.Errorf("DependencyViolation", "The subnet '%s' has dependencies and cannot be deleted.", id)
		}
	}
	if dryRun {
		return ErrDryRun()
	}
	return c.changeWorld(func(w *World) {
		w.Subnets = slices.DeleteFunc(slices.Clone(w.Subnets), func(s Subnet) bool { return s.ID == id })
		w.RouteTables = maps.Clone(w.RouteTables)
		for _, t := range w.RouteTables {
			for association, subnet := range t.Subnets {
				if subnet == id {
					t.Subnets = without(t.Subnets, association)
					w.RouteTables[t.ID] = t
				}
			}
		}
		w.dropTags(id)
	})
}
